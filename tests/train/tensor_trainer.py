"""A trainer for the virtual swarm: a real replica with a real meeting desk, and an account of what moves it.

Own steps may move everything; what they did is added up as the drift. Everything else (commands of the core) is watched:
only a correction may change the state, and what it did is kept per meeting.
"""

import math
from collections import Counter, defaultdict
from random import Random

import torch
from torch import Tensor

from lowcomm_node.core.commands import (
    ApplyClose,
    Command,
    DropMeeting,
    EncodeAnswer,
    EncodeClose,
    EncodeOffer,
    SettleMeeting,
)
from lowcomm_node.core.events import AnswerEncoded, CloseEncoded, CorrectionApplied, Event, OfferEncoded, StepsTaken
from lowcomm_node.core.messages import StreamPlan
from lowcomm_node.core.progress import is_cooldown, is_dense_acceptable, is_finished
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.sim.link import virtual_peer
from lowcomm_node.sim.swarm import VIRTUAL_RUN
from lowcomm_node.train.data.stream import Stream as Batches
from lowcomm_node.train.data.tokens import Tokens
from lowcomm_node.train.desk import MeetingDesk
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import Codec, MeetingId, Stream, StreamKind

Quantities = dict[str, Tensor]
"""Flat fp64 vectors by name; those in ``TensorTrainer.conserved`` keep their sum over the swarm in every meeting."""

_CPU = torch.device("cpu")
_FP32_ROUNDING = 1e-6
_DISPLACEMENT = "displacement"


