"""When may this node use its owner's line for the run? Quiet hours, and a month's bytes that have to last for the month."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Allowance", "LineState"]

_DAY_MIN = 24 * 60
_HEAD_START = 1 / 30
"""A day's share: what may be used ahead of time."""


class LineState(StrEnum):
    """May meetings and downloads use the line?"""

    OPEN = "open"
    QUIET = "quiet"
    """These are hours in which the owner wants the line for himself."""
    SAVING = "saving"
    """The month's bytes are used faster than the month goes by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What the owner allows. All times are local, because the owner's evening and his contract's month are."""

    quiet_hours: tuple[tuple[int, int], ...] = ()
    """As ``settings.hours.parse_hours`` gives them."""
    month_bytes: float = 0.0
    """Sent and received together; 0 is no limit."""

    def line_state(self, *, minute_of_day: int, used_bytes: float, month_share: float) -> LineState:
        """May the line be used now?

        Args:
            minute_of_day: minutes since midnight.
            used_bytes: sent and received since the month began.
            month_share: in [0, 1], how much of the month is over.

        A budget is spent evenly, a day's worth ahead at most. So meetings become rarer, never less than the budget
        pays for: the period stretches by itself.
        """
        if self._span(minute_of_day) is not None:
            return LineState.QUIET
        due = min(1.0, month_share + _HEAD_START) * self.month_bytes
        if self.month_bytes and used_bytes >= due:
            return LineState.SAVING
        return LineState.OPEN

    def quiet_for_min(self, minute_of_day: int) -> int:
        """Minutes until the quiet hours of this minute end, one span after the other; a whole day at most, 0 when there are none."""
        minutes = 0
        while minutes < _DAY_MIN and (span := self._span((minute_of_day + minutes) % _DAY_MIN)) is not None:
            minutes += (span[1] - minute_of_day - minutes) % _DAY_MIN or _DAY_MIN
        return min(minutes, _DAY_MIN)

    def saves_until(self, used_bytes: float) -> float:
        """The share of the month, 1 at most, from which on these bytes are within the budget."""
        return min(1.0, used_bytes / self.month_bytes - _HEAD_START) if self.month_bytes else 0.0

    def _span(self, minute_of_day: int) -> tuple[int, int] | None:
        """The quiet hours in which this minute lies."""
        for begin, end in self.quiet_hours:
            if begin <= minute_of_day < end if begin < end else not end <= minute_of_day < begin:
                return begin, end
        return None
