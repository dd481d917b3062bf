"""Verdicts that this node has followed, until their answerers have heard of it.

An answerer counts as half what it has applied and nobody has confirmed to it. A confirmation that gets lost would make a half
meeting of a whole one, so it is said again, over new connections, until the answerer says it back; however often it is
heard, it means the same. Who does not answer for as long as verdicts are remembered has no use for it any more.
"""

from collections import OrderedDict
from dataclasses import dataclass

from lowcomm_node.core.commands import CloseLink, Command, OpenLink
from lowcomm_node.core.initiated import retry_after_s
from lowcomm_node.core.messages import Confirm
from lowcomm_node.core.places import Fullness
from lowcomm_node.units import LinkKind, MeetingId, PeerId

__all__ = ["Confirmations"]

_MAX_UNHEARD = 64
"""The oldest is given up for a new one: that costs a meeting that is counted as half, and is none."""


@dataclass(slots=True)
class _Unheard:
    peer: PeerId
    link: LinkKind
    followed_at: float
    retry_at: float
    attempts: int = 1


class Confirmations:
    """All of one node. The first time each is said by who adds it, over the meeting's own connection where there is one."""

    def __init__(self, *, keep_s: float) -> None:
        """``keep_s``: how long verdicts are remembered."""
        self._keep_s = keep_s
        self._unheard: OrderedDict[MeetingId, _Unheard] = OrderedDict()

    def knows(self, meeting_id: MeetingId) -> bool:
        return meeting_id in self._unheard

    @property
    def fullness(self) -> Fullness:
        return Fullness(len(self._unheard), _MAX_UNHEARD)

    def is_empty(self) -> bool:
        """Everything was heard, or given up."""
        return not self._unheard

    def add(self, meeting_id: MeetingId, peer: PeerId, link: LinkKind, now: float, patience_s: float) -> list[Command]:
        """It was just said for the first time; after ``patience_s`` without an echo it is said again."""
        self._unheard[meeting_id] = _Unheard(peer=peer, link=link, followed_at=now, retry_at=now + patience_s)
        if len(self._unheard) <= _MAX_UNHEARD:
            return []
        oldest, _ = self._unheard.popitem(last=False)
        return [CloseLink(meeting_id=oldest)]

    def heard(self, meeting_id: MeetingId) -> list[Command]:
        """The answerer has said it back."""
        return [CloseLink(meeting_id=meeting_id)] if self._unheard.pop(meeting_id, None) is not None else []

    def link_failed(self, meeting_id: MeetingId, now: float) -> None:
        """The connection is gone before the echo came."""
        unheard = self._unheard.get(meeting_id)
        if unheard is not None:
            unheard.retry_at = min(unheard.retry_at, now + retry_after_s(unheard.attempts))

    def ticked(self, now: float, patience_s: float) -> list[Command]:
        """Say again what is due."""
        commands: list[Command] = []
        for meeting_id, unheard in list(self._unheard.items()):
            if now - unheard.followed_at > self._keep_s:
                del self._unheard[meeting_id]
                commands.append(CloseLink(meeting_id=meeting_id))
            elif now >= unheard.retry_at:
                unheard.attempts += 1
                unheard.retry_at = now + max(patience_s, retry_after_s(unheard.attempts))
                commands.append(
                    OpenLink(
                        meeting_id=meeting_id,
                        peer=unheard.peer,
                        message=Confirm(meeting_id=meeting_id),
                        link=unheard.link,
                    )
                )
        return commands
