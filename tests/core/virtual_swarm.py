"""A swarm in virtual time: real cores, an exact one-number trainer, and a network that breaks in every way it can."""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial

from lowcomm_node.core.commands import (
    ApplyClose,
    CloseLink,
    Command,
    DropMeeting,
    EncodeAnswer,
    EncodeClose,
    EncodeOffer,
    OpenLink,
    ReportMeeting,
    Send,
    SettleMeeting,
)
from lowcomm_node.core.events import (
    AnswerEncoded,
    CloseEncoded,
    CorrectionApplied,
    EncodingRefused,
    Event,
    LinkFailed,
    Member,
    MembersSeen,
    MessageReceived,
    OfferEncoded,
    StepsTaken,
    Ticked,
    TrainerLost,
)
from lowcomm_node.core.messages import Message, StreamPlan
from lowcomm_node.core.node import NodeCore, NodeRules
from lowcomm_node.errors import RefusalReason
from lowcomm_node.units import Codec, Dtype, MeetingId, PeerId, RunId, Stream

PLAN = StreamPlan(stream=Stream.PARAMS, codec=Codec.DENSE, dtype=Dtype.FP32, ranks=(-1,))
DEADLINE_S = 5.0
KEEP_S = 30.0


def rules(own: str, seed: bytes = b"s", period: int = 4) -> NodeRules:
    """Rules of a test node."""
    return NodeRules(
        own=PeerId(own),
        run_id=RunId("r"),
        protocol_version=1,
        periods={Stream.PARAMS: period},
        deadline_s=DEADLINE_S,
        verdict_keep_s=KEEP_S,
        max_peers=16,
        seed=seed + own.encode(),
    )


@dataclass
class Trainer:
    """A model of one exact number; the correction of a meeting is half the difference."""

    value: Fraction
    drift: Fraction = Fraction(0)
    offers: dict[MeetingId, Fraction] = field(default_factory=dict)
    answers: dict[MeetingId, tuple[Fraction, Fraction]] = field(default_factory=dict)
    held: dict[MeetingId, Fraction] = field(default_factory=dict)
    applied: list[MeetingId] = field(default_factory=list)

    def step(self, by: Fraction) -> None:
        self.value += by
        self.drift += by

    def carry_out(self, command: Command) -> Event | None:
        done = {"norms": ((Stream.PARAMS, 1.0),)}
        match command:
            case EncodeOffer(meeting_id=meeting):
                self.offers[meeting] = self.value
                return OfferEncoded(
                    meeting_id=meeting, plans=(PLAN,), parts=(str(self.value).encode(),), progress_steps=0
                )
            case EncodeAnswer(offer=offer):
                theirs = Fraction(offer.parts[0].decode())
                self.answers[offer.meeting_id] = (theirs, self.value)
                return AnswerEncoded(meeting_id=offer.meeting_id, parts=(str(self.value).encode(),), progress_steps=0)
            case EncodeClose(answer=answer):
                if answer.meeting_id not in self.offers:
                    return self._unknown(answer.meeting_id)
                ours = self.offers.pop(answer.meeting_id)
                self.held[answer.meeting_id] = (ours - Fraction(answer.parts[0].decode())) / 2
                return CloseEncoded(meeting_id=answer.meeting_id, parts=(b"",))
            case ApplyClose(close=close):
                if close.meeting_id not in self.answers:
                    return self._unknown(close.meeting_id)
                theirs, ours = self.answers.pop(close.meeting_id)
                self.value += (theirs - ours) / 2
                self.applied.append(close.meeting_id)
                return CorrectionApplied(meeting_id=close.meeting_id, norms=done["norms"])
            case SettleMeeting(meeting_id=meeting):
                if meeting not in self.held:
                    return self._unknown(meeting)
                self.value -= self.held.pop(meeting)
                self.applied.append(meeting)
                return CorrectionApplied(meeting_id=meeting, norms=done["norms"])
            case DropMeeting(meeting_id=meeting):
                for store in (self.offers, self.answers, self.held):
                    store.pop(meeting, None)
        return None

    def _unknown(self, meeting: MeetingId) -> EncodingRefused:
        return EncodingRefused(meeting_id=meeting, reason=RefusalReason.UNKNOWN_MEETING, detail="")


@dataclass
class Node:
    """One node: core, trainer and what it reported."""

    name: PeerId
    core: NodeCore
    trainer: Trainer
    steps: int = 0
    reports: list[ReportMeeting] = field(default_factory=list)
    links: dict[MeetingId, int] = field(default_factory=dict)


