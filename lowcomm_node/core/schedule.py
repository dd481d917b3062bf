"""When is which stream due? DES-LOC's independent periods, counted in own steps and drawn around their mean."""

import math
from collections.abc import Collection, Mapping
from enum import StrEnum

from lowcomm_node.core.chance import Chance
from lowcomm_node.units import Stream

__all__ = ["ExchangeSchedule", "Timing"]


class Timing(StrEnum):
    """How the gap between two meetings of a stream is drawn; its mean is always the period."""

    UNIFORM = "uniform"
    """On K/2 .. 3K/2 own steps."""
    BERNOULLI = "bernoulli"
    """Each step with probability 1/K, so that gaps are geometric: what DES-LOC's proofs assume (2505.22549, Algorithms 4 and 5)."""


class ExchangeSchedule:
    """Due times per stream, from periods K in own steps; a period of 0 is never.

    Gaps vary so that nodes that started together do not stay in step and all look for a partner at once.
    """

    def __init__(self, periods: Mapping[Stream, int], chance: Chance, timing: Timing = Timing.UNIFORM) -> None:
        self._timing = timing
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
        """These streams have their turn."""
        for stream in streams:
            self._draw(stream, steps)

    def missed(self, streams: Collection[Stream], steps: int) -> None:
        """Nothing came of their turn: the next one comes sooner, after at most the shortest gap of regular ones.

        The difference stays, but so it does with everybody while many cannot be met, and replicas that meet half as often learn less
        from as many tokens.
        """
        for stream in streams:
            if stream in self._periods:
                soon = steps + 1 + self._chance.below((self._periods[stream] + 1) // 2)
                self._due_at[stream] = min(soon, self._due_at.get(stream, soon))

    @property
    def due_at(self) -> Mapping[Stream, int]:
        """Own step after which each stream is due, of those for which one is drawn: for a checkpoint."""
        return dict(self._due_at)

    def resume(self, due_at: Mapping[Stream, int]) -> None:
        """The trainer goes on with a state for which these were drawn: a restart shall not put off what is rarely due."""
        self._due_at = {stream: step for stream, step in due_at.items() if stream in self._periods}
        self._steps = 0

    def _draw(self, stream: Stream, steps: int) -> None:
        self._due_at[stream] = steps + self._gap(self._periods[stream])

    def _gap(self, period: int) -> int:
        """Own steps until the next meeting, at least 1."""
        if self._timing is Timing.UNIFORM:
            low = (period + 1) // 2
            return low + self._chance.below(period + period // 2 - low + 1)
        if period == 1:
            return 1
        # The number of trials of probability 1/K up to and with the first success, by inverting its distribution.
        return 1 + int(math.log1p(-self._chance.uniform()) / math.log1p(-1 / period))
