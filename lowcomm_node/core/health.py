"""Is this node's own state still worth meeting with? If not, it is to be replaced by a donor's.

Two things say no. Steps whose loss or gradient is not finite, several in a row: nothing that follows will be. And distance:
corrections that are clipped hard, or many times as long as this node's have been, with one partner after the other. Each
partner has one vote, its newest, so that a hostile one, or a few, cannot send this node to heal: what is far from nearly
everybody is far itself. Where fewer than three others have state to compare with, distance says nothing.
"""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Sequence
from functools import partial
from statistics import median

from lowcomm_node.core.commands import GiveUp, Heal, HealReason
from lowcomm_node.units import PeerId, Stream

__all__ = ["Health"]

_NONFINITE_STEPS = 5
_VOTERS = 8
"""Of the newest partners, or of as many as there are in a small swarm, at least ..."""
_FEWEST_VOTERS = 3
_FAR_PER_NEAR = 7
"""... this many must find us far for each that does not: with a fifth of all nodes hostile, 8 votes say so once in 10,000."""
_CLIPPED_RATIO = 8.0
"""Times the median of whoever clips. Honest differences that grow with the square of time are twice the median of the clip norms."""
_FAR_RATIO = 16.0
"""Times the median of our own corrections. The newest of a growth with the square of time is 4 times that of all before."""
_MEMORY = 64
_FEWEST_SEEN = 16
_FIRST_INTERVAL_S = 60.0
_LONGEST_INTERVAL_S = 3600.0
_FORGIVEN_AFTER_S = 3600.0
_MAX_HEALS = 5


class Health:
    """Watches one node. All times are on the clock of the events' ``now``."""

    def __init__(self, clip_ratio: float) -> None:
        """``clip_ratio`` as the manifest has it: what a scale means depends on it."""
        self._hard_scale = clip_ratio / _CLIPPED_RATIO
        self.unwell: HealReason | None = None
        """Why this node should meet nobody before it has healed."""
        self.unwell_since = 0.0
        self._steps: tuple[int, int] | None = None
        self._nonfinite_in_a_row = 0
        self._seen: defaultdict[tuple[Stream, bool], deque[float]] = defaultdict(partial(deque, maxlen=_MEMORY))
        self._votes: OrderedDict[PeerId, HealReason | None] = OrderedDict()
        self._num_heals = 0
        """Since the last long time without one."""
        self._healed_at = 0.0
        self._has_given_up = False

    def stepped(self, steps: int, nonfinite_steps: int, now: float) -> None:
        """Own steps so far, and how many of them were not finite. Smaller numbers than before are a new count."""
        before, self._steps = self._steps, (steps, nonfinite_steps)
        if before is None or steps < before[0] or nonfinite_steps < before[1]:
            self._nonfinite_in_a_row = 0
            return
        new, bad = steps - before[0], nonfinite_steps - before[1]
        if new > 0:
            self._nonfinite_in_a_row = self._nonfinite_in_a_row + bad if bad >= new else 0
        if self._nonfinite_in_a_row >= _NONFINITE_STEPS:
            self._fell_ill(HealReason.NONFINITE, now)

    def corrected(
        self,
        peer: PeerId,
        *,
        is_dense: bool,
        norms: Sequence[tuple[Stream, float]],
        scales: Sequence[tuple[Stream, float]],
        num_others: int,
        now: float,
    ) -> None:
        """A correction was applied that came of a meeting with ``peer``.

        Args:
            peer: whose vote this is.
            is_dense: whole tensors were compared, which show more of a difference than low rank does.
            norms: |C| for each stream, before clipping.
            scales: s for each stream.
            num_others: members that have state to meet with, as far as is known.
            now: the time.
        """
        scale_of = dict(scales)
        vote: HealReason | None = None
        for stream, norm in norms:
            seen = self._seen[stream, is_dense]
            is_known = len(seen) >= _FEWEST_SEEN
            # The first whole tensors are measured by bounds of another codec, at both ends.
            scale = scale_of.get(stream, 1.0)
            if scale < 1.0 and scale <= self._hard_scale and (is_known or not is_dense):
                vote = HealReason.CLIPPED
            elif is_known and norm > _FAR_RATIO * median(seen):
                vote = vote or HealReason.FAR
            if norm > 0.0:
                seen.append(norm)
        self._votes.pop(peer, None)
        self._votes[peer] = vote
        if len(self._votes) > _VOTERS:
            self._votes.popitem(last=False)
        far = [found for found in self._votes.values() if found is not None]
        near = len(self._votes) - len(far)
        needed = max(_FEWEST_VOTERS, min(_VOTERS, num_others))
        if vote is not None and len(self._votes) >= needed and near * _FAR_PER_NEAR <= len(far):
            self._fell_ill(vote, now)

    def cure(self, now: float) -> Heal | GiveUp | None:
        """What is to be done about being unwell, now; once for each illness. None: nothing, or not yet."""
        if self.unwell is None or self._has_given_up:
            return None
        if self._num_heals and now - self._healed_at > _FORGIVEN_AFTER_S:
            self._num_heals = 0
        if self._num_heals >= _MAX_HEALS:
            self._has_given_up = True
            return GiveUp(reason=self.unwell, num_heals=self._num_heals)
        if self._num_heals:
            interval_s = min(_LONGEST_INTERVAL_S, _FIRST_INTERVAL_S * 2.0 ** (self._num_heals - 1))
            if now - self._healed_at < interval_s:
                return None
        self._num_heals += 1
        return Heal(reason=self.unwell)

    def state_replaced(self, now: float) -> None:
        """A state is in place, of whatever origin: what was found of the one before counts no more."""
        if self.unwell is not None:
            self._healed_at = now
        self.unwell = None
        self._steps = None
        self._nonfinite_in_a_row = 0
        self._votes.clear()

    def _fell_ill(self, reason: HealReason, now: float) -> None:
        if self.unwell is None:
            self.unwell, self.unwell_since = reason, now
