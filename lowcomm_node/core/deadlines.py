"""How long is each wait of a meeting worth? Learnt from the waits there were: median + k * MAD, bounded on both sides.

What is measured, and limited, is silence: seconds without a sign of life from whoever is waited for. Bytes that arrive are
one, so a large payload on a slow line is not cut off while it moves, and a partner that freezes is noticed as soon in the
middle of it as before. Whole tensors take longer to encode than what a byte budget leaves, so dense meetings are kept apart.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median

from lowcomm_node.core.places import Fullness
from lowcomm_node.units import PeerId

__all__ = ["Deadline", "Deadlines", "Silence", "Wait"]

_MEMORY = 32
_FEWEST = 8
"""Waits before they are believed; until then the longest deadline holds."""
_SPREADS = 8.0
_LEAST_SPREAD = 1 / 8
"""Of the median: equal waits have a MAD of 0, and the next one is a little longer."""
_ROOMY = 4.0
"""A wait that took less than this part of its deadline shows that the doublings are not needed."""
_MAX_SLOW_PEERS = 256


class Wait(StrEnum):
    """What a meeting waits for: first our own trainer, then the partner."""

    OFFER_ENCODED = "offer_encoded"
    ANSWER_ENCODED = "answer_encoded"
    CLOSE_ENCODED = "close_encoded"
    ANSWER = "answer"
    CLOSE = "close"
    VERDICT = "verdict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """One deadline as it stands, for people."""

    wait: Wait
    is_dense: bool
    limit_s: float
    num_seen: int
    """Waits it rests on."""


@dataclass(slots=True)
class Silence:
    """Of one wait: since when nothing was heard, and the longest such time before."""

    since: float
    _longest_s: float = 0.0

    def end(self, now: float) -> None:
        """A sign of life."""
        self._longest_s = self.longest_s(now)
        self.since = now

    def longest_s(self, now: float) -> float:
        return max(self._longest_s, now - self.since)


@dataclass(slots=True)
class _Window:
    seen: deque[float] = field(default_factory=lambda: deque(maxlen=_MEMORY))
    doublings: int = 0
    usual_s: float | None = None
    """median + k * MAD; None before enough was seen."""

    def observe(self, silence_s: float) -> None:
        self.seen.append(silence_s)
        if len(self.seen) >= _FEWEST:
            middle = median(self.seen)
            spread = max(median([abs(seen - middle) for seen in self.seen]), _LEAST_SPREAD * middle)
            self.usual_s = middle + _SPREADS * spread


class Deadlines:
    """The deadlines of one node.

    A wait that is cut off tells only that it would have been longer. Medians of such numbers never get beyond the deadline
    that cut them, and a line or a swarm that becomes ten times slower would lock this node out for good. So each one also
    doubles the deadline, of its kind and of the partner: a slow partner among fast ones gets its time too.
    """

    def __init__(self, *, shortest_s: float, longest_s: float) -> None:
        """Both bound them all; the shortest gives way where it is the longer one."""
        self._longest_s = longest_s
        self._shortest_s = min(shortest_s, longest_s)
        self._windows: dict[tuple[Wait, bool], _Window] = {}
        self._slow: OrderedDict[PeerId, int] = OrderedDict()

    @property
    def fullness(self) -> Fullness:
        """Of partners that are known to be slow."""
        return Fullness(len(self._slow), _MAX_SLOW_PEERS)

    def limit_s(self, wait: Wait, is_dense: bool, peer: PeerId | None = None) -> float:
        """Seconds of silence after which this wait is given up; ``peer`` where it is a partner that is waited for."""
        window = self._windows.get((wait, is_dense))
        if window is None or window.usual_s is None:
            return self._longest_s
        doublings = max(window.doublings, self._slow.get(peer, 0) if peer is not None else 0)
        return min(self._longest_s, max(self._shortest_s, window.usual_s) * 2.0**doublings)

    def is_late(self, wait: Wait, is_dense: bool, silence_s: float, peer: PeerId) -> bool:
        """Is the partner silent for longer than usual, be it too early to give up? Before enough was seen, for the shortest deadline."""
        window = self._windows.get((wait, is_dense))
        usual_s = self._shortest_s if window is None or window.usual_s is None else window.usual_s
        return silence_s > usual_s * 2.0 ** self._slow.get(peer, 0)

    def kept(self, wait: Wait, is_dense: bool, silence_s: float, peer: PeerId | None = None) -> None:
        """What was waited for has come, after at most ``silence_s`` of silence."""
        is_roomy = _ROOMY * silence_s <= self.limit_s(wait, is_dense, peer)
        window = self._observe(wait, is_dense, silence_s)
        if is_roomy:
            window.doublings = max(0, window.doublings - 1)
            self._set_slow(peer, -1)

    def missed(self, wait: Wait, is_dense: bool, silence_s: float, peer: PeerId | None = None) -> None:
        """The wait was given up after ``silence_s`` of silence."""
        can_grow = self.limit_s(wait, is_dense, peer) < self._longest_s
        window = self._observe(wait, is_dense, silence_s)
        if can_grow:
            window.doublings += 1
            self._set_slow(peer, 1)

    def current(self) -> tuple[Deadline, ...]:
        """All deadlines that something is known of, for partners that are not known to be slow."""
        return tuple(
            Deadline(wait=wait, is_dense=is_dense, limit_s=self.limit_s(wait, is_dense), num_seen=len(window.seen))
            for (wait, is_dense), window in self._windows.items()
        )

    def _observe(self, wait: Wait, is_dense: bool, silence_s: float) -> _Window:
        window = self._windows.setdefault((wait, is_dense), _Window())
        # No more than the longest: a machine that slept over a wait has not seen a slow partner.
        window.observe(min(silence_s, self._longest_s))
        return window

    def _set_slow(self, peer: PeerId | None, change: int) -> None:
        if peer is None:
            return
        doublings = self._slow.pop(peer, 0) + change
        if doublings > 0:
            self._slow[peer] = doublings  # at the end: who is forgotten is whom nothing was heard of for longest
            if len(self._slow) > _MAX_SLOW_PEERS:
                self._slow.popitem(last=False)
