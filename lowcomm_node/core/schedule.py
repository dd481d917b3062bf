"""When is which stream due? DES-LOC's independent periods, counted in own steps and drawn around their mean."""

from collections.abc import Mapping

from lowcomm_node.core.chance import Chance
from lowcomm_node.units import Stream

__all__ = ["ExchangeSchedule"]


class ExchangeSchedule:
    """Due times per stream.

    The gap between two meetings of a stream with period K is uniform on K/2 .. 3K/2 own steps: the mean is K, and
    nodes that started together do not stay in step and all look for a partner at once. A period of 0 is never.
    DES-LOC (2505.22549) analyses the same thing as "with probability 1/K".
    """

    def __init__(self, periods: Mapping[Stream, int], chance: Chance) -> None:
        self._periods = {stream: period for stream, period in periods.items() if period > 0}
        self._chance = chance
        self._due_at: dict[Stream, int] = {}
        self._steps = 0

    def due(self, steps: int) -> tuple[Stream, ...]:
        """Streams whose time has come after ``steps`` own steps.

        A smaller number than before is a new count: the trainer has taken over another state.
        """
        if steps < self._steps:
            self._due_at.clear()
        self._steps = steps
        for stream in self._periods:
            if stream not in self._due_at:
                self._draw(stream, steps)
        return tuple(stream for stream, at in self._due_at.items() if at <= steps)

    def met(self, streams: tuple[Stream, ...], steps: int) -> None:
        """These streams had their turn, whatever came of it: a skipped meeting loses nothing, the difference stays."""
        for stream in streams:
            self._draw(stream, steps)

    def _draw(self, stream: Stream, steps: int) -> None:
        period = self._periods[stream]
        low = (period + 1) // 2
        self._due_at[stream] = steps + low + self._chance.below(period + period // 2 - low + 1)
