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
from lowcomm_node.train.data import Stream as Batches
from lowcomm_node.train.desk import MeetingDesk
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import Codec, MeetingId, Stream
from tests.core.virtual_link import RUN, virtual_peer

Quantities = dict[str, Tensor]
"""Flat fp64 vectors by name; those in ``CONSERVED`` keep their sum over the swarm in every meeting."""

CONSERVED = ("params", "mixed", "exp_avg", "exp_avg_sq", "progress")
_CPU = torch.device("cpu")
_FP32_ROUNDING = 1e-6


class TensorTrainer:
    """Replica number ``index`` of a run; each has bytes in its text that no other one sees."""

    def __init__(self, manifest: Manifest, index: int, progress_steps: float) -> None:
        self.manifest = manifest
        self.replica = Replica(manifest, _CPU)
        self.replica.progress_steps = progress_steps
        self.desk = MeetingDesk(self.replica, manifest, RUN)
        tokens = torch.arange(4000) % 37
        tokens = torch.where(tokens < 30, tokens + 97, 140 + 10 * index + tokens % 3).to(torch.uint8)
        training = manifest.training
        self._batches = Batches(tokens, training.batch_size, manifest.model.context_length, RUN, virtual_peer(index))
        self.own = self._last = self.quantities()
        """Where the replica would be by its own steps alone."""
        self.moved: dict[MeetingId, Quantities] = {}
        """What the correction of each meeting did here."""
        self.answered: set[MeetingId] = set()
        """Those of them in which this node was the answerer."""
        self.closed: set[MeetingId] = set()
        """Meetings of which this node has encoded the close."""
        self.clamped = torch.zeros_like(self.own["exp_avg"], dtype=torch.bool)
        self.floored = torch.zeros_like(self.clamped)
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
        return StepsTaken(steps=replica.steps, is_cooldown=is_cooldown(replica.progress_steps, training))

    def forget(self) -> None:
        self.desk.forget_all()

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

    def quantities(self) -> Quantities:
        """What meetings are to conserve, and theta - phi, which they are to leave alone.

        Moments are bias-corrected and zero before the first step. The second moment is its logarithm where that is what
        is averaged (rank1), entries without gradient standing at 0.
        """
        replica, optimizer = self.replica, self.manifest.optimizer
        theta, phi = _flat(replica.theta), _flat(replica.phi)
        t = max(replica.optimizer_steps, 1)
        v = _flat(replica.exp_avg_sq)
        if self.is_rank1:
            v = v.log().where(v > 0, 0.0)
        else:
            v /= 1 - optimizer.beta2**t
        return {
            "params": theta,
            "displacement": theta - phi,
            "mixed": _flat(replica.mixed) if replica.has_mixed else torch.zeros(1, dtype=torch.float64),
            "exp_avg": _flat(replica.exp_avg) / (1 - optimizer.beta1**t),
            "exp_avg_sq": v,
            "progress": torch.tensor([replica.progress_steps], dtype=torch.float64),
        }

    @property
    def is_rank1(self) -> bool:
        return self.manifest.meeting.exp_avg_sq_codec == "rank1"

    def _check_correction(self, event: CorrectionApplied, before: Quantities, change: Quantities) -> None:
        """Nothing but the streams of the meeting moves; moments stay positive, guarded and finite."""
        streams = {stream.value for stream, _ in event.norms}
        assert float(change["displacement"].abs().max()) < _FP32_ROUNDING * float(before["params"].abs().max())
        assert all(bool(part.isfinite().all()) for part in change.values())
        assert "params" in streams or not bool(change["params"].any())
        if streams == {"params"}:
            assert not bool(change["exp_avg"].any() or change["exp_avg_sq"].any())
            return
        optimizer, t = self.manifest.optimizer, self.replica.optimizer_steps
        u = _flat(self.replica.exp_avg).abs() / (1 - optimizer.beta1**t)
        v = _flat(self.replica.exp_avg_sq) / (1 - optimizer.beta2**t)
        limit = v.sqrt()
        assert bool((v >= 0).all())
        assert bool((u <= limit * (1 + 1e-5)).all())
        self.clamped |= u >= limit * (1 - 1e-5)
        if not self.is_rank1:
            old = before["exp_avg_sq"]
            assert bool((v[old > 0] > 0).all())
            self.floored |= v <= 0.25 * old * (1 + 1e-5)
        else:
            assert float(change["exp_avg_sq"].abs().max()) <= math.log(4) * (1 + 1e-5)

    def _check_payload(self, command: Command, event: Event | None) -> None:
        """Neither direction of a low-rank stream exceeds the budget; whole tensors go in the last phase alone."""
        training = self.manifest.training
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
                        self.replica.progress_steps, training
                    )
            case CloseEncoded():
                self.closed.add(event.meeting_id)
                self._count(event.meeting_id, event.parts)

    def _count(self, meeting_id: MeetingId, parts: tuple[bytes, ...]) -> None:
        for plan, part in zip(self._plans[meeting_id], parts, strict=True):
            self._sent[meeting_id, plan.stream] += len(part)
            if plan.codec is Codec.AB:
                assert self._sent[meeting_id, plan.stream] <= self.manifest.meeting.budget_bytes

    def _is_dense_instead(self, plan: StreamPlan) -> bool:
        """A dense plan of a stream that the manifest sends as low rank."""
        is_low_rank = self.manifest.meeting.codec == "ab" and plan.stream is not Stream.EXP_AVG_SQ
        return plan.codec is Codec.DENSE and is_low_rank


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors]).double()
