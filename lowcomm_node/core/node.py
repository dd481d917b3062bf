"""The node's decisions: one method, ``handle(event, now) -> commands``. State changes nowhere else.

``now`` is in seconds on any clock that does not go back; member expiries in events are on the same clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from lowcomm_node.core.answerer import AnsweringEnd, turn_away
from lowcomm_node.core.chance import Chance
from lowcomm_node.core.commands import Command, HealReason, NoteRefusal
from lowcomm_node.core.deadlines import Deadline, Deadlines
from lowcomm_node.core.events import (
    AnswerEncoded,
    BellHung,
    BellLost,
    BellsHeld,
    CloseEncoded,
    CorrectionApplied,
    DrainRequested,
    EncodingRefused,
    Event,
    FetchFailed,
    FrozenHeld,
    FrozenRefused,
    FrozenUsed,
    LineChanged,
    LinkFailed,
    MembersSeen,
    MessageProgressed,
    MessageReceived,
    OfferEncoded,
    PathSought,
    PauseChanged,
    ReachabilityMeasured,
    RecordRenewed,
    SplitFailed,
    StepsTaken,
    Ticked,
    TrainerLost,
    TrainerReady,
)
from lowcomm_node.core.frozen import FrozenAgreement
from lowcomm_node.core.health import Health
from lowcomm_node.core.initiator import InitiatingEnd
from lowcomm_node.core.messages import Answer, Busy, Close, Confirm, Offer, Refusal, Verdict
from lowcomm_node.core.partners import Partners
from lowcomm_node.core.places import Fullness
from lowcomm_node.core.reach import Reach
from lowcomm_node.core.schedule import ExchangeSchedule, Timing
from lowcomm_node.errors import RefusalReason
from lowcomm_node.units import LinkKind, PeerId, RunId, Stream

__all__ = ["NodeCore", "NodeRules"]

_STOOD_STILL_S = 10.0
"""Between two ticks: this process was stopped, and what it waits for may have come meanwhile and lie unread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRules:
    """What the core needs to know of manifest and settings."""

    own: PeerId
    run_id: RunId
    protocol_version: int
    periods: Mapping[Stream, int]
    """K per stream in own steps; 0 is never."""
    deadline_s: float
    """The longest deadline of a wait."""
    verdict_keep_s: float
    max_peers: int
    seed: bytes
    """Of this life of this node: meeting ids must not repeat after a restart."""
    timing: Timing = Timing.UNIFORM
    num_bells: int = 8
    """Most bells that hang at other members while this node cannot be dialled."""
    clip_ratio: float = 4.0
    """As the manifest has it (meeting.clip_ratio)."""
    shortest_deadline_s: float = 3.0
    """A trainer that validates, a machine that is busy otherwise: such pauses are longer than any median on loopback."""
    frozen_patience_s: float = 5.0
    """How long a member waits for the one before it to split: longer than news of a record takes where it is looked for each second."""


