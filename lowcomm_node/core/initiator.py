"""The initiating end of meetings: encode an offer, find somebody free, hold the correction until the verdict.

Before the close is out, giving up is free: nobody has applied anything. After it, only the answerer's verdict
counts: the held correction waits for it, over as many connections as it takes, while the node goes on with other
meetings. Corrections add up in any order and however late, so the wait harms nothing.
"""

from lowcomm_node.core.chance import Chance
from lowcomm_node.core.commands import (
    CloseLink,
    Command,
    DropMeeting,
    EncodeClose,
    EncodeOffer,
    OpenLink,
    ReportMeeting,
    Role,
    Send,
    SettleMeeting,
)
from lowcomm_node.core.confirmations import Confirmations
from lowcomm_node.core.deadlines import Deadlines, Silence, Wait
from lowcomm_node.core.events import CloseEncoded, CorrectionApplied, EncodingRefused, OfferEncoded
from lowcomm_node.core.initiated import WAITS, Initiated, Phase, retry_after_s
from lowcomm_node.core.messages import Answer, Close, Confirm, Offer, Verdict
from lowcomm_node.core.partners import Partners
from lowcomm_node.core.places import Fullness
from lowcomm_node.units import Codec, LinkKind, MeetingId, PeerId, RunId, Stream

__all__ = ["InitiatingEnd"]

_MAX_PARTNERS_TRIED = 3
_MAX_OFFER_ATTEMPTS = 2
_MAX_UNSETTLED = 8


