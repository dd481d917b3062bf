"""How far is this machine's clock from those of the others? The median over partners, so that no one of them can say it alone."""

from collections import OrderedDict
from math import nan
from statistics import median

from lowcomm_node.core.places import Fullness
from lowcomm_node.units import PeerId

__all__ = ["SwarmClock"]

_MAX_PEERS = 64
_KEEP_S = 1800.0
"""A clock that was set since should not be judged by what was heard before for long."""


class SwarmClock:
    """The newest measurement of each peer, of the last half an hour and of so many peers at most."""

    def __init__(self, *, max_peers: int = _MAX_PEERS, keep_s: float = _KEEP_S) -> None:
        self._max_peers = max_peers
        self._keep_s = keep_s
        self._heard: OrderedDict[PeerId, tuple[float, float]] = OrderedDict()

    @property
    def fullness(self) -> Fullness:
        return Fullness(len(self._heard), self._max_peers)

    def heard(self, peer: PeerId, ahead_s: float, now: float) -> None:
        """Our clock was so far ahead of this peer's (negative: behind); ``now`` is on a monotonic clock."""
        self._heard[peer] = (now, ahead_s)
        self._heard.move_to_end(peer)
        if len(self._heard) > self._max_peers:
            self._heard.popitem(last=False)

    def ahead_s(self, now: float) -> float:
        """Seconds that our clock is ahead of the median of the others'; NaN while nothing is known of it."""
        recent = [ahead_s for heard_at, ahead_s in self._heard.values() if now - heard_at <= self._keep_s]
        return median(recent) if recent else nan
