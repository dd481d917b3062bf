"""What members tell of themselves, from their newest records, and what this node tells."""

from collections import OrderedDict

from lowcomm_node.core.events import Member
from lowcomm_node.core.places import Fullness
from lowcomm_node.units import PeerId
from lowcomm_node.wire.records import read_vitals
from lowcomm_node.wire.vitals import Vitals

__all__ = ["VitalsBook"]

_MAX_PEERS = 1024
"""Many more than a node samples of a swarm; some 300 bytes each."""


class VitalsBook:
    """Kept apart from the members that the core knows, so that no decision can come to hang on them."""

    def __init__(self, max_peers: int = _MAX_PEERS) -> None:
        self.own = Vitals()
        """Goes into the next record."""
        self._max_peers = max_peers
        self._known: OrderedDict[PeerId, tuple[float, Vitals]] = OrderedDict()

    @property
    def fullness(self) -> Fullness:
        return Fullness(len(self._known), self._max_peers)

    def learn(self, member: Member, signed_record: bytes) -> Member:
        """Take in what a record tells that has just been verified to be this member's; returns the member."""
        known = self._known.get(member.peer)
        if known is None or known[0] < member.expires_at:
            self._known[member.peer] = (member.expires_at, read_vitals(signed_record))
            self._known.move_to_end(member.peer)
            if len(self._known) > self._max_peers:
                self._known.popitem(last=False)
        return member

    def others(self, now: float) -> dict[PeerId, Vitals]:
        """By peer, those whose record has not expired by ``now``, Unix seconds, and who tell something."""
        nothing = Vitals()
        return {peer: vitals for peer, (until, vitals) in self._known.items() if until > now and vitals != nothing}