class InitiatingEnd:
    """All meetings this node has started; at most one is ``active``, a few more may wait for their verdict."""

    def __init__(
        self,
        *,
        own: PeerId,
        run_id: RunId,
        protocol_version: int,
        deadlines: Deadlines,
        verdict_keep_s: float,
        partners: Partners,
        chance: Chance,
    ) -> None:
        self._own = own
        self._run_id = run_id
        self._protocol_version = protocol_version
        self._deadlines = deadlines
        self._verdict_keep_s = verdict_keep_s
        self._partners = partners
        self._chance = chance
        self._meetings: dict[MeetingId, Initiated] = {}
        self._confirmations = Confirmations(keep_s=verdict_keep_s)
        self.missed: set[Stream] = set()
        """Streams whose turn came to nothing; the caller empties it."""
        self.active: MeetingId | None = None
        self.member = b""
        """This node's own signed record, carried by offers."""

    def phase(self) -> str:
        """What the active meeting is doing, for people; empty when there is none."""
        return self._meetings[self.active].phase.name.lower() if self.active is not None else ""

    def knows(self, meeting_id: MeetingId) -> bool:
        return meeting_id in self._meetings or self._confirmations.knows(meeting_id)

    def fullness(self) -> tuple[Fullness, Fullness]:
        """Of meetings that are not over, and of confirmations that nobody has said back."""
        return Fullness(len(self._meetings), _MAX_UNSETTLED), self._confirmations.fullness

    def is_settled(self) -> bool:
        """Nothing is under way, no correction waits for a verdict, no answerer for the word that one was followed."""
        return not self._meetings and self._confirmations.is_empty()

    def peer_of(self, meeting_id: MeetingId) -> PeerId | None:
        meeting = self._meetings.get(meeting_id)
        return meeting.peer if meeting else None

    def link_of(self, meeting_id: MeetingId) -> LinkKind:
        """What a meeting of ours goes over."""
        return self._meetings[meeting_id].link

    def is_dense(self, meeting_id: MeetingId) -> bool:
        """Is a meeting of ours about whole tensors?"""
        meeting = self._meetings.get(meeting_id)
        return meeting is not None and meeting.is_dense

    def start(self, streams: tuple[Stream, ...], is_dense: bool, now: float) -> list[Command]:
        """Start a meeting for the streams that are due. Nothing when there is nobody to meet."""
        if self._partners.choose(now, frozenset()) is None or len(self._meetings) >= _MAX_UNSETTLED:
            self.missed.update(streams)
            return []
        meeting_id = MeetingId(self._chance.token().hex())
        self._meetings[meeting_id] = Initiated(
            meeting_id=meeting_id,
            streams=streams,
            is_dense=is_dense,
            started_at=now,
            changed_at=now,
            silence=Silence(now),
        )
        self.active = meeting_id
        return [EncodeOffer(meeting_id=meeting_id, streams=streams, is_dense=is_dense)]

    def yields_to(self, peer: PeerId, now: float) -> bool:
        """May an offer from ``peer`` push our own active meeting aside?"""
        active = self._meetings.get(self.active) if self.active is not None else None
        return active is None or active.yields_to(peer, self._own, self._deadlines, now)

    def yield_active(self, peer: PeerId, now: float) -> list[Command]:
        """Give up the active meeting for that of ``peer``; see ``yields_to``."""
        if self.active is None:
            return []
        meeting = self._meetings[self.active]
        if meeting.phase is Phase.ENCODING:
            # Not a failure: nothing was asked of anybody. The trainer's offer is dropped when it arrives.
            self._forget(meeting.meeting_id)
            return []
        if meeting.peer != peer:
            self._set_aside(meeting, now)
            return []
        return self._give_up(meeting, "yielded", now)

    def offer_encoded(self, event: OfferEncoded, now: float) -> list[Command]:
        meeting = self._meetings.get(event.meeting_id)
        if meeting is None or meeting.phase is not Phase.ENCODING:
            return [DropMeeting(meeting_id=event.meeting_id)]
        self._kept(Wait.OFFER_ENCODED, meeting, now)
        meeting.encoded = event
        meeting.is_dense = any(plan.codec is Codec.DENSE for plan in event.plans)  # as the answerer sees it
        return self._ask_somebody(meeting, now, "no_partner")

    def busy(self, meeting_id: MeetingId, now: float) -> list[Command]:
        """Ask somebody else, with the same offer: a busy peer has kept nothing of it. Not where another meeting has begun since."""
        meeting = self._meetings.get(meeting_id)
        if meeting is None:
            return []
        if meeting.phase is not Phase.OFFERED:
            return self._turned_away(meeting, now)
        return [CloseLink(meeting_id=meeting_id), *self._ask_somebody(meeting, now, "busy")]

    def refused(self, meeting_id: MeetingId, reason: str, now: float) -> list[Command]:
        """The partner will never answer this offer."""
        meeting = self._meetings.get(meeting_id)
        if meeting is None:
            return []
        if meeting.phase is not Phase.OFFERED:
            return self._turned_away(meeting, now)
        self._partners.failed(meeting.peer, now)
        return self._give_up(meeting, reason, now)

    def answered(self, answer: Answer, now: float) -> list[Command]:
        meeting = self._meetings.get(answer.meeting_id)
        if meeting is None or meeting.phase is not Phase.OFFERED:
            return []  # a late answer to a meeting that was given up, or a duplicate
        self._kept(Wait.ANSWER, meeting, now)
        meeting.enter(Phase.CLOSING, now)
        meeting.encoded = None
        return [EncodeClose(answer=answer)]

    def close_encoded(self, event: CloseEncoded, now: float) -> list[Command]:
        meeting = self._meetings.get(event.meeting_id)
        if meeting is None or meeting.phase is not Phase.CLOSING:
            return [DropMeeting(meeting_id=event.meeting_id)]
        self._kept(Wait.CLOSE_ENCODED, meeting, now)
        meeting.close = Close(meeting_id=event.meeting_id, parts=event.parts, scales=event.scales)
        meeting.enter(Phase.CLOSED, now)
        self._free_from(meeting)
        if meeting.has_link:
            return [Send(meeting_id=event.meeting_id, message=meeting.close)]
        return self._wait_aside(meeting, now)

    def encoding_refused(self, event: EncodingRefused, now: float) -> list[Command]:
        """Our own trainer cannot make the offer, or refuses the partner's answer."""
        meeting = self._meetings.get(event.meeting_id)
        if meeting is None:
            return []  # it was followed, and is being confirmed
        if meeting.phase is Phase.SETTLING:  # the partner has applied
            return [CloseLink(meeting_id=meeting.meeting_id), *self._end(meeting, "half", "trainer", now)]
        if meeting.phase is Phase.CLOSING:
            self._partners.failed(meeting.peer, now)
        return self._give_up(meeting, event.reason.value, now)

    def verdict_received(self, verdict: Verdict, now: float) -> list[Command]:
        """Follow the verdict, and confirm it only then: a confirmed meeting is one that both ends have applied.

        The answerer counts as half what was never confirmed. With a confirmation in advance, a death of this node
        between the two would leave the answerer alone with its half, and certain of the contrary.
        """
        meeting = self._meetings.get(verdict.meeting_id)
        # An offer that was sent again can find the meeting let go; otherwise a verdict before the close has no meaning.
        is_let_go = meeting is not None and meeting.phase is Phase.OFFERED and not verdict.applied
        if meeting is None or not (meeting.phase is Phase.CLOSED or is_let_go):
            return []
        if meeting.phase is Phase.CLOSED and meeting.has_link:
            self._kept(Wait.VERDICT, meeting, now)
        if meeting.is_lost:
            outcome = "half" if verdict.applied else "failed"
            return [CloseLink(meeting_id=verdict.meeting_id), *self._end(meeting, outcome, "trainer", now)]
        if verdict.applied:
            meeting.enter(Phase.SETTLING, now)
            meeting.close = None
            return [SettleMeeting(meeting_id=verdict.meeting_id)]
        reason = verdict.reason.value if verdict.reason else "refused"
        confirm = Send(meeting_id=verdict.meeting_id, message=Confirm(meeting_id=verdict.meeting_id))
        return [confirm, *self._give_up(meeting, reason, now)]

    def settled(self, event: CorrectionApplied, now: float) -> list[Command]:
        meeting = self._meetings[event.meeting_id]
        self._partners.met(meeting.peer, now, is_clipped=any(scale < 1 for _, scale in event.scales))
        confirm = Confirm(meeting_id=event.meeting_id)
        said = Send(meeting_id=event.meeting_id, message=confirm) if meeting.has_link else self._open(meeting, confirm)
        patience_s = self._deadlines.limit_s(Wait.VERDICT, meeting.is_dense, meeting.peer)
        unheard = self._confirmations.add(event.meeting_id, meeting.peer, meeting.link, now, patience_s)
        return [said, *self._end(meeting, "completed", "", now, event), *unheard]

    def confirmation_heard(self, meeting_id: MeetingId) -> list[Command]:
        """The answerer knows that we have followed its verdict."""
        return self._confirmations.heard(meeting_id)

    def link_failed(self, meeting_id: MeetingId, reason: str, now: float) -> list[Command]:
        meeting = self._meetings.get(meeting_id)
        if meeting is None:
            self._confirmations.link_failed(meeting_id, now)
            return []
        meeting.has_link = False
        if reason == "unreachable":
            self._partners.link_failed(meeting.peer, meeting.link, now)
        if meeting.phase is Phase.OFFERED:
            if reason == "disconnect" and meeting.attempts < _MAX_OFFER_ATTEMPTS:
                return self._offer(meeting, now)  # the same meeting: an answer already made is sent again
            self._partners.failed(meeting.peer, now)
            if reason == "unreachable":
                return self._ask_somebody(meeting, now, reason)
            return self._give_up(meeting, reason, now)
        if meeting.phase is Phase.CLOSED:
            return self._wait_aside(meeting, now)
        return []  # CLOSING: the close will find another way; ENCODING and SETTLING need no link

    def trainer_lost(self, now: float) -> list[Command]:
        """Held corrections are gone. Where the close is out, the partner may have applied its half.

        A verdict that is still to come over its connection tells. The close is not sent again: a partner that has not got it would
        apply it now. Where nothing can tell any more, the meeting counts as half.
        """
        commands: list[Command] = []
        for meeting in list(self._meetings.values()):
            if meeting.phase is Phase.CLOSED and meeting.has_link:
                meeting.is_lost, meeting.close = True, None
                continue
            is_open = meeting.phase in (Phase.CLOSED, Phase.SETTLING)
            commands.append(CloseLink(meeting_id=meeting.meeting_id))
            commands += self._end(meeting, "half" if is_open else "failed", "trainer", now)
        return commands

    def progressed(self, meeting_id: MeetingId, now: float) -> None:
        """Bytes move between us and the partner."""
        meeting = self._meetings.get(meeting_id)
        if meeting is not None and meeting.phase in (Phase.OFFERED, Phase.CLOSED):
            meeting.silence.end(now)

    def ticked(self, now: float) -> list[Command]:
        """Let go of what does not come; ask again for a verdict that may be had."""
        commands = self._confirmations.ticked(now, self._deadlines.limit_s(Wait.VERDICT, is_dense=False))
        for meeting in list(self._meetings.values()):
            wait = WAITS.get(meeting.phase)
            if meeting.phase is Phase.CLOSED and now - meeting.changed_at > self._verdict_keep_s:
                commands += [DropMeeting(meeting_id=meeting.meeting_id), CloseLink(meeting_id=meeting.meeting_id)]
                commands += self._end(meeting, "half", "no_verdict", now)
            elif meeting.phase is Phase.CLOSED and not meeting.has_link:
                if now >= meeting.retry_at:
                    commands += self._ask_for_verdict(meeting, now)
            elif wait is not None and meeting.is_overdue(wait, self._deadlines, now):
                silence_s = meeting.silence.longest_s(now)
                self._deadlines.missed(wait, meeting.is_dense, silence_s, meeting.waited_for(wait))
                if wait in (Wait.ANSWER, Wait.VERDICT):
                    self._partners.failed(meeting.peer, now)
                if wait is Wait.VERDICT:
                    commands.append(CloseLink(meeting_id=meeting.meeting_id))
                    commands += self._wait_aside(meeting, now)
                    continue
                commands += self._give_up(meeting, "timeout", now)
            elif meeting.is_late(self._deadlines, now):
                self._set_aside(meeting, now)
        return commands

    def _set_aside(self, meeting: Initiated, now: float) -> None:
        """The partner is late: be free for others meanwhile. Its answer is as good as any when it comes."""
        meeting.is_aside = True
        self._partners.failed(meeting.peer, now)
        self._free_from(meeting)

    def _kept(self, wait: Wait, meeting: Initiated, now: float) -> None:
        """What was waited for has come."""
        silence_s = meeting.silence.longest_s(now)
        self._deadlines.kept(wait, meeting.is_dense, silence_s, meeting.waited_for(wait))

    def _ask_somebody(self, meeting: Initiated, now: float, reason: str) -> list[Command]:
        member = None
        if len(meeting.tried) < _MAX_PARTNERS_TRIED and meeting.meeting_id == self.active:
            member = self._partners.choose(now, frozenset(meeting.tried))
        if member is None:
            return self._give_up(meeting, reason, now)
        meeting.peer, meeting.attempts = member.peer, 0
        meeting.tried.add(member.peer)
        return self._offer(meeting, now)

    def _offer(self, meeting: Initiated, now: float) -> list[Command]:
        encoded = meeting.encoded
        if encoded is None:
            return self._give_up(meeting, "disconnect", now)
        meeting.enter(Phase.OFFERED, now)
        meeting.has_link = True
        meeting.attempts += 1
        offer = Offer(
            meeting_id=meeting.meeting_id,
            run_id=self._run_id,
            protocol_version=self._protocol_version,
            sender=self._own,
            receiver=meeting.peer,
            plans=encoded.plans,
            parts=encoded.parts,
            progress_steps=encoded.progress_steps,
            member=self.member,
            weight=encoded.weight,
        )
        return [self._open(meeting, offer)]

    def _ask_for_verdict(self, meeting: Initiated, now: float) -> list[Command]:
        if meeting.close is None:
            return []
        meeting.has_link, meeting.silence = True, Silence(now)
        meeting.attempts += 1
        meeting.retry_at = now + retry_after_s(meeting.attempts)
        return [self._open(meeting, meeting.close)]

    def _turned_away(self, meeting: Initiated, now: float) -> list[Command]:
        """Busy or a refusal where no offer is open: no verdict, and the partner ends the connection with it."""
        meeting.has_link = False
        return self._wait_aside(meeting, now) if meeting.phase is Phase.CLOSED else []

    def _wait_aside(self, meeting: Initiated, now: float) -> list[Command]:
        """Ask for the verdict again and again; not without the correction (``trainer_lost``), with which it is asked for."""
        if meeting.is_lost:
            return self._end(meeting, "half", "trainer", now)
        meeting.has_link = False
        meeting.retry_at = max(meeting.retry_at, now + retry_after_s(0))
        return []

    def _open(self, meeting: Initiated, message: Offer | Close | Confirm) -> OpenLink:
        meeting.link = self._partners.link_to(meeting.peer) or meeting.link
        return OpenLink(meeting_id=meeting.meeting_id, peer=meeting.peer, message=message, link=meeting.link)

    def _give_up(self, meeting: Initiated, reason: str, now: float) -> list[Command]:
        meeting_id = meeting.meeting_id
        ended = self._end(meeting, "failed", reason, now)
        return [DropMeeting(meeting_id=meeting_id), CloseLink(meeting_id=meeting_id), *ended]

    def _end(
        self,
        meeting: Initiated,
        outcome: str,
        reason: str,
        now: float,
        applied: CorrectionApplied | None = None,
    ) -> list[Command]:
        self._forget(meeting.meeting_id)
        if outcome == "failed" and reason != "yielded":  # who yields has another meeting instead
            self.missed.update(meeting.streams)
        return [
            ReportMeeting(
                meeting_id=meeting.meeting_id,
                peer=meeting.peer,
                role=Role.INITIATOR,
                streams=meeting.streams,
                outcome=outcome,
                reason=reason,
                duration_s=now - meeting.started_at,
                norms=applied.norms if applied else (),
                scales=applied.scales if applied else (),
                link=meeting.link,
                phases=meeting.phases(now),
            )
        ]

    def _forget(self, meeting_id: MeetingId) -> None:
        meeting = self._meetings.pop(meeting_id, None)
        if meeting is not None:
            self._free_from(meeting)

    def _free_from(self, meeting: Initiated) -> None:
        """The meeting has this node's attention no more."""
        if self.active == meeting.meeting_id:
            self.active = None
