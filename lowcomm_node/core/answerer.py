"""The answering end of meetings: offer in, answer out, close in, verdict out.

The answerer's verdict binds both ends (docs/decisions/0001). It is given once per meeting id and remembered, so a
retry of any message finds the same answer and the same verdict, and no correction is applied twice. It says what the
state in place holds; where that goes back to a checkpoint, verdicts follow it (docs/decisions/0008).
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum, auto
from math import inf

from lowcomm_node.core.commands import (
    ApplyClose,
    CloseLink,
    Command,
    DropMeeting,
    EncodeAnswer,
    NoteRefusal,
    ReportMeeting,
    Role,
    Send,
)
from lowcomm_node.core.deadlines import Deadlines, Silence, Wait
from lowcomm_node.core.events import AnswerEncoded, CorrectionApplied, EncodingRefused
from lowcomm_node.core.messages import Answer, Busy, Close, Confirm, Message, Offer, Refusal, Verdict
from lowcomm_node.core.places import Fullness
from lowcomm_node.core.reluctance import Reluctance
from lowcomm_node.errors import RefusalReason
from lowcomm_node.units import Codec, LinkKind, MeetingId, PeerId, Stream

__all__ = ["AnsweringEnd", "turn_away"]

_MAX_REMEMBERED = 256
_MAX_RESTORED = 64


def turn_away(message: Busy | Refusal) -> list[Command]:
    """Send the initiator away and let go of its connection."""
    return [Send(meeting_id=message.meeting_id, message=message), CloseLink(meeting_id=message.meeting_id)]


def _refuse(meeting_id: MeetingId, peer: PeerId, reason: RefusalReason, detail: str) -> list[Command]:
    refusal = turn_away(Refusal(meeting_id=meeting_id, reason=reason))
    return [*refusal, NoteRefusal(peer=peer, reason=reason, detail=detail)]


class _Phase(Enum):
    ANSWERING = auto()  # the trainer encodes the answer
    ANSWERED = auto()  # the answer is out, the close has not come
    APPLYING = auto()  # the trainer applies; from here the verdict is the trainer's
    SETTLED = auto()  # the verdict is known; waiting for the initiator's confirmation, or remembered for retries


_WAITS = {_Phase.ANSWERING: Wait.ANSWER_ENCODED, _Phase.ANSWERED: Wait.CLOSE}


@dataclass(slots=True)
class _Answered:
    peer: PeerId
    streams: tuple[Stream, ...]
    started_at: float
    changed_at: float
    silence: Silence
    """Of the wait that the meeting is in."""
    is_dense: bool = False
    link: LinkKind = LinkKind.GRPC
    """What its offer came over."""
    phase: _Phase = _Phase.ANSWERING
    answer: Answer | None = None
    verdict: Verdict | None = None
    is_cut: bool = False
    """Its connection is gone, and the initiator has not come over another one since."""
    asked_at: float = -inf
    """When the verdict was last asked for again, within the time that an initiator waits for it."""
    applied: CorrectionApplied | None = None
    is_reported: bool = False
    is_restored: bool = False
    """Known from the state file alone: whether its initiator has confirmed it to an earlier life is not."""
    is_confirmed: bool = False
    """Its initiator has said that it has followed the verdict "applied"."""
    lasted_s: dict[_Phase, float] = field(default_factory=dict)
    """Of phases that are over."""
    is_withdrawn: bool = False
    """Applied once, but the state in place does not hold it any more, and its initiator may or may not have followed."""


class AnsweringEnd:
    """All meetings this node answers; at most one of them holds the node's attention (``active``)."""

    def __init__(self, *, deadlines: Deadlines, verdict_keep_s: float) -> None:
        self._deadlines = deadlines
        self._verdict_keep_s = verdict_keep_s
        self._known: OrderedDict[MeetingId, _Answered] = OrderedDict()
        self._reluctance = Reluctance()
        self._has_state = False
        """What the next state will hold is not known before it is in place, so nothing is said of it."""
        self.active: MeetingId | None = None

    def phase(self) -> str:
        """What the active meeting is doing, for people; empty when there is none."""
        return self._known[self.active].phase.name.lower() if self.active is not None else ""

    def fullness(self) -> tuple[Fullness, Fullness]:
        """Of meetings that are remembered, and of peers whose offers have come to nothing so far."""
        return Fullness(len(self._known), _MAX_REMEMBERED), self._reluctance.fullness

    def knows(self, meeting_id: MeetingId) -> bool:
        return meeting_id in self._known

    def is_settled(self) -> bool:
        """No meeting waits for a close, for the trainer, or for the initiator to follow our verdict."""
        return all(known.is_reported for known in self._known.values())

    def may_leave(self) -> bool:
        """As ``is_settled``, but for answers whose initiator is gone: neither end has applied anything, so nothing is lost with them."""
        return all(known.is_reported or (known.is_cut and known.phase in _WAITS) for known in self._known.values())

    def peer_of(self, meeting_id: MeetingId) -> PeerId | None:
        known = self._known.get(meeting_id)
        return known.peer if known else None

    def is_dense(self, meeting_id: MeetingId) -> bool:
        """Is a meeting we know about whole tensors?"""
        known = self._known.get(meeting_id)
        return known is not None and known.is_dense

    def link_of(self, meeting_id: MeetingId) -> LinkKind:
        """What the offer of a meeting we know came over."""
        return self._known[meeting_id].link

    def offered(self, offer: Offer, now: float, link: LinkKind = LinkKind.GRPC) -> list[Command]:
        """Take up a new meeting; the caller has made sure that this node is free.

        A full memory forgets the oldest meeting that is over for both ends; an open verdict is never forgotten.
        """
        if len(self._known) >= _MAX_REMEMBERED:
            over = (known for known, meeting in self._known.items() if meeting.is_reported and not meeting.is_restored)
            forgettable = next(over, None)
            if forgettable is None:
                return turn_away(Busy(meeting_id=offer.meeting_id))
            del self._known[forgettable]
        self._reluctance.taken_up(offer.sender, now)
        self._known[offer.meeting_id] = _Answered(
            peer=offer.sender,
            streams=tuple(plan.stream for plan in offer.plans),
            started_at=now,
            changed_at=now,
            silence=Silence(now),
            is_dense=any(plan.codec is Codec.DENSE for plan in offer.plans),
            link=link,
        )
        self.active = offer.meeting_id
        return [EncodeAnswer(offer=offer)]

    def turn_away_again(self, offer: Offer, now: float) -> list[Command]:
        """Send away who has had answers made for nothing, too often and lately; nothing for anybody else."""
        left_s = self._reluctance.left_s(offer.sender, now)
        if not left_s:
            return []
        detail = f"it has let answers lie; its next offer is taken up in {left_s:.0f} s"
        return _refuse(offer.meeting_id, offer.sender, RefusalReason.TOO_MANY, detail)

    def offered_again(self, meeting_id: MeetingId) -> list[Command]:
        """A retry of an offer we know: it gets what it has got. Of a meeting that is whole at both ends there is none."""
        known = self._known[meeting_id]
        known.is_cut = False
        if known.is_confirmed:
            return _refuse(meeting_id, known.peer, RefusalReason.REPLAYED, "an offer of a meeting that is over")
        message: Message | None = known.verdict if known.phase is _Phase.SETTLED else known.answer
        return [Send(meeting_id=meeting_id, message=message)] if message is not None else []

    def answer_encoded(self, event: AnswerEncoded, now: float) -> list[Command]:
        known = self._known.get(event.meeting_id)
        if known is None or known.phase is not _Phase.ANSWERING:
            return [DropMeeting(meeting_id=event.meeting_id)]
        self._kept(Wait.ANSWER_ENCODED, known, now)
        known.answer = Answer(
            meeting_id=event.meeting_id,
            parts=event.parts,
            progress_steps=event.progress_steps,
            clip_norms=event.clip_norms,
            weight=event.weight,
        )
        _enter(known, _Phase.ANSWERED, now)
        return [Send(meeting_id=event.meeting_id, message=known.answer)]

    def close_received(self, close: Close, now: float) -> list[Command]:
        known = self._known.get(close.meeting_id)
        if known is not None and known.phase is _Phase.ANSWERED:
            self._kept(Wait.CLOSE, known, now)
            self._reluctance.made_good(known.peer)
            _enter(known, _Phase.APPLYING, now)
            self._let_go(close.meeting_id)
            return [ApplyClose(close=close)]
        if not self._has_state and (known is None or known.verdict is None or known.verdict.applied):
            return turn_away(Refusal(meeting_id=close.meeting_id, reason=RefusalReason.NOT_READY))  # ask again later
        if known is None:
            verdict = Verdict(meeting_id=close.meeting_id, applied=False, reason=RefusalReason.UNKNOWN_MEETING)
            return [Send(meeting_id=close.meeting_id, message=verdict)]
        if known.verdict is None:
            return []  # the trainer is at it: the verdict goes to the newest connection
        commands: list[Command] = [Send(meeting_id=close.meeting_id, message=known.verdict)]
        if now - known.changed_at <= self._verdict_keep_s:
            known.asked_at = now
        if known.is_restored:
            known.is_restored = known.is_reported = False  # it was not confirmed: now it counts, one way or the other
            known.started_at = known.changed_at = now
        if known.is_withdrawn:  # who still asks has not followed the verdict that is withdrawn
            known.is_withdrawn = False
            commands += self._report(close.meeting_id, known, "failed", "trainer", now)
        return commands

    def applied(self, event: CorrectionApplied, now: float) -> list[Command]:
        known = self._known[event.meeting_id]
        if known.phase is not _Phase.APPLYING or not self._has_state:
            return []  # of a trainer or a state that is gone: a verdict given stands, one to be given comes of the next state
        known.applied = event
        return self._settle(event.meeting_id, known, None, now)

    def refused(self, event: EncodingRefused, now: float) -> list[Command]:
        """The trainer refuses the offer or the close."""
        known = self._known[event.meeting_id]
        if known.phase is _Phase.SETTLED or not self._has_state:
            return []
        if known.phase is _Phase.ANSWERING:
            self._reluctance.made_good(known.peer)
            refusal = Refusal(meeting_id=event.meeting_id, reason=event.reason)
            known.verdict = Verdict(meeting_id=event.meeting_id, applied=False, reason=event.reason)
            _enter(known, _Phase.SETTLED, now)
            commands: list[Command] = [
                Send(meeting_id=event.meeting_id, message=refusal),
                CloseLink(meeting_id=event.meeting_id),
            ]
            commands += self._report(event.meeting_id, known, "failed", event.reason.value, now)
            return commands
        return self._settle(event.meeting_id, known, event.reason, now)

    def confirmed(self, meeting_id: MeetingId, now: float) -> list[Command]:
        """The initiator has followed the verdict. Saying it back ends its saying so, whatever is known of the meeting here."""
        known = self._known.get(meeting_id)
        echo = Send(meeting_id=meeting_id, message=Confirm(meeting_id=meeting_id))
        commands: list[Command] = [echo, CloseLink(meeting_id=meeting_id)]
        if known is not None and known.is_withdrawn:
            commands += self._report(meeting_id, known, "half", "trainer", now)
        elif known is not None and known.verdict is not None and known.verdict.applied:
            known.is_restored, known.is_confirmed = False, True
            commands += self._report(meeting_id, known, "completed", "", now)
        return commands

    def link_failed(self, meeting_id: MeetingId) -> list[Command]:
        """The connection is gone. The node is free again; the meeting waits for a retry until its deadline."""
        self._known[meeting_id].is_cut = True
        self._let_go(meeting_id)
        return []

    def trainer_lost(self, now: float) -> list[Command]:
        """Nothing of an unanswered meeting survives in the trainer, so none of them will ever be applied.

        What was being applied may be in the state that comes back, or not: only that will tell.
        """
        self._has_state = False
        commands: list[Command] = []
        for meeting_id, known in self._known.items():
            if known.phase in _WAITS:
                self._reluctance.made_good(known.peer)
                commands += self._settle(meeting_id, known, RefusalReason.NOT_READY, now, reason="trainer")
        self.active = None
        return commands

    def state_restored(self, applied_meetings: tuple[MeetingId, ...], now: float) -> list[Command]:
        """A state is in place that holds these meetings of ours, and no other one that is still asked for.

        A verdict "applied" that does not fit it is withdrawn. Who has followed it will never ask again; who asks again has
        not followed it, and hears that nothing is applied, which is what the two states then have in common.
        """
        self._has_state = True
        held = set(applied_meetings)
        commands: list[Command] = []
        for meeting_id, known in self._known.items():
            if known.phase is _Phase.APPLYING:
                refusal = None if meeting_id in held else RefusalReason.NOT_READY
                commands += self._settle(meeting_id, known, refusal, now, reason="trainer")
            elif known.verdict is not None and known.verdict.applied and meeting_id not in held:
                known.verdict = Verdict(meeting_id=meeting_id, applied=False, reason=RefusalReason.NOT_READY)
                known.is_withdrawn, known.is_restored = not known.is_reported, False
                known.applied = None
        for meeting_id in applied_meetings[-_MAX_RESTORED:]:
            if meeting_id not in self._known:
                self._known[meeting_id] = _Answered(
                    peer=PeerId(""),
                    streams=(),
                    started_at=now,
                    changed_at=now,
                    silence=Silence(now),
                    phase=_Phase.SETTLED,
                    verdict=Verdict(meeting_id=meeting_id, applied=True),
                    is_reported=True,
                    is_restored=True,
                )
        return commands

    def progressed(self, meeting_id: MeetingId, now: float) -> None:
        """Bytes move between us and the initiator."""
        known = self._known.get(meeting_id)
        if known is not None and known.phase is _Phase.ANSWERED:
            known.silence.end(now)

    def ticked(self, now: float) -> list[Command]:
        """Let go of meetings whose answer or close does not come, and forget old verdicts."""
        commands: list[Command] = []
        for meeting_id, known in list(self._known.items()):
            wait = _WAITS.get(known.phase)
            if wait is not None:
                silence_s = now - known.silence.since
                if wait is Wait.CLOSE and self._deadlines.is_late(wait, known.is_dense, silence_s, known.peer):
                    self._let_go(meeting_id)  # the close is as good when it comes
                if now - known.silence.since > self._deadlines.limit_s(wait, known.is_dense, _waited_for(wait, known)):
                    silence_s = known.silence.longest_s(now)
                    self._deadlines.missed(wait, known.is_dense, silence_s, _waited_for(wait, known))
                    commands.append(DropMeeting(meeting_id=meeting_id))
                    commands += self._settle(meeting_id, known, RefusalReason.EXPIRED, now, reason="timeout")
            elif now - max(known.changed_at, known.asked_at) > self._verdict_keep_s and self._can_forget(known):
                is_open = known.verdict is None or known.verdict.applied or known.is_withdrawn
                if is_open:
                    reason = "unconfirmed" if known.verdict is not None and known.verdict.applied else "trainer"
                    commands += self._report(meeting_id, known, "half", reason, now)
                commands.append(CloseLink(meeting_id=meeting_id))
                del self._known[meeting_id]
        return commands

    def _let_go(self, meeting_id: MeetingId) -> None:
        """The meeting goes on, and has the node's attention no more."""
        if self.active == meeting_id:
            self.active = None

    def _can_forget(self, known: _Answered) -> bool:
        """Not what a living trainer is applying: its verdict is on the way."""
        return known.phase is _Phase.SETTLED or not self._has_state

    def _kept(self, wait: Wait, known: _Answered, now: float) -> None:
        self._deadlines.kept(wait, known.is_dense, known.silence.longest_s(now), _waited_for(wait, known))

    def _settle(
        self, meeting_id: MeetingId, known: _Answered, refusal: RefusalReason | None, now: float, reason: str = ""
    ) -> list[Command]:
        known.verdict = Verdict(meeting_id=meeting_id, applied=refusal is None, reason=refusal)
        known.answer = None  # it is not needed any more and may be large
        _enter(known, _Phase.SETTLED, now)
        if self.active == meeting_id:
            self.active = None
        commands: list[Command] = [Send(meeting_id=meeting_id, message=known.verdict)]
        if refusal is not None:
            commands += self._report(meeting_id, known, "failed", reason or refusal.value, now)
        return commands

    def _report(self, meeting_id: MeetingId, known: _Answered, outcome: str, reason: str, now: float) -> list[Command]:
        if self.active == meeting_id:
            self.active = None
        if known.is_reported:
            return []
        known.is_reported = True
        return [
            ReportMeeting(
                meeting_id=meeting_id,
                peer=known.peer,
                role=Role.ANSWERER,
                streams=known.streams,
                outcome=outcome,
                reason=reason,
                duration_s=now - known.started_at,
                norms=known.applied.norms if known.applied else (),
                scales=known.applied.scales if known.applied else (),
                link=known.link,
                phases=_phases(known, now),
            )
        ]


def _enter(known: _Answered, phase: _Phase, now: float) -> None:
    known.lasted_s[known.phase] = now - known.changed_at
    known.phase, known.changed_at, known.silence = phase, now, Silence(now)


def _phases(known: _Answered, now: float) -> tuple[tuple[str, float], ...]:
    """Seconds spent in each phase up to now."""
    lasted_s = known.lasted_s | {known.phase: now - known.changed_at}
    return tuple((phase.name.lower(), seconds) for phase, seconds in lasted_s.items())


def _waited_for(wait: Wait, known: _Answered) -> PeerId | None:
    """The partner, where it is not our own trainer."""
    return known.peer if wait is Wait.CLOSE else None
