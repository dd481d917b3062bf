"""The answering end of meetings: offer in, answer out, close in, verdict out.

The answerer's verdict binds both ends (docs/decisions/0001). It is given once per meeting id and remembered, so a
retry of any message finds the same answer and the same verdict, and no correction is applied twice.
"""

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum, auto

from lowcomm_node.core.commands import (
    ApplyClose,
    CloseLink,
    Command,
    DropMeeting,
    EncodeAnswer,
    ReportMeeting,
    Role,
    Send,
)
from lowcomm_node.core.events import AnswerEncoded, CorrectionApplied, EncodingRefused
from lowcomm_node.core.messages import Answer, Busy, Close, Message, Offer, Refusal, Verdict
from lowcomm_node.errors import RefusalReason
from lowcomm_node.units import MeetingId, PeerId, Stream

__all__ = ["AnsweringEnd", "turn_away"]

_MAX_REMEMBERED = 256


def turn_away(message: Busy | Refusal) -> list[Command]:
    """Send the initiator away and let go of its connection."""
    return [Send(meeting_id=message.meeting_id, message=message), CloseLink(meeting_id=message.meeting_id)]


class _Phase(Enum):
    ANSWERING = auto()  # the trainer encodes the answer
    ANSWERED = auto()  # the answer is out, the close has not come
    APPLYING = auto()  # the trainer applies; from here the verdict is the trainer's
    SETTLED = auto()  # the verdict is known; waiting for the initiator's confirmation, or remembered for retries


@dataclass(slots=True)
class _Answered:
    peer: PeerId
    streams: tuple[Stream, ...]
    started_at: float
    changed_at: float
    phase: _Phase = _Phase.ANSWERING
    answer: Answer | None = None
    verdict: Verdict | None = None
    applied: CorrectionApplied | None = None
    is_reported: bool = False