class NodeCore:
    """One node. Invariants: at most one meeting has its attention; each meeting id gets one verdict.

    While there is no trainer with the run's state (before TrainerReady, after TrainerLost or Heal) it takes part in no meeting:
    commands to the trainer would get lost, or be carried out on weights that are about to be replaced.
    """

    def __init__(self, rules: NodeRules) -> None:
        self.rules = rules
        self.partners = Partners(rules.own, rules.max_peers, Chance(rules.seed + b"partners"))
        self.reach = Reach(num_bells=rules.num_bells, partners=self.partners, chance=Chance(rules.seed + b"reach"))
        self.frozen = FrozenAgreement(
            own=rules.own,
            partners=self.partners,
            chance=Chance(rules.seed + b"frozen"),
            patience_s=rules.frozen_patience_s,
        )
        self._schedule = ExchangeSchedule(rules.periods, Chance(rules.seed + b"schedule"), rules.timing)
        self._longest_s = rules.deadline_s
        self._deadlines = Deadlines(shortest_s=rules.shortest_deadline_s, longest_s=rules.deadline_s)
        self._health = Health(rules.clip_ratio)
        self._initiator = InitiatingEnd(
            own=rules.own,
            run_id=rules.run_id,
            protocol_version=rules.protocol_version,
            deadlines=self._deadlines,
            verdict_keep_s=rules.verdict_keep_s,
            partners=self.partners,
            chance=Chance(rules.seed + b"meetings"),
        )
        self._answerer = AnsweringEnd(deadlines=self._deadlines, verdict_keep_s=rules.verdict_keep_s)
        self._is_ready = False
        self._is_draining = False
        self._is_line_open = True
        self._is_paused = False
        self._ticked_at = inf

    def handle(self, event: Event, now: float) -> list[Command]:  # noqa: C901 - a table: one line per event
        """Take in what happened; say what to do. Never raises on anything a peer can cause."""
        match event:
            case Ticked():
                return self._ticked(now)
            case StepsTaken():
                return self._steps_taken(event, now)
            case MembersSeen():
                self.partners.see_all(event.members, now)
                return self.reach.looked_around(now) + self.frozen.looked(now)
            case ReachabilityMeasured() | BellHung() | BellLost() | BellsHeld() | PathSought():
                return self._connected(event, now)
            case MessageProgressed():
                self._initiator.progressed(event.meeting_id, now)
                self._answerer.progressed(event.meeting_id, now)
                return []
            case MessageReceived():
                return self._received(event, now)
            case LinkFailed():
                if self._answerer.knows(event.meeting_id):
                    return self._answerer.link_failed(event.meeting_id)
                return self._initiator.link_failed(event.meeting_id, event.reason, now)
            case OfferEncoded():
                return self._initiator.offer_encoded(event, now)
            case AnswerEncoded():
                return self._answerer.answer_encoded(event, now)
            case CloseEncoded():
                return self._initiator.close_encoded(event, now)
            case CorrectionApplied():
                return self._corrected(event, now)
            case EncodingRefused():
                return self._encoding_refused(event, now)
            case FrozenHeld() | FrozenUsed() | FrozenRefused() | FetchFailed() | SplitFailed():
                return self.frozen.handle(event, now)
            case TrainerReady():
                self._is_ready = True
                self.frozen.trainer_ready(now)
                self._health.state_replaced(now)
                if event.due:
                    self._schedule.resume(dict(event.due))
                return self._answerer.state_restored(event.applied_meetings, now)
            case TrainerLost():
                return self._without_state(now)
            case RecordRenewed():
                self._initiator.member = event.member
                return []
            case LineChanged():
                self._is_line_open = event.is_open
                return []
            case PauseChanged():
                self._is_paused = event.is_paused
                return []
            case DrainRequested():
                self._is_draining = True
                return []

    def due(self) -> Mapping[Stream, int]:
        """Own step after which each stream's next meeting is due; comes back with TrainerReady after a restart."""
        return self._schedule.due_at

    def is_settled(self) -> bool:
        """No meeting is under way at either end."""
        return self._initiator.is_settled() and self._answerer.is_settled()

    def phase(self) -> str:
        """What the active meeting is doing, for people; empty when there is none."""
        return self._initiator.phase() or self._answerer.phase()

    def deadlines(self) -> tuple[Deadline, ...]:
        """What this node waits for, and how long at most, for people."""
        return self._deadlines.current()

    def num_bells(self) -> tuple[int, int]:
        """Members that can ring this node, and members that it can ring."""
        return len(self.reach.bells()), self.partners.num_bells

    def fullness(self) -> Mapping[str, Fullness]:
        """Of what the core keeps of meetings and members."""
        unsettled, confirmations = self._initiator.fullness()
        answered, askers = self._answerer.fullness()
        return {
            "unsettled": unsettled,
            "confirmations": confirmations,
            "answered": answered,
            "askers": askers,
            "slow_peers": self._deadlines.fullness,
            "seeking": self.reach.fullness,
            "members": Fullness(len(self.partners), self.rules.max_peers),
        }

    @property
    def has_sound_state(self) -> bool:
        """Can this node meet others, and give its state to joiners? Its record should say so."""
        return self._is_ready and self._health.unwell is None

    @property
    def _is_open(self) -> bool:
        """The owner lets machine and line be used for new meetings."""
        return self._is_line_open and not self._is_paused

    def _is_free(self) -> bool:
        return self._initiator.active is None and self._answerer.active is None

    def _ticked(self, now: float) -> list[Command]:
        """Let go of what is overdue; after a standstill only at the next tick, when what has come meanwhile was read.

        Else a node that slept would call meetings half whose last word lies in its own mailbox.
        """
        has_stood_still = now - self._ticked_at > _STOOD_STILL_S
        self._ticked_at = now
        self.partners.expire(now)
        overdue = [] if has_stood_still else self._initiator.ticked(now) + self._answerer.ticked(now)
        return overdue + self.frozen.ticked(now) + self._take_care(now)

    def _steps_taken(self, event: StepsTaken, now: float) -> list[Command]:
        self._health.stepped(event.steps, event.nonfinite_steps, now)
        agreeing = self.frozen.stepped(event.stage, event.epoch, now)
        self._schedule.missed(sorted(self._initiator.missed), event.steps)
        self._initiator.missed.clear()
        due = self._schedule.due(event.steps)
        may_start = self._is_open and not self._is_draining and self.has_sound_state and self._is_free()
        if not due or not may_start:
            return agreeing + self._take_care(now)  # what is due stays due
        self._schedule.met(due, event.steps)
        return agreeing + self._initiator.start(due, event.is_cooldown, now)

    def _connected(
        self, event: ReachabilityMeasured | BellHung | BellLost | BellsHeld | PathSought, now: float
    ) -> list[Command]:
        match event:
            case ReachabilityMeasured():
                return self.reach.measured(event.reachability, now)
            case BellHung():
                self.reach.hung(event.peer)
            case BellLost():
                self.reach.lost(event.peer, now)
            case BellsHeld():
                self.partners.bells_held(event.peers)
            case PathSought():
                self.reach.sought(event.peer, now, is_direct=event.is_direct)
        return []

    def _received(self, event: MessageReceived, now: float) -> list[Command]:
        message = event.message
        meeting_id = message.meeting_id
        peer = self._initiator.peer_of(meeting_id) or self._answerer.peer_of(meeting_id)
        if peer is not None:
            self.partners.heard_from(peer, now)
        match message:
            case Offer():
                return self._offered(message, event.link, now)
            case Answer():
                return self._initiator.answered(message, now)
            case Close():
                return self._answerer.close_received(message, now)
            case Verdict():
                return self._initiator.verdict_received(message, now)
            case Confirm():
                heard = self._initiator.confirmation_heard(meeting_id)
                return heard or self._answerer.confirmed(meeting_id, now)
            case Busy():
                return self._initiator.busy(meeting_id, now)
            case Refusal(reason=RefusalReason.TOO_MANY):
                if peer is not None:
                    self.partners.failed(peer, now)
                return self._initiator.busy(meeting_id, now)  # others may have room for the same offer
            case Refusal():
                return self._initiator.refused(meeting_id, message.reason.value, now)

    def _offered(self, offer: Offer, link: LinkKind, now: float) -> list[Command]:
        if self._answerer.knows(offer.meeting_id):
            return self._answerer.offered_again(offer.meeting_id)
        if self._is_draining:
            return turn_away(Refusal(meeting_id=offer.meeting_id, reason=RefusalReason.LEAVING))
        if not self.has_sound_state:
            return turn_away(Refusal(meeting_id=offer.meeting_id, reason=RefusalReason.NOT_READY))
        if turned_away := self._answerer.turn_away_again(offer, now):
            return turned_away
        is_ours = self._initiator.knows(offer.meeting_id)  # a meeting id somebody has copied from us
        is_engaged = self._answerer.active is not None or not self._initiator.yields_to(offer.sender, now)
        if is_ours or is_engaged or not self._is_open:
            return turn_away(Busy(meeting_id=offer.meeting_id))
        yielded = self._initiator.yield_active(offer.sender, now)
        self.partners.heard_from(offer.sender, now)
        return yielded + self._answerer.offered(offer, now, link)

    def _corrected(self, event: CorrectionApplied, now: float) -> list[Command]:
        meeting_id = event.meeting_id
        end = self._answerer if self._answerer.knows(meeting_id) else self._initiator
        peer, is_dense = end.peer_of(meeting_id), end.is_dense(meeting_id)
        if peer is None:
            return []
        self.partners.came_over(peer, end.link_of(meeting_id), is_own_choice=end is self._initiator)
        commands = self._answerer.applied(event, now) if end is self._answerer else self._initiator.settled(event, now)
        if commands:
            self._health.corrected(
                peer,
                is_dense=is_dense,
                norms=event.norms,
                scales=event.scales,
                num_others=self.partners.num_with_state(),
                now=now,
            )
        return commands

    def _take_care(self, now: float) -> list[Command]:
        """Have this node healed when it is unwell. Meetings under way may end first, unless nothing here is finite."""
        health = self._health
        if health.unwell is None or not self._is_ready or self._is_draining or self._is_paused:
            return []
        is_urgent = health.unwell is HealReason.NONFINITE or now - health.unwell_since > self._longest_s
        if not is_urgent and not self.is_settled():
            return []
        cure = health.cure(now)
        return [*self._without_state(now), cure] if cure is not None else []

    def _without_state(self, now: float) -> list[Command]:
        """The state is gone, or about to be; what was pending in the trainer too."""
        self._is_ready = False
        self.frozen.trainer_lost()
        return self._initiator.trainer_lost(now) + self._answerer.trainer_lost(now)

    def _encoding_refused(self, event: EncodingRefused, now: float) -> list[Command]:
        end = self._answerer if self._answerer.knows(event.meeting_id) else self._initiator
        peer = end.peer_of(event.meeting_id)
        if peer is None:
            return []  # it was followed, and is being confirmed; or it is over
        note = NoteRefusal(peer=peer, reason=event.reason, detail=event.detail, is_offence=event.is_offence)
        notes = [note] if peer else []  # an own offer that the trainer could not make is nobody's
        if end is self._answerer:
            return [*self._answerer.refused(event, now), *notes]
        return [*self._initiator.encoding_refused(event, now), *notes]
