"""Asynchronous meetings in virtual time: the node's own decisions, the trainer's own replicas and desks, no network.

Time is counted in steps of the fastest replica. Steps and codecs take none of it; each message travels ``delay_steps``.
"""

import heapq
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lowcomm_node import PROTOCOL_VERSION
from lowcomm_node.bench.examine import Examiner
from lowcomm_node.bench.texts import Texts, peer_of, run_of
from lowcomm_node.bench.trial import Trial
from lowcomm_node.core.ab_stages import stage_of
from lowcomm_node.core.commands import (
    CloseLink,
    Command,
    EncodeClose,
    FetchFrozen,
    GiveUp,
    HangBell,
    Heal,
    NoteRefusal,
    OpenLink,
    ReportMeeting,
    Role,
    SeekPath,
    Send,
    SettleMeeting,
    SplitTensors,
    TakeBell,
    UseFrozen,
)
from lowcomm_node.core.events import (
    CorrectionApplied,
    Event,
    FetchFailed,
    FrozenHeld,
    FrozenNote,
    Member,
    MembersSeen,
    MessageReceived,
    StepsTaken,
    Ticked,
    TrainerReady,
)
from lowcomm_node.core.messages import Answer, Close, Message, Offer
from lowcomm_node.core.node import NodeCore, NodeRules
from lowcomm_node.core.progress import is_cooldown, is_finished
from lowcomm_node.core.schedule import Timing
from lowcomm_node.settings.streams import periods
from lowcomm_node.train.batches import BatchSource
from lowcomm_node.train.desk import MeetingDesk
from lowcomm_node.train.frozen_shelf import FrozenShelf
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import MeetingId, PeerId, Stream

__all__ = ["MeetingsRun"]

_CPU = torch.device("cpu")
_DEADLINE = 1000.0
"""No message is lost here, so no deadline is ever needed."""
_PATIENCE = 2.0
"""Of AB-training, besides what a record travels: who is not the first to split looks once a step for what others have done."""
_FOREVER = 1e12
"""No record runs out here; a newer one lasts longer."""


@dataclass(eq=False, slots=True)
class _Node:
    name: PeerId
    core: NodeCore
    replica: Replica
    desk: MeetingDesk
    batches: BatchSource
    speed: float
    """Steps per unit of time."""
    shelf: FrozenShelf
    """Of AB-training."""
    note: FrozenNote | None = None
    """What others have been told of it."""