class AnsweringEnd:
    """All meetings this node answers; at most one of them holds the node's attention (``active``)."""

    def __init__(self, *, deadline_s: float, verdict_keep_s: float) -> None:
        self._deadline_s = deadline_s
        self._verdict_keep_s = verdict_keep_s
        self._known: OrderedDict[MeetingId, _Answered] = OrderedDict()
        self.active: MeetingId | None = None

    def phase(self) -> str:
        """What the active meeting is doing, for people; empty when there is none."""
        return self._known[self.active].phase.name.lower() if self.active is not None else ""

    def knows(self, meeting_id: MeetingId) -> bool:
        return meeting_id in self._known

    def is_settled(self) -> bool:
        """No meeting waits for a close, for the trainer, or for the initiator to follow our verdict."""
        return all(known.phase is _Phase.SETTLED and known.is_reported for known in self._known.values())

    def peer_of(self, meeting_id: MeetingId) -> PeerId | None:
        known = self._known.get(meeting_id)
        return known.peer if known else None

    def offered(self, offer: Offer, now: float) -> list[Command]:
        """Take up a new meeting; the caller has made sure that this node is free.

        A full memory forgets the oldest meeting that is over for both ends; an open verdict is never forgotten.
        """
        if len(self._known) >= _MAX_REMEMBERED:
            forgettable = next((known for known, meeting in self._known.items() if meeting.is_reported), None)
            if forgettable is None:
                return turn_away(Busy(meeting_id=offer.meeting_id))
            del self._known[forgettable]
        self._known[offer.meeting_id] = _Answered(
            peer=offer.sender, streams=tuple(plan.stream for plan in offer.plans), started_at=now, changed_at=now
        )
        self.active = offer.meeting_id
        return [EncodeAnswer(offer=offer)]

    def offered_again(self, meeting_id: MeetingId) -> list[Command]:
        """A retry of an offer we know."""
        known = self._known[meeting_id]
        message: Message | None = known.verdict if known.phase is _Phase.SETTLED else known.answer
        return [Send(meeting_id=meeting_id, message=message)] if message is not None else []

    def answer_encoded(self, event: AnswerEncoded, now: float) -> list[Command]:
        known = self._known.get(event.meeting_id)
        if known is None or known.phase is not _Phase.ANSWERING:
            return [DropMeeting(meeting_id=event.meeting_id)]
        known.answer = Answer(
            meeting_id=event.meeting_id,
            parts=event.parts,
            progress_steps=event.progress_steps,
            clip_norms=event.clip_norms,
            weight=event.weight,
        )
        known.phase, known.changed_at = _Phase.ANSWERED, now
        return [Send(meeting_id=event.meeting_id, message=known.answer)]

    def close_received(self, close: Close, now: float) -> list[Command]:
        known = self._known.get(close.meeting_id)
        if known is None:
            verdict = Verdict(meeting_id=close.meeting_id, applied=False, reason=RefusalReason.UNKNOWN_MEETING)
            return [Send(meeting_id=close.meeting_id, message=verdict)]
        if known.phase is _Phase.ANSWERED:
            known.phase, known.changed_at = _Phase.APPLYING, now
            return [ApplyClose(close=close)]
        if known.verdict is not None:
            return [Send(meeting_id=close.meeting_id, message=known.verdict)]
        return []  # the trainer is at it: the verdict goes to the newest connection

    def applied(self, event: CorrectionApplied, now: float) -> list[Command]:
        known = self._known[event.meeting_id]
        if known.phase is not _Phase.APPLYING:
            return []  # of a trainer that is gone by now: the verdict stands
        known.applied = event
        return self._settle(event.meeting_id, known, None, now)

    def refused(self, event: EncodingRefused, now: float) -> list[Command]:
        """The trainer refuses the offer or the close."""
        known = self._known[event.meeting_id]
        if known.phase is _Phase.SETTLED:
            return []
        if known.phase is _Phase.ANSWERING:
            refusal = Refusal(meeting_id=event.meeting_id, reason=event.reason)
            known.verdict = Verdict(meeting_id=event.meeting_id, applied=False, reason=event.reason)
            known.phase, known.changed_at = _Phase.SETTLED, now
            commands: list[Command] = [
                Send(meeting_id=event.meeting_id, message=refusal),
                CloseLink(meeting_id=event.meeting_id),
            ]
            commands += self._report(event.meeting_id, known, "failed", event.reason.value, now)
            return commands
        return self._settle(event.meeting_id, known, event.reason, now)

    def confirmed(self, meeting_id: MeetingId, now: float) -> list[Command]:
        known = self._known.get(meeting_id)
        commands: list[Command] = [CloseLink(meeting_id=meeting_id)]
        if known is not None and known.verdict is not None and known.verdict.applied:
            commands += self._report(meeting_id, known, "completed", "", now)
        return commands

    def link_failed(self, meeting_id: MeetingId) -> list[Command]:
        """The connection is gone. The node is free again; the meeting waits for a retry until its deadline."""
        if self.active == meeting_id:
            self.active = None
        return []

    def trainer_lost(self, now: float) -> list[Command]:
        """Nothing of an unfinished meeting survives in the trainer, so none of them will ever be applied."""
        commands: list[Command] = []
        for meeting_id, known in self._known.items():
            if known.phase is not _Phase.SETTLED:
                commands += self._settle(meeting_id, known, RefusalReason.NOT_READY, now, reason="trainer")
        return commands

    def ticked(self, now: float) -> list[Command]:
        """Let go of meetings whose answer or close does not come, and forget old verdicts."""
        commands: list[Command] = []
        for meeting_id, known in list(self._known.items()):
            age_s = now - known.changed_at
            if known.phase in (_Phase.ANSWERING, _Phase.ANSWERED) and age_s > self._deadline_s:
                commands.append(DropMeeting(meeting_id=meeting_id))
                commands += self._settle(meeting_id, known, RefusalReason.EXPIRED, now, reason="timeout")
            elif known.phase is _Phase.SETTLED and age_s > self._verdict_keep_s:
                if known.verdict is not None and known.verdict.applied:
                    commands += self._report(meeting_id, known, "half", "unconfirmed", now)
                commands.append(CloseLink(meeting_id=meeting_id))
                del self._known[meeting_id]
        return commands

    def _settle(
        self, meeting_id: MeetingId, known: _Answered, refusal: RefusalReason | None, now: float, reason: str = ""
    ) -> list[Command]:
        known.verdict = Verdict(meeting_id=meeting_id, applied=refusal is None, reason=refusal)
        known.answer = None  # it is not needed any more and may be large
        known.phase, known.changed_at = _Phase.SETTLED, now
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
            )
        ]
