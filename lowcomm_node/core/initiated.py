"""A meeting that this node has started, and where it stands."""

from dataclasses import dataclass, field
from enum import Enum, auto

from lowcomm_node.core.deadlines import Deadlines, Silence, Wait
from lowcomm_node.core.events import OfferEncoded
from lowcomm_node.core.messages import Close
from lowcomm_node.units import LinkKind, MeetingId, PeerId, Stream

__all__ = ["WAITS", "Initiated", "Phase", "retry_after_s"]

_FIRST_RETRY_S = 0.5
_LONGEST_RETRY_S = 10.0
_MAX_DOUBLINGS = 8


class Phase(Enum):
    """What comes next decides whether giving up is still free: before CLOSED it is."""

    ENCODING = auto()  # the trainer encodes the offer
    OFFERED = auto()  # the offer is out
    CLOSING = auto()  # the trainer computes the correction and encodes the close
    CLOSED = auto()  # the close is out; only a verdict ends this
    SETTLING = auto()  # the verdict is "applied"; the trainer follows it


WAITS = {
    Phase.ENCODING: Wait.OFFER_ENCODED,
    Phase.OFFERED: Wait.ANSWER,
    Phase.CLOSING: Wait.CLOSE_ENCODED,
    Phase.CLOSED: Wait.VERDICT,
}
"""What a verdict has decided must be followed, however long the trainer takes."""


@dataclass(slots=True)
class Initiated:
    """Changed by ``core.initiator`` only."""

    meeting_id: MeetingId
    streams: tuple[Stream, ...]
    is_dense: bool
    started_at: float
    changed_at: float
    silence: Silence
    """Of the wait that the meeting is in."""
    phase: Phase = Phase.ENCODING
    peer: PeerId = PeerId("")
    link: LinkKind = LinkKind.GRPC
    """What its newest connection goes over."""
    tried: set[PeerId] = field(default_factory=set)
    attempts: int = 0
    encoded: OfferEncoded | None = None
    close: Close | None = None
    has_link: bool = False
    is_lost: bool = False
    """The held correction is gone with the trainer: the verdict can still tell whether the partner has applied its half."""
    is_aside: bool = False
    """The partner was found late in this wait."""
    retry_at: float = 0.0
    lasted_s: dict[Phase, float] = field(default_factory=dict)
    """Of phases that are over."""

    def phases(self, now: float) -> tuple[tuple[str, float], ...]:
        """Seconds spent in each phase up to now; one that came more than once counts whole."""
        lasted_s = self.lasted_s | {self.phase: self.lasted_s.get(self.phase, 0.0) + now - self.changed_at}
        return tuple((phase.name.lower(), seconds) for phase, seconds in lasted_s.items())

    def enter(self, phase: Phase, now: float) -> None:
        """Another wait begins."""
        self.lasted_s[self.phase] = self.lasted_s.get(self.phase, 0.0) + now - self.changed_at
        self.phase, self.changed_at, self.silence, self.is_aside = phase, now, Silence(now), False

    def waited_for(self, wait: Wait) -> PeerId | None:
        """The partner, where it is not our own trainer."""
        return self.peer if wait in (Wait.ANSWER, Wait.VERDICT) else None

    def is_overdue(self, wait: Wait, deadlines: Deadlines, now: float) -> bool:
        """Is it time to give this wait up?"""
        return now - self.silence.since > deadlines.limit_s(wait, self.is_dense, self.waited_for(wait))

    def is_late(self, deadlines: Deadlines, now: float) -> bool:
        """Has the partner not answered for longer than partners usually take, be it too early to give up?"""
        wait = WAITS.get(self.phase)
        if self.is_aside or wait not in (Wait.ANSWER, Wait.VERDICT):
            return False
        return deadlines.is_late(wait, self.is_dense, now - self.silence.since, self.peer)

    def yields_to(self, peer: PeerId, own: PeerId, deadlines: Deadlines, now: float) -> bool:
        """May an offer from ``peer`` to this node, ``own``, push the meeting aside?

        While ours is still being encoded nobody else knows of it, so yes. When both have offered to each other at the same time, the
        smaller peer id's offer stands and the other end answers it. And where the partner we have asked is late, it may be frozen or
        gone: who is there goes first, or one dead node would have all who ask it turn away all others.
        """
        match self.phase:
            case Phase.ENCODING:
                return True
            case Phase.OFFERED if self.peer == peer:
                return peer < own
            case Phase.OFFERED:
                return self.is_late(deadlines, now)
            case _:
                return False


def retry_after_s(attempts: int) -> float:
    """Seconds from the last of so many attempts to the next."""
    return min(_LONGEST_RETRY_S, _FIRST_RETRY_S * 2.0 ** min(attempts, _MAX_DOUBLINGS))