class VirtualSwarm:
    """Everything is drawn from one seed; running it twice gives the same history."""

    def __init__(self, count: int, seed: int, *, faults: float) -> None:
        self.random = random.Random(seed)
        self.faults = faults
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._ends: dict[int, tuple[Node, Node]] = {}
        self._link_ids = itertools.count()
        self.nodes: dict[PeerId, Node] = {}
        self.is_stepping = True
        for index in range(count):
            name = PeerId(f"n{index}")
            core = NodeCore(rules(name, str(seed).encode()))
            self.nodes[name] = Node(name, core, Trainer(Fraction(self.random.randrange(-1000, 1000))))
        members = tuple(
            Member(peer=name, grpc_address=name, progress_steps=0, has_state=True, expires_at=1e9)
            for name in self.nodes
        )
        for node in self.nodes.values():
            self.feed(node, MembersSeen(members=members))
            self.at(self.random.random(), partial(self._step, node))
            self.at(self.random.random(), partial(self._tick, node))

    def at(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + delay_s, next(self._order), action))

    def run(self, until_s: float) -> None:
        while self._queue and self._queue[0][0] <= until_s:
            self.now, _, action = heapq.heappop(self._queue)
            action()
        self.now = until_s

    def feed(self, node: Node, event: Event) -> None:
        for command in node.core.handle(event, self.now):
            self._execute(node, command)

    def lose_trainer(self, node: Node) -> None:
        """The trainer dies and comes back empty-handed, its number intact (a checkpoint of this instant)."""
        node.trainer.offers, node.trainer.answers, node.trainer.held = {}, {}, {}
        self.feed(node, TrainerLost())

    def _step(self, node: Node) -> None:
        if not self.is_stepping:
            return
        node.steps += 1
        node.trainer.step(Fraction(self.random.randrange(-9, 10)))
        self.feed(node, StepsTaken(steps=node.steps))
        self.at(0.1 + self.random.random() * 0.2, lambda: self._step(node))

    def _tick(self, node: Node) -> None:
        self.feed(node, Ticked())
        self.at(0.25, lambda: self._tick(node))

    def _execute(self, node: Node, command: Command) -> None:
        match command:
            case OpenLink():
                link = next(self._link_ids)
                other = self.nodes[PeerId(command.grpc_address)]
                self._ends[link] = (node, other)
                node.links[command.meeting_id] = link
                if self.random.random() < self.faults / 4:
                    self.at(0.05, lambda: self._break(link, command.meeting_id, "unreachable"))
                else:
                    self._transmit(link, node, command.message)
            case Send():
                link_or_none = node.links.get(command.meeting_id)
                if link_or_none is not None:
                    self._transmit(link_or_none, node, command.message)
            case CloseLink():
                # what was sent is still delivered; the far end sees the stream end
                gone = node.links.pop(command.meeting_id, None)
                if gone is not None:
                    self.at(1.0, lambda: self._break(gone, command.meeting_id, "disconnect"))
            case ReportMeeting():
                node.reports.append(command)
            case _:
                self.at(self.random.random() * 0.2, lambda: self._train(node, command))

    def _train(self, node: Node, command: Command) -> None:
        event = node.trainer.carry_out(command)
        if event is not None:
            self.feed(node, event)

    def _transmit(self, link: int, sender: Node, message: Message) -> None:
        if link not in self._ends:
            return
        fate = self.random.random()
        if fate < self.faults:  # the connection breaks, with or without the message having arrived
            if self.random.random() < 0.5:
                self.at(0.02, lambda: self._deliver(link, sender, message))
            self.at(0.03, lambda: self._break(link, message.meeting_id, "disconnect"))
        elif fate < 1.5 * self.faults:
            pass  # swallowed without a sign: only deadlines help
        else:
            self.at(0.01 + self.random.random() * 0.1, lambda: self._deliver(link, sender, message))
            if self.random.random() < self.faults:
                self.at(0.2, lambda: self._deliver(link, sender, message))

    def _deliver(self, link: int, sender: Node, message: Message) -> None:
        ends = self._ends.get(link)
        if ends is None:
            return
        receiver = ends[1] if ends[0] is sender else ends[0]
        if receiver is ends[1]:
            receiver.links[message.meeting_id] = link  # newest connection wins
        elif receiver.links.get(message.meeting_id) != link:
            return  # the initiator has closed or replaced this connection
        self.feed(receiver, MessageReceived(message=message))

    def _break(self, link: int, meeting_id: MeetingId, reason: str) -> None:
        ends = self._ends.pop(link, None)
        for node in ends or ():
            if node.links.get(meeting_id) == link:
                del node.links[meeting_id]
                self.feed(node, LinkFailed(meeting_id=meeting_id, reason=reason))
