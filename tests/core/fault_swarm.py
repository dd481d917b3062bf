"""A swarm of exact numbers to which everything happens: crashes, freezes, partitions, older states, clocks that jump.

All of it in virtual time and from one seed. ``check`` says at the end whether the guarantees of docs/protocol.md have held.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from random import Random

from lowcomm_node.core.commands import Command, HealReason, OpenLink
from lowcomm_node.core.events import Event, Member, MembersSeen
from lowcomm_node.core.messages import Message
from lowcomm_node.core.node import NodeRules
from lowcomm_node.sim.conditions import Passage, Trouble
from lowcomm_node.sim.link import VirtualLink, as_bytes
from lowcomm_node.sim.swarm import Node, VirtualSwarm, rules
from lowcomm_node.units import MeetingId, PeerId
from tests.core.exact_trainer import ExactTrainer

KEEP_S = 6.0
_DEADLINE_S = 2.0
_STALL_S = 12.0
"""Whatever a peer does: the adapters end a stream that is as old and stands still."""
_RECORD_TTL_S = 8.0
_LOOK_EVERY_S = 2.0
_CHECKPOINT_EVERY_S = 1.5
_LAST_FAULT_S = 4.0
_PATIENCE_S = 90.0
"""After the faults, until every node must have met again. One that diverges twice heals again after a minute, not earlier."""

ExactNode = Node[ExactTrainer]
Happening = tuple[float, PeerId, Event, tuple[Command, ...]]


@dataclass(frozen=True)
class _Checkpoint:
    value: Fraction
    drift: Fraction
    steps: int
    moved: dict[MeetingId, Fraction]
    answered: tuple[MeetingId, ...]


def _fault_rules(own: PeerId, seed: bytes) -> NodeRules:
    return rules(own, seed, deadline_s=_DEADLINE_S, verdict_keep_s=KEEP_S)


class FaultSwarm(VirtualSwarm[ExactTrainer]):
    """Faults are methods; what they excuse is remembered for ``check``."""

    def __init__(self, count: int, *, seed: int, faults: float = 0.0) -> None:
        chance = Random(seed)
        self.history: list[Happening] = []
        self.watch: Callable[[ExactNode, Event], object] = lambda node, event: None
        """Told after each event, when its commands have been decided and before they are carried out."""
        self.fate: Callable[[VirtualLink, PeerId, Message], Passage | None] = lambda link, sender, message: None
        """What becomes of a message; None is up to the conditions."""
        self.intercept: Callable[[ExactNode, Event], bool] = lambda node, event: False
        """True: the event never gets to the node's core."""
        self._frozen_until: dict[PeerId, float] = {}
        self._unread: dict[PeerId, deque[Event]] = {}
        """What has come to daemons that are frozen, in its order."""
        self._disk_full_until: dict[PeerId, float] = {}
        self._groups: dict[PeerId, int] = {}
        self._wall_s: Counter[PeerId] = Counter()
        self._checkpoints: dict[PeerId, _Checkpoint] = {}
        self._went_back: set[tuple[PeerId, MeetingId]] = set()
        """Whose state has lost which correction again."""
        self._crashed: set[tuple[PeerId, MeetingId]] = set()
        """Whose daemon has died with which meeting known: it can count nothing."""
        trainers = [ExactTrainer(Fraction(chance.randrange(-1000, 1000))) for _ in range(count)]
        self._first = sum((trainer.value for trainer in trainers), Fraction(0))
        super().__init__(trainers, seed=seed, faults=faults, make_rules=_fault_rules, tick_s=0.5)
        for node in self.nodes.values():
            self._look(node)
            self._write_checkpoint(node)

    # Faults.

    def crash(self, node: ExactNode, *, is_old: bool) -> None:
        """The daemon dies with its trainer; the next life begins with the state of this instant, or an older one."""
        known = {*node.core._initiator._meetings, *node.core._answerer._known}
        self._crashed |= {(node.name, meeting) for meeting in known}
        self._frozen_until.pop(node.name, None)
        self._unread.pop(node.name, None)
        if is_old:
            self._go_back(node)
        self.restart(node)

    def lose(self, node: ExactNode, *, is_old: bool) -> None:
        """The trainer dies; the daemon starts another one."""
        if not node.has_trainer:
            return
        if is_old:
            self._go_back(node)
        self.lose_trainer(node)

    def freeze(self, node: ExactNode, seconds: float) -> None:
        """The daemon handles nothing for a while, and then everything at once. Its connections stay open."""
        self._frozen_until[node.name] = self.now + seconds
        self.at(seconds, partial(self._thaw, node, node.core))

    def part(self, seconds: float) -> None:
        """Two halves of the swarm hear nothing of each other: no message arrives, no connection breaks."""
        self._groups = {name: self.random.randrange(2) for name in self.nodes}
        self.at(seconds, self._groups.clear)

    def set_clock(self, node: ExactNode, seconds: float) -> None:
        """The wall clock jumps, as after a resume or by a person's hand; it is set right again after a while."""
        self._wall_s[node.name] += round(seconds)
        self.at(_LAST_FAULT_S, lambda: self._wall_s.subtract({node.name: round(seconds)}))

    def fill_disk(self, node: ExactNode, seconds: float) -> None:
        """No checkpoint can be written for a while: the newest grows old."""
        self._disk_full_until[node.name] = self.now + seconds

    def cut(self, node: ExactNode) -> None:
        """All its connections break."""
        for link in [link for link in self._links if node.name in link.ends()]:
            self._break(link, "disconnect")

    # What is checked.

    def check(self) -> None:
        """End the faults, let every node meet again, let all meetings end, and see what is left."""
        assert isinstance(self.conditions, Trouble)
        self.conditions.faults = 0.0
        self._groups.clear()
        before = {name: _num_completed(node) for name, node in self.nodes.items()}
        self.run(self.now + _LAST_FAULT_S)
        self.run_until(
            lambda: all(_num_completed(n) > before[n.name] for n in self.nodes.values()), self.now + _PATIENCE_S
        )
        for node in self.nodes.values():
            assert _num_completed(node) > before[node.name], "a node is wedged"
        self.settle()
        self._check_meetings()
        for node in self.nodes.values():
            assert node.core.is_settled(), "a meeting is pending"
            assert not node.trainer.pending(), "the trainer holds something for ever"
            assert len(node.core._answerer._known) <= 256
            assert not node.links, "a connection is left open"

    def _check_meetings(self) -> None:
        """Exactly: the sum is what it was and what own steps did, except for meetings that a half report or a loss explains."""
        holders: dict[MeetingId, set[PeerId]] = {}
        total = Fraction(0)
        for node in self.nodes.values():
            total += node.trainer.value - node.trainer.drift
            for meeting in node.trainer.moved:
                holders.setdefault(meeting, set()).add(node.name)
        halves = self.halves()
        lost = {meeting for _, meeting in self._went_back}
        both = Counter(meeting for _, meeting in self._crashed)
        moved = Fraction(0)
        for meeting, names in holders.items():
            assert len(names) <= 2
            if len(names) == 1:
                is_excused = meeting in halves or meeting in lost or both[meeting] == 2
                assert is_excused, f"meeting {meeting} is applied by one end, and nobody has said so"
                (holder,) = names
                moved += self.nodes[holder].trainer.moved[meeting]
        assert total == self._first + moved, "the mean has moved"

    def halves(self) -> set[MeetingId]:
        """Meetings that somebody calls half."""
        return {r.meeting_id for node in self.nodes.values() for r in node.reports if r.outcome == "half"}

    # How it is done.

    def feed(self, node: ExactNode, event: Event) -> None:
        if self.intercept(node, event):
            return
        if self.now < self._frozen_until.get(node.name, 0.0):
            self._unread.setdefault(node.name, deque()).append(event)
        else:
            super().feed(node, event)

    def _thaw(self, node: ExactNode, core: object) -> None:
        """Read what lies there, unless the daemon has died, or was frozen again."""
        if node.core is not core or self.now < self._frozen_until.get(node.name, 0.0):
            return
        unread = self._unread.pop(node.name, deque())
        while unread and node.core is core:
            super().feed(node, unread.popleft())

    def handled(self, node: ExactNode, event: Event, commands: Sequence[Command]) -> None:
        self.history.append((self.now, node.name, event, tuple(commands)))
        assert node.core._initiator.active is None or node.core._answerer.active is None, "two meetings at a time"
        self.watch(node, event)

    def passage(self, link: VirtualLink, sender: PeerId, message: Message, *, is_first: bool) -> Passage:
        if self._groups and self._groups.get(link.dialler) != self._groups.get(link.answerer):
            return Passage()
        fate = self.fate(link, sender, message)
        return fate if fate is not None else super().passage(link, sender, message, is_first=is_first)

    def introduce(self, node: ExactNode) -> None:
        members = tuple(
            Member(
                peer=name,
                grpc_address=name,
                progress_steps=0,
                has_state=True,
                expires_at=self.now + _RECORD_TTL_S + self._wall_s[name] - self._wall_s[node.name],
            )
            for name in self.nodes
        )
        self.feed(node, MembersSeen(members=members))

    def heal(self, node: ExactNode, reason: HealReason) -> None:
        self._went_back |= {(node.name, meeting) for meeting in node.trainer.moved}
        super().heal(node, reason)

    def no_donor(self, node: ExactNode) -> None:
        """All have diverged together: its own newest checkpoint was finite."""
        self._go_back(node)
        node.trainer.nonfinite_steps, node.trainer.is_diverging = 0, False
        node.life += 1
        self._trainer_up(node, node.life)

    def _execute(self, node: ExactNode, command: Command) -> None:
        """A daemon that was frozen may speak to a trainer that is gone: nobody hears it. Connections do not last for ever."""
        if node.has_trainer or not _is_for_trainer(command):
            super()._execute(node, command)
        if isinstance(command, OpenLink):
            link = node.links.get(command.meeting_id)
            if link is not None:
                self.at(_STALL_S, lambda: self._break(link, "timeout"))

    def _trainer_up(self, node: ExactNode, life: int) -> None:
        until_s = self._frozen_until.get(node.name, 0.0)
        if self.now < until_s:  # who starts it is the daemon
            self.at(until_s - self.now + 0.1, partial(self._trainer_up, node, life))
        else:
            super()._trainer_up(node, life)

    def _look(self, node: ExactNode) -> None:
        self.introduce(node)
        self.at(_LOOK_EVERY_S, partial(self._look, node))

    def _write_checkpoint(self, node: ExactNode) -> None:
        trainer = node.trainer
        if node.has_trainer and self.now >= self._disk_full_until.get(node.name, 0.0):
            self._checkpoints[node.name] = _Checkpoint(
                trainer.value, trainer.drift, trainer.steps, dict(trainer.moved), tuple(node.answered)
            )
        self.at(_CHECKPOINT_EVERY_S, partial(self._write_checkpoint, node))

    def _go_back(self, node: ExactNode) -> None:
        trainer, saved = node.trainer, self._checkpoints[node.name]
        self._went_back |= {(node.name, meeting) for meeting in trainer.moved if meeting not in saved.moved}
        trainer.value, trainer.drift, trainer.steps = saved.value, saved.drift, saved.steps
        trainer.moved = dict(saved.moved)
        node.answered = deque(saved.answered, node.answered.maxlen)


def doubled(message: Message) -> Passage:
    """It arrives, and once more much later."""
    frames = as_bytes(message)
    return Passage(((0.05, frames), (1.0, frames)))


def _num_completed(node: ExactNode) -> int:
    return sum(report.outcome == "completed" for report in node.reports)


def _is_for_trainer(command: Command) -> bool:
    return type(command).__name__ in (
        "EncodeOffer",
        "EncodeAnswer",
        "EncodeClose",
        "ApplyClose",
        "SettleMeeting",
        "DropMeeting",
        "Heal",
    )
