"""What has become of the members this node knows since it looked last? Told from two looks at the sample, of which nothing is changed."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from lowcomm_node.core.partners import PeerView
from lowcomm_node.units import PeerId

__all__ = ["Churn", "PeerChange", "PeerEvent"]


class PeerEvent(StrEnum):
    """What can become of a member in the eyes of this node."""

    APPEARED = "appeared"
    """Its record was read for the first time, or again after it was gone."""
    GONE = "gone"
    """Its record has run out. In a swarm of which the directory shows only a part at a time it may also not have come up again."""
    REPLACED = "replaced"
    """Its place in a full sample was given to another member; nothing is wrong with it."""
    SUSPECTED = "suspected"
    """It did not answer, or meetings with it were clipped again and again: left alone for a while."""
    TRUSTED = "trusted"
    """It may be met again."""


@dataclass(frozen=True, slots=True)
class PeerChange:
    """One event of one member."""

    peer: PeerId
    event: PeerEvent


@dataclass(frozen=True, slots=True)
class _Seen:
    expires_at: float
    is_suspect: bool


class Churn:
    """Compares each look with the one before. Invariant: of each member, appeared less gone and replaced is 1 while it is known, else 0."""

    def __init__(self) -> None:
        self._known: dict[PeerId, _Seen] = {}

    def look(self, views: Iterable[PeerView], now: float) -> list[PeerChange]:
        """What is different from last time, members in the order of the sample; ``now`` is on the sample's clock."""
        before = self._known
        self._known = {
            view.member.peer: _Seen(expires_at=view.member.expires_at, is_suspect=view.is_suspect(now))
            for view in views
        }
        changes = [
            PeerChange(peer, PeerEvent.GONE if seen.expires_at <= now else PeerEvent.REPLACED)
            for peer, seen in before.items()
            if peer not in self._known
        ]
        for peer, seen in self._known.items():
            known = before.get(peer)
            if known is None:
                changes.append(PeerChange(peer, PeerEvent.APPEARED))
            if seen.is_suspect != (known is not None and known.is_suspect):
                changes.append(PeerChange(peer, PeerEvent.SUSPECTED if seen.is_suspect else PeerEvent.TRUSTED))
        return changes