class TensorTrainer:
    """Replica number ``index`` of a run; each has bytes in its text that no other one sees."""

    def __init__(self, manifest: Manifest, index: int, progress_steps: float) -> None:
        self.manifest = manifest
        self.replica = Replica(manifest, _CPU)
        self.replica.progress_steps = progress_steps
        self.desk = MeetingDesk(self.replica, manifest, VIRTUAL_RUN)
        tokens = torch.arange(4000) % 37
        tokens = torch.where(tokens < 30, tokens + 97, 140 + 10 * index + tokens % 3).to(torch.uint8)
        training = manifest.training
        self._batches = Batches(
            Tokens(tokens), training.batch_size, manifest.model.context_length, VIRTUAL_RUN, virtual_peer(index)
        )
        self.own = self._last = self.quantities()
        """Where the replica would be by its own steps alone."""
        self.moved: dict[MeetingId, Quantities] = {}
        """What the correction of each meeting did here."""
        self.answered: set[MeetingId] = set()
        """Those of them in which this node was the answerer."""
        self.closed: set[MeetingId] = set()
        """Meetings of which this node has encoded the close."""
        self.held = {name: torch.ones_like(part, dtype=torch.bool) for name, part in self.own.items()}
        """Entries at which nothing but corrections has ever acted in a meeting: no guard, no floor."""
        self.num_plans: Counter[tuple[Stream, Codec]] = Counter()
        self._plans: dict[MeetingId, tuple[StreamPlan, ...]] = {}
        self._sent: defaultdict[tuple[MeetingId, Stream], int] = defaultdict(int)

    def step(self, chance: Random) -> StepsTaken | None:
        replica, training = self.replica, self.manifest.training
        if is_finished(replica.progress_steps, training):
            return None
        result = replica.train_step(self._batches.batch(replica.data_cursor))
        assert result.is_finite
        _, change = self._look()
        self.own = {name: self.own[name] + change[name] for name in change}
        return StepsTaken(steps=replica.steps, is_cooldown=is_cooldown(replica.progress_steps, self.manifest))

    def forget(self) -> None:
        self.desk.forget_all()

    def take_over(self, donor: "TensorTrainer") -> None:
        self.replica.load(donor.replica.state(), is_own=False)
        self.desk.forget_all()
        _, change = self._look()
        self.own = {name: self.own[name] + change[name] for name in change}

    def pending(self) -> set[MeetingId]:
        return {*self.desk._initiated, *self.desk._answered}

    def carry_out(self, command: Command) -> Event | None:
        assert isinstance(command, EncodeOffer | EncodeAnswer | EncodeClose | ApplyClose | SettleMeeting | DropMeeting)
        event = self.desk.handle(command)
        before, change = self._look()
        match event:
            case CorrectionApplied():
                assert event.meeting_id not in self.moved, "applied twice"
                self.moved[event.meeting_id] = change
                if isinstance(command, ApplyClose):
                    self.answered.add(event.meeting_id)
                self._check_correction(event, before, change)
            case _:
                assert not any(bool(part.any()) for part in change.values()), (
                    f"{type(command).__name__} moved the replica"
                )
                self._check_payload(command, event)
        return event

    def _look(self) -> tuple[Quantities, Quantities]:
        """The quantities at the last look, and what has changed since."""
        before, self._last = self._last, self.quantities()
        return before, {name: self._last[name] - before[name] for name in before}

    @property
    def conserved(self) -> list[str]:
        """Names of what the swarm's sum must keep in meetings."""
        return [name for name in self.own if name not in (_DISPLACEMENT, Stream.BASIS)]

    def quantities(self) -> Quantities:
        """What meetings are to conserve, and theta - phi and bases, which they are to leave alone.

        Optimizer state is bias-corrected where it is declared so, and zero before the first step. The second moment is
        its logarithm where that is what is averaged: in rank1 entries without gradient stand at 0.
        """
        replica, optimizer = self.replica, self.manifest.optimizer
        theta, phi = _flat(replica.theta), _flat(replica.phi)
        t = max(replica.optimizer_steps, 1)
        found = {
            "params": theta,
            _DISPLACEMENT: theta - phi,
            "mixed": _flat(replica.mixed) if replica.has_mixed else torch.zeros(1, dtype=torch.float64),
            "progress": torch.tensor([replica.progress_steps], dtype=torch.float64),
        }
        for stream in replica.optimizer.streams:
            value = _flat(replica.tensors(stream.name))
            if stream.is_bias_corrected:
                value /= 1 - stream.decay**t
            if stream.kind is StreamKind.NON_NEGATIVE and self._sq_codec == "rank1":
                value = value.log().where(value > 0, 0.0)
            elif stream.kind is StreamKind.NON_NEGATIVE and self._sq_codec == "ab":
                value = (value + optimizer.eps**2).log()
            found[stream.name] = value
        return found

    @property
    def _sq_codec(self) -> str:
        return self.manifest.meeting.exp_avg_sq_codec

    def _check_correction(self, event: CorrectionApplied, before: Quantities, change: Quantities) -> None:
        """Nothing but the streams of the meeting moves; moments stay positive, guarded and finite."""
        streams = {stream.value for stream, _ in event.norms}
        assert float(change[_DISPLACEMENT].abs().max()) < _FP32_ROUNDING * float(before["params"].abs().max())
        assert all(bool(part.isfinite().all()) for part in change.values())
        guarded = {Stream.EXP_AVG} if self._is_guarded and streams != {"params"} else set[Stream]()
        for stream in self.replica.streams:
            assert stream in streams | guarded or not bool(change[stream].any()), f"{stream} moved"
        if Stream.EXP_AVG_SQ in streams:
            self._check_second_moment(before[Stream.EXP_AVG_SQ], change[Stream.EXP_AVG_SQ])
        if guarded:
            u, v = (
                _flat(self.replica.tensors(stream)) / self.replica.bias_correction(stream)
                for stream in (Stream.EXP_AVG, Stream.EXP_AVG_SQ)
            )
            limit = v.sqrt()
            assert bool((u.abs() <= limit * (1 + 1e-5)).all())
            self.held[Stream.EXP_AVG] &= u.abs() < limit * (1 - 1e-5)

    @property
    def _is_guarded(self) -> bool:
        """Has the optimizer Adam's two moments, bias-corrected?"""
        return {s.name for s in self.replica.optimizer.streams if s.is_bias_corrected} >= {
            Stream.EXP_AVG,
            Stream.EXP_AVG_SQ,
        }

    def _check_second_moment(self, before: Tensor, change: Tensor) -> None:
        v = _flat(self.replica.tensors(Stream.EXP_AVG_SQ))
        held = self.held[Stream.EXP_AVG_SQ]
        assert bool((v >= 0).all())
        if self._sq_codec == "dense":
            after = before + change
            assert bool((v[before > 0] > 0).all())
            held &= after > 0.25 * before * (1 + 1e-5)
            return
        assert float(change.abs().max()) <= math.log(4) * (1 + 1e-5) + 1e-5
        if self._sq_codec == "ab":
            held &= v > 0  # what would have become negative stands at 0 instead

    def _check_payload(self, command: Command, event: Event | None) -> None:
        """Neither direction of a low-rank stream exceeds the budget; whole tensors go in the last phase alone."""
        match event:
            case OfferEncoded() if isinstance(command, EncodeOffer):
                self._plans[event.meeting_id] = event.plans
                self._count(event.meeting_id, event.parts)
                for plan in event.plans:
                    self.num_plans[plan.stream, plan.codec] += 1
                    assert command.is_dense or not self._is_dense_instead(plan)
            case AnswerEncoded() if isinstance(command, EncodeAnswer):
                self._plans[event.meeting_id] = command.offer.plans
                self._count(event.meeting_id, event.parts)
                for plan in command.offer.plans:
                    assert not self._is_dense_instead(plan) or is_dense_acceptable(
                        self.replica.progress_steps, self.manifest
                    )
            case CloseEncoded():
                self.closed.add(event.meeting_id)
                self._count(event.meeting_id, event.parts)

    def _count(self, meeting_id: MeetingId, parts: tuple[bytes, ...]) -> None:
        for plan, part in zip(self._plans[meeting_id], parts, strict=True):
            self._sent[meeting_id, plan.stream] += len(part)
            if plan.codec in (Codec.AB, Codec.SPARSE):
                assert self._sent[meeting_id, plan.stream] <= self.manifest.budget_bytes

    def _is_dense_instead(self, plan: StreamPlan) -> bool:
        """A dense plan of a stream that the manifest sends in part."""
        wished = self._sq_codec if plan.stream is Stream.EXP_AVG_SQ else self.manifest.meeting.codec
        return plan.codec is Codec.DENSE and wished in (Codec.AB, Codec.SPARSE)


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors]).double()
