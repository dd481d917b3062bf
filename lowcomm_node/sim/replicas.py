"""Level training: a node is a real replica with the real meeting desk, and trains on real text."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from random import Random

import torch
from torch import Tensor

from lowcomm_node.algo.consensus import mean_state, spread
from lowcomm_node.core.ab_stages import stage_of
from lowcomm_node.core.commands import (
    ApplyClose,
    Command,
    DropMeeting,
    EncodeAnswer,
    EncodeClose,
    EncodeOffer,
    SettleMeeting,
    SplitTensors,
    UseFrozen,
)
from lowcomm_node.core.events import CorrectionApplied, Event, StepsTaken
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.core.messages import Answer, Close, Message, Offer, StreamPlan
from lowcomm_node.core.node import NodeRules
from lowcomm_node.core.progress import is_cooldown, is_finished
from lowcomm_node.core.schedule import Timing
from lowcomm_node.settings.canonical import run_id
from lowcomm_node.settings.streams import periods
from lowcomm_node.sim.link import virtual_peer
from lowcomm_node.sim.population import Centre, Look
from lowcomm_node.sim.scenario import Attack, Scenario
from lowcomm_node.sim.swarm import rules
from lowcomm_node.train.data.corpus import load_corpus
from lowcomm_node.train.data.stream import Stream as Batches
from lowcomm_node.train.data.stream import validation_batches
from lowcomm_node.train.desk import MeetingDesk
from lowcomm_node.train.evaluate import validation_loss
from lowcomm_node.train.fingerprint import fingerprint_of
from lowcomm_node.train.frozen_shelf import FrozenShelf
from lowcomm_node.train.model import build_model, load_parameters
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import Codec, MeetingId, PeerId

__all__ = ["ReplicaPopulation", "ReplicaTrainer"]

_CPU = torch.device("cpu")
_WINDOWS_PER_BATCH = 32
_MAX_JUDGED = 4
"""Replicas whose loss is measured in a look; each costs a pass over the held-out windows."""


class ReplicaTrainer:
    """Replica number ``index``. Hostile ones show other weights than their own, and never follow a correction."""

    def __init__(self, population: "ReplicaPopulation", index: int, *, is_hostile: bool) -> None:
        manifest = population.scenario.manifest
        self.replica = Replica(manifest, _CPU)
        self.is_hostile = is_hostile
        self.moved: dict[MeetingId, Tensor] = {}
        """What corrections did to the weights, until their meeting is reported; kept where there are hostile nodes."""
        self._population = population
        self._desk = MeetingDesk(self.replica, manifest, population.run_id)
        self._shelf = FrozenShelf(self.replica, population.run_id)
        self.frozen_files = self._shelf.files
        self._batches = Batches(
            population.tokens,
            manifest.training.batch_size,
            manifest.model.context_length,
            population.run_id,
            virtual_peer(index),
        )

    @property
    def steps(self) -> int:
        """Own steps."""
        return self.replica.steps

    @property
    def progress_steps(self) -> float:
        """Swarm progress."""
        return self.replica.progress_steps

    def step(self, chance: Random) -> StepsTaken | None:
        replica, manifest = self.replica, self._population.scenario.manifest
        if is_finished(replica.progress_steps, manifest.training):
            return None
        replica.train_step(self._batches.batch(replica.data_cursor))
        point = stage_of(replica.progress_steps, manifest) if manifest.outer.method == "ab" else None
        return StepsTaken(
            steps=replica.steps,
            nonfinite_steps=replica.nonfinite_steps,
            is_cooldown=is_cooldown(replica.progress_steps, manifest),
            stage=point.stage if point else None,
            epoch=point.epoch if point else 0,
        )

    def forget(self) -> None:
        self._desk.forget_all()

    def take_over(self, donor: "ReplicaTrainer") -> None:
        self.forget()
        with donor.shown() as replica:
            self.replica.load(replica.state(), is_own=False)

    def fingerprint(self) -> Fingerprint | None:
        with self.shown() as replica:
            told = fingerprint_of(replica.state())
        numbers = (*told.sketch, *(norm for _, norm in told.norms))
        return told if all(map(math.isfinite, numbers)) else None

    def shown(self) -> AbstractContextManager[Replica]:
        """The replica as others get to see it."""
        is_attacking = self.is_hostile and self._population.is_attacking
        return self._population.falsified(self.replica) if is_attacking else nullcontext(self.replica)

    def carry_out(self, command: Command) -> Event | None:
        if isinstance(command, SplitTensors):
            with self.shown():
                return self._shelf.split(command)
        if isinstance(command, UseFrozen):
            return self._shelf.use(command)
        assert isinstance(command, EncodeOffer | EncodeAnswer | EncodeClose | ApplyClose | SettleMeeting | DropMeeting)
        if self.is_hostile and self._population.is_attacking:
            with self._population.falsified(self.replica):
                return self._desk.handle(command)
        if not self._population.has_hostile or not isinstance(command, ApplyClose | SettleMeeting):
            return self._desk.handle(command)
        before = _flat(self.replica)
        event = self._desk.handle(command)
        if isinstance(event, CorrectionApplied):
            self.moved[event.meeting_id] = _flat(self.replica) - before
        return event


class ReplicaPopulation:
    """Implements ``Population``. Raises DataError where there is no text, ConfigError for an optimizer that torch lacks."""

    stride = 1

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.is_attacking = False
        manifest = scenario.manifest
        self.run_id = run_id(manifest)
        self.has_hostile = scenario.hostile_ratio > 0
        context_length = manifest.model.context_length
        corpus = load_corpus(scenario.data, manifest.data, context_length)
        self.tokens = corpus.train
        self._windows = validation_batches(corpus.validation, _WINDOWS_PER_BATCH, context_length, 1)
        self._averaged = build_model(manifest)
        self._generator = torch.Generator().manual_seed(scenario.seed)
        first = Replica(manifest, _CPU)
        self._start = [theta.clone() for theta in first.theta]
        self.initial_sketch = fingerprint_of(first.state()).sketch
        self.total_steps = manifest.training.total_steps
        self.num_tensors = len(first.theta)
        self.max_payload_bytes = 3 * 4 * sum(theta.numel() for theta in first.theta)
        self.state_bytes = sum(tensor.nbytes for tensor in first.state().tensors.values())
        self._pushes = torch.zeros(sum(theta.numel() for theta in first.theta), dtype=torch.float64)

    def make(self, index: int, chance: Random, *, is_hostile: bool) -> ReplicaTrainer:
        return ReplicaTrainer(self, index, is_hostile=is_hostile)

    def make_rules(self, own: PeerId, seed: bytes) -> NodeRules:
        manifest, settings = self.scenario.manifest, self.scenario.settings
        return rules(
            own,
            seed,
            run_id=self.run_id,
            periods={period.stream: period.every_steps for period in periods(manifest)},
            timing=Timing(manifest.meeting.timing),
            clip_ratio=manifest.meeting.clip_ratio,
            deadline_s=settings.meeting.deadline_s,
            verdict_keep_s=settings.meeting.verdict_keep_s,
            max_peers=settings.network.max_peers,
            num_bells=settings.network.bells,
        )

    def weigh(self, message: Message) -> Sequence[int]:
        return [len(part) for part in message.parts] if isinstance(message, Offer | Answer | Close) else ()

    def codec_of(self, plan: StreamPlan) -> Codec:
        return plan.codec

    def look(self, trainers: Sequence[ReplicaTrainer], now: float) -> Look:
        states = [dict(zip(t.replica.names, t.replica.theta, strict=True)) for t in trainers]
        judged = trainers[:: max(1, len(trainers) // _MAX_JUDGED)]
        losses = [validation_loss(trainer.replica.model, self._windows) for trainer in judged]
        load_parameters(self._averaged, mean_state(states))
        progress = torch.tensor([trainer.progress_steps for trainer in trainers], dtype=torch.float64)
        return Look(
            spread=spread(states),
            progress_spread=float(progress.std(correction=0)),
            consensus_error=float((self._pushes / len(trainers)).square().mean().sqrt()),
            extra={
                "loss": sum(losses) / len(losses),
                "loss_averaged": validation_loss(self._averaged, self._windows),
                "progress_steps": float(progress.mean()),
            },
        )

    def centre(self, trainers: Sequence[ReplicaTrainer]) -> Centre:
        stack = torch.stack([_flat(trainer.replica) for trainer in trainers])
        mean = stack.mean(0)
        return Centre(mean, float((stack - mean).square().mean().sqrt()))

    def distance(self, newcomer: ReplicaTrainer, centre: Centre) -> float:
        return float((_flat(newcomer.replica) - centre.mean).square().mean().sqrt())

    def pushed(self, trainer: ReplicaTrainer, meeting_id: MeetingId, *, is_by_hostile: bool) -> None:
        moved = trainer.moved.pop(meeting_id, None)
        if is_by_hostile and moved is not None:
            self._pushes += moved

    @contextmanager
    def falsified(self, replica: Replica) -> Iterator[Replica]:
        """The replica as its hostile owner shows it; whatever is done to its weights meanwhile is undone."""
        own = [(theta, phi, theta.clone(), phi.clone()) for theta, phi in zip(replica.theta, replica.phi, strict=True)]
        for theta, start in zip(replica.theta, self._start, strict=True):
            self._falsify_(theta, start)
        try:
            yield replica
        finally:
            for theta, phi, own_theta, own_phi in own:
                theta.copy_(own_theta)
                phi.copy_(own_phi)

    def _falsify_(self, theta: Tensor, start: Tensor) -> None:
        match self.scenario.attack:
            case Attack.SIGN_FLIP:
                theta.neg_()
            case Attack.SCALE:
                theta.mul_(10.0)
            case Attack.NAN:
                theta.fill_(math.nan)
            case Attack.STALE:
                theta.copy_(start)
            case Attack.GARBAGE:
                rms = float(theta.square().mean().sqrt())
                theta.copy_(rms * torch.randn(theta.shape, generator=self._generator))
            case Attack.NUDGE:
                theta.add_(0.1 * float(theta.square().mean().sqrt()))


def _flat(replica: Replica) -> Tensor:
    return torch.cat([theta.flatten() for theta in replica.theta]).double()
