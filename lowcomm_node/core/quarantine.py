"""Who has sent so much that was wrong that this node leaves it alone for a while? Each node decides for itself."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from lowcomm_node.core.places import Fullness
from lowcomm_node.errors import RefusalReason
from lowcomm_node.units import PeerId

__all__ = ["OFFENCES", "Quarantine"]

OFFENCES = frozenset(
    {
        RefusalReason.MALFORMED,
        RefusalReason.OVERSIZED,
        RefusalReason.CHECKSUM,
        RefusalReason.NONFINITE,
        RefusalReason.WRONG_SENDER,
        RefusalReason.WRONG_RECEIVER,
    }
)
"""What no node says that runs as it should, whatever its clock, its version, its line or its luck.

Not finite is among them because each node looks at what it is about to say: one whose weights have become NaN says nothing.
"""

_STRIKES = 3
_WITHIN_S = 600.0
_FIRST_S = 60.0
_LONGEST_S = 3600.0


@dataclass(slots=True)
class _Offender:
    strikes: deque[float] = field(default_factory=lambda: deque(maxlen=_STRIKES))
    until: float = 0.0
    times: int = 0


class Quarantine:
    """Three offences within ten minutes: left alone for a minute, twice as long each further time, an hour at most.

    It answers: may this peer be talked to now? Invariant: at most ``max_peers`` are remembered, the latest offenders; who is
    not on the list is talked to. The caller names a peer only where it is proven who has sent what is wrong.
    """

    def __init__(self, max_peers: int = 1024) -> None:
        self._max_peers = max_peers
        self._offenders: OrderedDict[PeerId, _Offender] = OrderedDict()

    def __len__(self) -> int:
        return len(self._offenders)

    @property
    def fullness(self) -> Fullness:
        return Fullness(len(self), self._max_peers)

    def offended(self, peer: PeerId, reason: RefusalReason, now: float) -> float:
        """Take in what a peer has done; seconds of the quarantine that begins with it, 0 when none does."""
        if reason not in OFFENCES:
            return 0.0
        offender = self._offenders.setdefault(peer, _Offender())
        self._offenders.move_to_end(peer)
        if len(self._offenders) > self._max_peers:
            self._offenders.popitem(last=False)
        offender.strikes.append(now)
        if now < offender.until or len(offender.strikes) < _STRIKES or now - offender.strikes[0] > _WITHIN_S:
            return 0.0
        length_s = min(_LONGEST_S, _FIRST_S * 2.0 ** min(offender.times, 16))
        offender.times += 1
        offender.until = now + length_s
        offender.strikes.clear()
        return length_s

    def count(self, now: float) -> int:
        """Peers that are left alone now."""
        return sum(now < offender.until for offender in self._offenders.values())

    def left_s(self, peer: PeerId, now: float) -> float:
        """Seconds for which the peer is still left alone; 0 when it is not."""
        offender = self._offenders.get(peer)
        return max(0.0, offender.until - now) if offender is not None else 0.0