class MeetingsRun:
    """All replicas of one trial. Everything is drawn from the seed; two runs are equal to the bit."""

    def __init__(self, trial: Trial, texts: Texts) -> None:
        self._trial = trial
        self._training = trial.manifest.training
        self._has_stages = trial.manifest.outer.method == "ab"
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._now = 0.0
        self._num_steps = 0
        self._is_stepping = True
        self._ends: dict[MeetingId, tuple[_Node, _Node]] = {}
        """Initiator and answerer of meetings under way."""
        self._gaps: dict[MeetingId, Tensor] = {}
        """theta_i - theta_j when the initiator computed its correction."""
        self._captured: list[float] = []
        self._bytes_sent: defaultdict[str, int] = defaultdict(int)
        """By what is sent: with AB-training the stage of who sends it, or frozen factors."""
        self.duration_steps = 0.0
        self.num_meetings = 0
        self.failures: Counter[str] = Counter()
        self._nodes = {
            peer_of(index): self._build(index, batches, speed)
            for index, (batches, speed) in enumerate(zip(texts.streams, trial.replica_speeds, strict=True))
        }
        self.replicas = [node.replica for node in self._nodes.values()]

    @property
    def bytes_per_node(self) -> float:
        """Payload bytes that crossed the wire, mean over nodes."""
        return sum(self._bytes_sent.values()) / len(self._nodes)

    @property
    def bytes_by_part(self) -> dict[str, float]:
        """The same by stage, in a run that has stages; empty in others."""
        parts = self._bytes_sent.items() if self._has_stages else ()
        return {part: num_bytes / len(self._nodes) for part, num_bytes in parts}

    @property
    def notes(self) -> list[FrozenNote | None]:
        """Of AB-training: what the nodes' records say."""
        return [node.note for node in self._nodes.values()]

    @property
    def rank_ratio(self) -> float:
        """Share of the rank that the newest frozen factors have, mean over the tensors that are split, and nodes; 1 without any."""
        return sum(node.shelf.rank_ratio for node in self._nodes.values()) / len(self._nodes)

    @property
    def captured_ratio(self) -> float:
        """Mean over meetings of the parameters of 1 - |D - C|^2 / |D|^2, D the difference, C what was applied of it; or NaN."""
        return sum(self._captured) / len(self._captured) if self._captured else math.nan

    def run(self, examiner: Examiner) -> None:
        """Train until the replicas together have taken the steps of the schedule, then let meetings end."""
        members = tuple(map(self._record, self._nodes.values()))
        for index, node in enumerate(self._nodes.values()):
            self._feed(node, MembersSeen(members=members))
            self._feed(node, TrainerReady())
            # Phases differ, so that replicas of one speed do not all stand at a step's end at once.
            self._at((1 + index / len(self._nodes)) / node.speed, partial(self._step, node, examiner))
        while self._queue:
            self._now, _, action = heapq.heappop(self._queue)
            action()

    def _build(self, index: int, batches: BatchSource, speed: float) -> _Node:
        trial, run, name = self._trial, run_of(self._trial.seed), peer_of(index)
        replica = Replica(trial.manifest, _CPU)
        rules = NodeRules(
            own=name,
            run_id=run,
            protocol_version=PROTOCOL_VERSION,
            periods={period.stream: period.every_steps for period in periods(trial.manifest)},
            deadline_s=_DEADLINE,
            verdict_keep_s=_DEADLINE,
            max_peers=trial.replicas,
            seed=f"{run}|{name}".encode(),
            timing=Timing(trial.manifest.meeting.timing),
            clip_ratio=trial.manifest.meeting.clip_ratio,
            shortest_deadline_s=_DEADLINE,
            frozen_patience_s=_PATIENCE + 2 * trial.delay_steps,
        )
        desk = MeetingDesk(replica, trial.manifest, run)
        shelf = FrozenShelf(replica, run)
        return _Node(name, NodeCore(rules), replica, desk, batches, speed, shelf)

    def _at(self, delay: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self._now + delay, next(self._order), action))

    def _step(self, node: _Node, examiner: Examiner) -> None:
        """One own step, or a wait: whoever is at the end of the run waits for the others, as nodes do."""
        total = self._training.total_steps * len(self._nodes)
        if self._num_steps >= total or all(self._is_finished(other) for other in self._nodes.values()):
            return
        self._feed(node, Ticked())
        if not self._is_finished(node):
            node.replica.train_step(node.batches.batch(node.replica.data_cursor))
            self._num_steps += 1
            self.duration_steps = self._now
            self._feed(node, self._taken(node.replica))
            examiner.observe(self.replicas, self._num_steps, self.bytes_per_node)
        self._at(1 / node.speed, partial(self._step, node, examiner))

    def _taken(self, replica: Replica) -> StepsTaken:
        manifest = self._trial.manifest
        cooldown = is_cooldown(replica.progress_steps, manifest)
        if not self._has_stages:
            return StepsTaken(steps=replica.steps, is_cooldown=cooldown)
        point = stage_of(replica.progress_steps, manifest)
        return StepsTaken(steps=replica.steps, is_cooldown=cooldown, stage=point.stage, epoch=point.epoch)

    def _is_finished(self, node: _Node) -> bool:
        return is_finished(node.replica.progress_steps, self._training)

    def _feed(self, node: _Node, event: Event) -> None:
        for command in node.core.handle(event, self._now):
            self._execute(node, command)
        if node.core.frozen.note != node.note:
            node.note = node.core.frozen.note
            self._tell(node)

    def _record(self, node: _Node) -> Member:
        return Member(
            peer=node.name,
            grpc_address=node.name,
            progress_steps=0.0,
            has_state=True,
            expires_at=_FOREVER + self._now,
            frozen=node.note,
        )

    def _tell(self, node: _Node) -> None:
        """Its record is renewed at once; the others are all looking."""
        seen = MembersSeen(members=(self._record(node),))
        for other in self._nodes.values():
            if other is not node:
                self._at(self._trial.delay_steps, partial(self._feed, other, seen))

    def _execute(self, node: _Node, command: Command) -> None:
        match command:
            case OpenLink():
                self._ends[command.meeting_id] = (node, self._nodes[command.peer])
                self._send(node, command.message)
            case Send():
                self._send(node, command.message)
            case CloseLink():
                pass  # links are not lost here, and what was sent arrives
            case HangBell() | TakeBell() | SeekPath():
                pass  # everybody can be dialled
            case ReportMeeting():
                self._report(command)
            case Heal():
                self._feed(node, TrainerReady())  # a study wants to see what comes of a method that diverges
            case GiveUp() | NoteRefusal():
                pass
            case SplitTensors():
                self._feed(node, node.shelf.split(command))
            case UseFrozen():
                self._feed(node, node.shelf.use(command))
            case FetchFrozen():
                self._fetch(node, command)
            case SettleMeeting():
                self._settle(node, command)
            case _:
                if isinstance(command, EncodeClose):
                    i, j = (_flat(end.replica) for end in self._ends[command.answer.meeting_id])
                    self._gaps[command.answer.meeting_id] = i - j
                event = node.desk.handle(command)
                if event is not None:
                    self._feed(node, event)

    def _fetch(self, node: _Node, command: FetchFrozen) -> None:
        """A question and a file, from the first member asked that has it."""
        for peer in command.holders:
            data = self._nodes[peer].shelf.files.get(command.digest)
            if data is not None:
                self._bytes_sent["frozen factors"] += len(data)
                self._at(2 * self._trial.delay_steps, partial(self._fetched, node, command, data))
                return
        failed = FetchFailed(epoch=command.epoch, digest=command.digest, is_busy=False)
        self._at(2 * self._trial.delay_steps, partial(self._feed, node, failed))

    def _fetched(self, node: _Node, command: FetchFrozen, data: bytes) -> None:
        node.shelf.files[command.digest] = data
        self._feed(node, FrozenHeld(epoch=command.epoch, digest=command.digest, is_own=False))

    def _settle(self, node: _Node, command: SettleMeeting) -> None:
        """The initiator moves by -(g/2) C, which tells what C was."""
        before = _flat(node.replica)
        event = node.desk.handle(command)
        gap = self._gaps.pop(command.meeting_id)
        if isinstance(event, CorrectionApplied) and Stream.PARAMS in dict(event.norms):
            correction = (before - _flat(node.replica)) / (self._trial.manifest.outer.mixing_gain / 2)
            size = float(gap.square().sum())
            if size > 0:
                self._captured.append(1 - float((gap - correction).square().sum()) / size)
        if event is not None:
            self._feed(node, event)

    def _send(self, node: _Node, message: Message) -> None:
        ends = self._ends.get(message.meeting_id)
        if ends is None or node not in ends:
            return
        receiver = ends[1] if node is ends[0] else ends[0]
        if isinstance(message, Offer | Answer | Close):
            part = stage_of(node.replica.progress_steps, self._trial.manifest).stage if self._has_stages else "meetings"
            self._bytes_sent[part] += sum(map(len, message.parts))
        self._at(self._trial.delay_steps, partial(self._feed, receiver, MessageReceived(message=message)))

    def _report(self, report: ReportMeeting) -> None:
        if report.role is not Role.INITIATOR:
            return  # each meeting counts once
        if report.outcome == "completed":
            self.num_meetings += 1
        else:
            self._gaps.pop(report.meeting_id, None)
            self.failures[report.reason] += 1


def _flat(replica: Replica) -> Tensor:
    return torch.cat([theta.flatten() for theta in replica.theta])
