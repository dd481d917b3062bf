"""When may this node use its owner's line for the run? Quiet hours, and a month's bytes that have to last for the month."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Allowance", "LineState"]

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
        for begin, end in self.quiet_hours:
            is_within = begin <= minute_of_day < end if begin < end else not end <= minute_of_day < begin
            if is_within:
                return LineState.QUIET
        due = min(1.0, month_share + _HEAD_START) * self.month_bytes
        if self.month_bytes and used_bytes >= due:
            return LineState.SAVING
        return LineState.OPEN
