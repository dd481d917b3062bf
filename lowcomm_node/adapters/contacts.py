"""Where other nodes are: what their own signed records say, kept for whoever wants to connect to them by peer id."""

from collections import OrderedDict

from lowcomm_node.core.events import Member
from lowcomm_node.core.places import Fullness
from lowcomm_node.errors import LinkError
from lowcomm_node.units import PeerId

__all__ = ["Contacts"]

_MAX_CONTACTS = 16_384
"""More than a node can have among its partners; about 8 MB when full."""


class Contacts:
    """The newest record of each peer, the latest learnt kept longest.

    Decisions name peers; how one is reached is looked up here when a connection is made, so that a retry finds a partner
    that has moved.
    """

    def __init__(self, max_contacts: int = _MAX_CONTACTS) -> None:
        self._max_contacts = max_contacts
        self._known: OrderedDict[PeerId, Member] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    @property
    def fullness(self) -> Fullness:
        return Fullness(len(self), self._max_contacts)

    def learn(self, member: Member) -> None:
        """Take in a verified record; an older one than is known changes nothing."""
        known = self._known.get(member.peer)
        if known is None or known.expires_at <= member.expires_at:
            self._known[member.peer] = member
        self._known.move_to_end(member.peer)
        if len(self._known) > self._max_contacts:
            self._known.popitem(last=False)

    def knows(self, peer: PeerId, now: float) -> bool:
        """Is there a record of this peer that has not expired by ``now`` (Unix seconds)?"""
        known = self._known.get(peer)
        return known is not None and known.expires_at > now

    def find(self, peer: PeerId) -> Member:
        """The newest record of a peer, expired or not.

        Raises:
            LinkError: ``unreachable`` when nothing is known of it.
        """
        known = self._known.get(peer)
        if known is None:
            raise LinkError("unreachable", f"no record of {peer} is known")
        return known
