"""What an initiator's own test matrices are made of, where the manifest wants other than seeded ones (meeting.omega)."""

from collections.abc import Callable, Sequence

from torch import Tensor

from lowcomm_node.algo.correction import Correction, right_factors
from lowcomm_node.algo.omega import main_directions
from lowcomm_node.core.messages import StreamPlan
from lowcomm_node.units import Omega, Stream

__all__ = ["Directions"]


class Directions:
    """Remembers per stream what the next offer's bases follow from, and only if the manifest asks for it.

    cached: the row spaces of the newest correction of each tensor, n x r. displacement: a copy of the whole stream as the last
    meeting left it. Nothing before the first meeting, when offers are filled up with seeded columns.
    """

    def __init__(self, omega: Omega, look: Callable[[Stream], Sequence[Tensor]]) -> None:
        """``look`` gives a stream as meetings see it, now."""
        self._omega = omega
        self._look = look
        self._cached: dict[Stream, tuple[Tensor | None, ...]] = {}
        self._left_at: dict[Stream, list[Tensor]] = {}

    def bases(self, plan: StreamPlan, seed: bytes) -> tuple[Tensor | None, ...] | None:
        """Per tensor of an own plan a test matrix n x c, or None where there is none; None for a plan of seeded ones."""
        if plan.omega is Omega.SEEDED:
            return None
        nothing: tuple[Tensor | None, ...] = (None,) * len(plan.ranks)
        if plan.omega is Omega.CACHED:
            return self._cached.get(plan.stream, nothing)
        left_at = self._left_at.get(plan.stream)
        if left_at is None:
            return nothing
        moved = [now - then for now, then in zip(self._look(plan.stream), left_at, strict=True)]
        return main_directions(moved, plan.ranks, seed)

    def corrected(self, stream: Stream, correction: Correction) -> None:
        """This correction has just been applied to the stream."""
        if self._omega is Omega.CACHED:
            found = right_factors(correction)
            known = self._cached.get(stream, found)
            self._cached[stream] = tuple(new if new is not None else old for new, old in zip(found, known, strict=True))
        elif self._omega is Omega.DISPLACEMENT:
            self._left_at[stream] = [tensor.clone() for tensor in self._look(stream)]

    def forget(self) -> None:
        """The state was replaced."""
        self._cached.clear()
        self._left_at.clear()
