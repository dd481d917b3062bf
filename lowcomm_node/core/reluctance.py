"""Whose offer is not taken up now? Who has had answers made and then let them lie, several times in a row.

An offer that is taken up costs the trainer an answer, and the node's attention until the close comes. Without a limit one
member that only ever offers has most of both.
"""

from collections import OrderedDict
from dataclasses import dataclass
from math import inf

from lowcomm_node.core.places import Fullness
from lowcomm_node.units import PeerId

__all__ = ["Reluctance"]

_FREE = 2
"""Offers in a row that may come to nothing: lines break, and who is late is given up."""
_FIRST_S = 2.0
_LONGEST_S = 120.0
"""As long as who has failed us is not asked by us."""
_MAX_DOUBLINGS = 8
_MAX_PEERS = 256


@dataclass(slots=True)
class _Asker:
    unclosed: int = 0
    until: float = -inf


class Reluctance:
    """Invariant: of a peer that never closes two offers are taken at once, and then one after 2, 4, 8... s, up to two minutes.

    Who has not offered for two minutes longer than it had to begins anew.
    """

    def __init__(self) -> None:
        self._askers: OrderedDict[PeerId, _Asker] = OrderedDict()

    @property
    def fullness(self) -> Fullness:
        return Fullness(len(self._askers), _MAX_PEERS)

    def left_s(self, peer: PeerId, now: float) -> float:
        """Seconds until an offer of this peer is taken up again; 0 when it is now."""
        asker = self._askers.get(peer)
        return max(0.0, asker.until - now) if asker is not None else 0.0

    def taken_up(self, peer: PeerId, now: float) -> None:
        """An offer of this peer is given to the trainer."""
        asker = self._askers.setdefault(peer, _Asker())
        self._askers.move_to_end(peer)
        if len(self._askers) > _MAX_PEERS:
            self._askers.popitem(last=False)
        if now - asker.until > _LONGEST_S:
            asker.unclosed = 0  # trouble of long ago
        asker.unclosed += 1
        doublings = min(asker.unclosed - _FREE, _MAX_DOUBLINGS)
        asker.until = now + min(_LONGEST_S, _FIRST_S * 2.0**doublings) if doublings >= 0 else now

    def made_good(self, peer: PeerId) -> None:
        """It has sent a close, or it is not its fault that there will be none."""
        self._askers.pop(peer, None)
