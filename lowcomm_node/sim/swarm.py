"""A swarm in virtual time: real cores, real frames, any trainer, and conditions as rough as one likes.

What happens depends on the seed alone. Faults that are not the network's are methods: ``restart``, ``lose_trainer``.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Generic

from lowcomm_node.core.commands import (
    ApplyClose,
    CloseLink,
    Command,
    FetchFrozen,
    GiveUp,
    HangBell,
    Heal,
    HealReason,
    NoteRefusal,
    OpenLink,
    ReportMeeting,
    SeekPath,
    Send,
    TakeBell,
)
from lowcomm_node.core.events import (
    CorrectionApplied,
    Event,
    FetchFailed,
    LinkFailed,
    Member,
    MembersSeen,
    MessageReceived,
    Ticked,
    TrainerLost,
    TrainerReady,
)
from lowcomm_node.core.messages import Message, Refusal
from lowcomm_node.core.node import NodeCore, NodeRules
from lowcomm_node.errors import RefusalReason, RemoteProtocolError
from lowcomm_node.sim.bells import VirtualBells
from lowcomm_node.sim.clock import VirtualClock
from lowcomm_node.sim.conditions import Conditions, Passage, Trouble
from lowcomm_node.sim.link import VirtualLink, as_bytes, virtual_peer
from lowcomm_node.sim.node import VIRTUAL_RUN, Node, T, VirtualTrainer, rules
from lowcomm_node.units import PeerId
from lowcomm_node.wire.meeting import MeetingLimits

__all__ = ["VIRTUAL_RUN", "Node", "VirtualSwarm", "VirtualTrainer", "rules"]

_TICK_S = 0.25
_DOWNLOAD_S = 2.0
_FAREWELL_S = 1.0
"""What was sent before a link was closed still arrives; the far end sees the end of the stream then."""
_NOBODY_S = 2.0
"""A dial to a machine that is gone, until it is given up."""


class VirtualSwarm(VirtualClock, Generic[T]):
    """Everything is drawn from one seed; running it twice gives the same history.

    Everybody knows everybody, and reports are kept with their nodes. ``introduce``, ``passage``, ``heard``, ``handled`` and
    ``reported`` are there for swarms that do it in another way.

    Args:
        trainers: one for each node.
        seed: of all chance, the nodes' own included.
        faults: rate of ``Trouble``, when no other ``conditions`` are given.
        conditions: network and machines.
        make_rules: the rules of a node's life from its peer id and the life's seed.
        step_s: mean length of an own step under ``Trouble``.
        max_payload_bytes: most that a reader takes in one message.
        max_tensors: of the model, for the readers.
        tick_s: time between two ticks of a node.
        is_lazy: nodes without a meeting under way are not ticked, which is faster and changes nothing but what is forgotten when.
    """

    def __init__(
        self,
        trainers: Sequence[T],
        *,
        seed: int,
        faults: float = 0.0,
        conditions: Conditions | None = None,
        make_rules: Callable[[PeerId, bytes], NodeRules] = rules,
        step_s: float = 0.2,
        max_payload_bytes: int = 1 << 20,
        max_tensors: int = 64,
        tick_s: float = _TICK_S,
        is_lazy: bool = False,
    ) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.conditions = conditions or Trouble(self.random, faults=faults, step_s=step_s)
        self.is_stepping = True
        self.refused: list[RefusalReason] = []
        """What the readers found wrong with frames."""
        self._make_rules = make_rules
        self._seed = str(seed).encode()
        self._max_payload_bytes, self._max_tensors = max_payload_bytes, max_tensors
        self._tick_s, self._is_lazy = tick_s, is_lazy
        self._links: dict[VirtualLink, None] = {}
        """In the order in which they were made: that of a set would differ from run to run."""
        self._count = 0
        self.nodes: dict[PeerId, Node[T]] = {}
        self._bells = VirtualBells(self.nodes, self.conditions, now=lambda: self.now, at=self.at, feed=self.feed)
        added = [self._create(trainer) for trainer in trainers]
        for node in added:
            self._start(node, is_ready=True)

    def __getitem__(self, index: int) -> Node[T]:
        return self.nodes[virtual_peer(index)]

    def settle(self) -> None:
        """End training and faults, and give every meeting the time to end."""
        self.is_stepping = False
        if isinstance(self.conditions, Trouble):
            self.conditions.faults = 0.0
        self.run(self.now + 3 * self._make_rules(virtual_peer(0), self._seed).verdict_keep_s)

    def add(self, trainer: T, *, is_ready: bool) -> Node[T]:
        """One more node; ``make_ready`` when its trainer has no state yet."""
        node = self._create(trainer)
        self._start(node, is_ready=is_ready)
        return node

    def make_ready(self, node: Node[T]) -> None:
        """The trainer has its state in place."""
        if not node.is_gone:
            self._trainer_up(node, node.life)

    def remove(self, node: Node[T]) -> None:
        """The machine is gone for good, with all it knew. Its partners see their connections end."""
        node.is_gone, node.has_trainer = True, False
        node.life += 1
        del self.nodes[node.name]  # first: a partner that hears of it may dial again at once
        self._cut(node)
        self._bells.cut(node)

    # How nodes get to know each other, how messages travel, and what is made of what happens.

    def introduce(self, node: Node[T]) -> None:
        """A core that knows nobody has come to life."""
        members = tuple(
            Member(peer=name, grpc_address=name, progress_steps=0, has_state=True, expires_at=1e9)
            for name in self.nodes
        )
        self.feed(node, MembersSeen(members=members))

    def passage(self, link: VirtualLink, sender: PeerId, message: Message, *, is_first: bool) -> Passage:
        """The fate of a message; ``is_first`` when the connection has to be made for it."""
        return self.conditions.carry(sender, link.other(sender), as_bytes(message), self.now)

    def heard(self, node: Node[T], message: Message) -> None:
        """A complete message has come, and the core has not been told yet."""

    def handled(self, node: Node[T], event: Event, commands: Sequence[Command]) -> None:
        """A core has decided, and nothing of it has been done yet."""

    def no_donor(self, node: Node[T]) -> None:
        """The node wants to heal, and nobody has state to give. It goes on asking."""

    def give_up(self, node: Node[T]) -> None:
        """The node has healed again and again in vain, and ends."""
        self.remove(node)

    def fetch_frozen(self, node: Node[T], command: FetchFrozen) -> None:
        """The node wants a file with frozen factors; nobody here has one to give."""
        self.feed(node, FetchFailed(epoch=command.epoch, digest=command.digest, is_busy=False))

    def reported(self, node: Node[T], report: ReportMeeting) -> None:
        """A meeting is over for this node."""
        node.reports.append(report)

    def feed(self, node: Node[T], event: Event) -> None:
        """Something happens to a node; its commands are carried out."""
        commands = node.core.handle(event, self.now)
        self.handled(node, event, commands)
        for command in commands:
            self._execute(node, command)
        if self._is_lazy and not node.is_ticking and not node.is_gone and not node.core.is_settled():
            node.is_ticking = True
            self.at(self._tick_s, partial(self._tick, node))

    def lose_trainer(self, node: Node[T]) -> None:
        """The trainer dies; a new one is there after a while."""
        self._trainer_down(node)
        self.feed(node, TrainerLost())

    def restart(self, node: Node[T]) -> None:
        """The daemon dies and takes its trainer along. The next life knows nothing of the meetings of this one."""
        self._trainer_down(node)
        self._cut(node)
        self._bells.cut(node)
        node.core = NodeCore(self._make_rules(node.name, self._seed + b" life %d" % node.life))
        self.introduce(node)

    def heal(self, node: Node[T], reason: HealReason) -> None:
        """The node's core has found its state unfit; that of a random other node takes its place after a while."""
        node.trainer.forget()
        node.answered.clear()
        node.has_trainer = False
        node.life += 1
        self.at(_DOWNLOAD_S * (0.5 + self.random.random()), partial(self._take_over, node, node.life))

    def _take_over(self, node: Node[T], life: int) -> None:
        if node.life != life or node.is_gone:
            return
        donors = [other for other in self.nodes.values() if other is not node and other.core.has_sound_state]
        if donors:
            node.trainer.take_over(self.random.choice(donors).trainer)
            self._trainer_up(node, life)
        else:
            self.no_donor(node)
            self.at(_DOWNLOAD_S, partial(self._take_over, node, life))

    def _create(self, trainer: T) -> Node[T]:
        name = virtual_peer(self._count)
        self._count += 1
        own_rules = self._make_rules(name, self._seed)
        limits = MeetingLimits(
            run_id=own_rules.run_id,
            peer_id=name,
            protocol_version=own_rules.protocol_version,
            max_payload_bytes=self._max_payload_bytes,
            max_tensors=self._max_tensors,
        )
        node = self.nodes[name] = Node(name, NodeCore(own_rules), trainer, limits)
        return node

    def _start(self, node: Node[T], *, is_ready: bool) -> None:
        self.introduce(node)
        if is_ready:
            self._trainer_up(node, node.life)
        self.at(self.random.random(), partial(self._step, node))
        if not self._is_lazy:
            self.at(self.random.random(), partial(self._tick, node))

    def _cut(self, node: Node[T]) -> None:
        """End all connections of a node that hears nothing of it."""
        links = [link for link in self._links if node.name in link.ends()]
        for link in links:
            node.links.pop(link.meeting_id, None)
            self._break(link, "disconnect")

    def _trainer_down(self, node: Node[T]) -> None:
        node.trainer.forget()
        node.has_trainer = False
        node.life += 1
        self.at(0.5 + self.random.random(), partial(self._trainer_up, node, node.life))

    def _trainer_up(self, node: Node[T], life: int) -> None:
        if node.life == life:
            node.has_trainer = True
            self.feed(node, TrainerReady(applied_meetings=tuple(node.answered)))

    def _step(self, node: Node[T]) -> None:
        if not self.is_stepping or node.is_gone:
            return
        put_off_s = self.conditions.put_off_s(node.name, self.now)
        if put_off_s > 0:
            self.at(put_off_s, partial(self._step, node))
            return
        taken = node.trainer.step(self.random) if node.has_trainer else None
        if taken is not None:
            self.feed(node, taken)
        self.at(self.conditions.step_s(node.name, self.now), lambda: self._step(node))

    def _tick(self, node: Node[T]) -> None:
        if node.is_gone:
            return
        node.is_ticking = False
        self.feed(node, Ticked())
        if not self._is_lazy:
            self.at(self._tick_s, lambda: self._tick(node))

    def _execute(self, node: Node[T], command: Command) -> None:
        match command:
            case OpenLink():
                link = VirtualLink(command.meeting_id, node.name, command.peer, command.link)
                self._links[link] = None
                node.links[command.meeting_id] = link
                impossible_s = self._bells.impossible_s(node.name, command.peer, command.link)
                if impossible_s is None and link.answerer not in self.nodes:
                    impossible_s = _NOBODY_S
                if impossible_s is not None:
                    self.at(impossible_s, lambda: self._break(link, "unreachable"))
                else:
                    self._transmit(link, node.name, command.message, is_first=True)
            case Send():
                newest = node.links.get(command.meeting_id)
                if newest is not None:
                    self._transmit(newest, node.name, command.message, is_first=False)
            case CloseLink():
                # what was sent is still delivered; the far end sees the stream end
                gone = node.links.pop(command.meeting_id, None)
                if gone is not None:
                    gone.closed_by.add(node.name)
                    self.at(_FAREWELL_S, lambda: self._break(gone, "disconnect"))
            case HangBell() | TakeBell() | SeekPath():
                self._bells.carry_out(node, command)
            case NoteRefusal():
                pass  # the simulator's peers are not left alone: what hostile ones can do at most is what it is to show
            case ReportMeeting():
                self.reported(node, command)
            case Heal():
                self.heal(node, command.reason)
            case FetchFrozen():
                self.fetch_frozen(node, command)
            case GiveUp():
                self.give_up(node)
            case _:
                assert node.has_trainer, f"{type(command).__name__} for a trainer that is not there"
                # in the order they were given, as through a pipe
                serve_s = self.conditions.serve_s(node.name, command, self.now)
                node.served_until = max(node.served_until, self.now + serve_s)
                self.at(node.served_until - self.now, partial(self._train, node, node.life, command))

    def _train(self, node: Node[T], life: int, command: Command) -> None:
        event = node.trainer.carry_out(command) if node.life == life else None
        if isinstance(command, ApplyClose) and isinstance(event, CorrectionApplied):
            node.answered.append(event.meeting_id)
        if event is not None:
            self.feed(node, event)

    def _transmit(self, link: VirtualLink, sender: PeerId, message: Message, *, is_first: bool) -> None:
        passage = self.passage(link, sender, message, is_first=is_first)
        for delay_s, frames in passage.arrivals:
            self.at(delay_s, partial(self._deliver, link, sender, frames))
        if passage.breaks_after_s is not None:
            self.at(passage.breaks_after_s, lambda: self._break(link, "disconnect"))

    def _deliver(self, link: VirtualLink, sender: PeerId, frames: list[bytes]) -> None:
        if not link.is_open:
            return
        receiver = self.nodes[link.other(sender)]
        try:
            messages = link.read(receiver.limits, frames)
        except RemoteProtocolError as error:
            self._refuse(link, receiver, error.reason)
            return
        for message in messages:
            if receiver.name == link.answerer and receiver.name not in link.closed_by:
                receiver.links[message.meeting_id] = link  # newest connection wins
            elif receiver.name == link.dialler and receiver.links.get(message.meeting_id, link) is not link:
                return  # the initiator has replaced this connection
            self.heard(receiver, message)
            self.feed(receiver, MessageReceived(message=message, link=link.kind))

    def _refuse(self, link: VirtualLink, receiver: Node[T], reason: RefusalReason) -> None:
        """As ``adapters.meeting_stream``: the answerer says why and ends the stream in order, the initiator just ends it."""
        self.refused.append(reason)
        if receiver.name == link.dialler:
            self._break(link, "disconnect", {receiver.name: reason.value})
            return
        if receiver.links.get(link.meeting_id) is link:
            del receiver.links[link.meeting_id]
            self.feed(receiver, LinkFailed(meeting_id=link.meeting_id, reason=reason.value))
        refusal = as_bytes(Refusal(meeting_id=link.meeting_id, reason=reason))
        self.at(0.02, lambda: self._deliver(link, receiver.name, refusal))
        self.at(0.03, lambda: self._drop(link))

    def _drop(self, link: VirtualLink) -> None:
        """An end in order, of which the cores hear nothing."""
        link.is_open = False
        self._links.pop(link, None)
        for end in self._listening(link):
            del self.nodes[end].links[link.meeting_id]

    def _break(self, link: VirtualLink, reason: str, own_reasons: Mapping[PeerId, str] | None = None) -> None:
        listening = self._listening(link)
        self._drop(link)
        for end in listening:
            told = (own_reasons or {}).get(end, reason)
            self.feed(self.nodes[end], LinkFailed(meeting_id=link.meeting_id, reason=told))

    def _listening(self, link: VirtualLink) -> list[PeerId]:
        """Ends for which this is the meeting's connection."""
        return [e for e in link.ends() if e in self.nodes and self.nodes[e].links.get(link.meeting_id) is link]
