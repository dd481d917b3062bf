"""Level consensus: a node is a vector that drifts and diffuses, and meets as a replica does.

x <- x + drift + noise * N(0, 1) in each own step, in every number; the drift is the same on all nodes. Vectors live in the rows of one
matrix. A meeting goes through the real codec (dense, fp32, of the vector) and the real clipping; on the wire it weighs what a
meeting of the manifest's model weighs (``payload``), with the real frames around it.

With completed meetings at a rate of m per node and own step, each of which averages two vectors that lie D apart, the swarm's mean
square distance from its mean loses |D|^2 / 2 per meeting and number, and E|D|^2 = 2 V N/(N-1): V = noise^2 (1 - 1/N)^2 / m in the
steady state, whatever the drift, while all nodes have one speed and the difference is captured whole. That is for gaps without memory;
uniform ones (K/2 .. 3K/2) are more even, and leave a few per cent less.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from random import Random
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowcomm_node.algo.clipping import ClipNorms, clip_scale
from lowcomm_node.algo.consensus import count_sketch
from lowcomm_node.algo.correction import Correction
from lowcomm_node.algo.exchange import AnswerHalf, encode_answer, encode_close, encode_offer, finish
from lowcomm_node.core.commands import (
    ApplyClose,
    Command,
    DropMeeting,
    EncodeAnswer,
    EncodeClose,
    EncodeOffer,
    SettleMeeting,
)
from lowcomm_node.core.events import (
    AnswerEncoded,
    CloseEncoded,
    CorrectionApplied,
    EncodingRefused,
    Event,
    OfferEncoded,
    StepsTaken,
)
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.core.messages import Answer, Close, Message, Offer, StreamPlan
from lowcomm_node.core.node import NodeRules
from lowcomm_node.core.progress import is_plausible
from lowcomm_node.core.schedule import Timing
from lowcomm_node.errors import RefusalReason
from lowcomm_node.settings.manifest import TrainingConfig
from lowcomm_node.sim.population import Centre, Look
from lowcomm_node.sim.scenario import Attack, Scenario
from lowcomm_node.sim.swarm import rules
from lowcomm_node.train.meeting_sizes import meeting_sizes
from lowcomm_node.units import Codec, Dtype, MeetingId, PeerId, Stream

__all__ = ["VectorPopulation", "VectorTrainer"]

_PLAN = StreamPlan(stream=Stream.PARAMS, codec=Codec.DENSE, dtype=Dtype.FP32, ranks=(-1,))
_WEIGHT_RMS = 100.0
"""Size of a weight, in units of the noise of a step: weights are far larger than the differences of replicas."""
_REPORTS_PER_PERIOD = 8
_BLOCK = 4096
_MAX_PENDING = 16
_CLIP_SLACK = 1e-3
_NUDGE_OVER_DIFFERENCE = 3.0
"""A little less than the 4 times the median difference that a default manifest lets through."""

_Item = TypeVar("_Item")
_Rows = NDArray[np.float32]


class VectorTrainer:
    """One vector with its desk: the steps of ``train.desk`` for one tensor. Hostile ones show another vector than their own."""

    def __init__(self, x: Tensor, population: "VectorPopulation", *, is_hostile: bool) -> None:
        self.x = x
        self.is_hostile = is_hostile
        self.frozen_files: dict[str, bytes] = {}
        self.steps = 0
        self.progress_steps = 0.0
        self.moved: dict[MeetingId, Tensor] = {}
        """What corrections did here, until their meeting is reported; kept where there are hostile nodes."""
        self._population = population
        self._clip_norms = ClipNorms(population.scenario.manifest.meeting.clip_ratio)
        self._offers: OrderedDict[MeetingId, tuple[bytes, float]] = OrderedDict()
        self._answers: OrderedDict[MeetingId, tuple[AnswerHalf, float, float]] = OrderedDict()
        self._held: OrderedDict[MeetingId, tuple[Correction, float, float, float]] = OrderedDict()

    def step(self, chance: Random) -> StepsTaken | None:
        population = self._population
        self.x += population.increment()
        self.steps += population.stride
        self.progress_steps += population.stride
        return StepsTaken(steps=self.steps)

    def forget(self) -> None:
        self._offers.clear()
        self._answers.clear()
        self._held.clear()

    def take_over(self, donor: "VectorTrainer") -> None:
        self.forget()
        self.x.copy_(donor.shown())
        self.progress_steps = donor.progress_steps

    def fingerprint(self) -> Fingerprint | None:
        shown = self.shown()
        if not bool(shown.isfinite().all()):
            return None
        norm = float(shown.double().norm())
        return Fingerprint(progress_steps=self.progress_steps, sketch=_sketch(shown), norms=(("params", norm),))

    def carry_out(self, command: Command) -> Event | None:
        match command:
            case EncodeOffer(meeting_id=meeting_id):
                part = encode_offer([self.shown()], _PLAN, b"")
                _keep(self._offers, meeting_id, (part, self.progress_steps))
                return OfferEncoded(
                    meeting_id=meeting_id, plans=(_PLAN,), parts=(part,), progress_steps=self.progress_steps
                )
            case EncodeAnswer(offer=offer):
                return self._answer(offer)
            case EncodeClose(answer=answer):
                return self._close(answer)
            case ApplyClose(close=close):
                return self._apply(close)
            case SettleMeeting(meeting_id=meeting_id):
                held = self._held.pop(meeting_id, None)
                if held is None:
                    return _refused(meeting_id, RefusalReason.UNKNOWN_MEETING)
                correction, norm, scale, shift = held
                return self._follow(meeting_id, correction, norm, scale, shift, sign=-1)
            case DropMeeting(meeting_id=meeting_id):
                for pending in (self._offers, self._answers, self._held):
                    pending.pop(meeting_id, None)
        return None

    def _answer(self, offer: Offer) -> Event:
        if offer.plans != (_PLAN,) or len(offer.parts[0]) != 4 * self.x.numel():
            return _refused(offer.meeting_id, RefusalReason.MALFORMED)
        if not self._population.is_plausible(offer.progress_steps):
            return _refused(offer.meeting_id, RefusalReason.MALFORMED)
        part, half = encode_answer([self.shown()], _PLAN, b"", offer.parts[0])
        if not half.is_finite() and not self._is_attacking:
            return _refused(offer.meeting_id, RefusalReason.NONFINITE)
        limit = math.inf if self._is_attacking else self._clip_norms.limit(Stream.PARAMS, Codec.DENSE)
        _keep(self._answers, offer.meeting_id, (half, limit, (offer.progress_steps - self.progress_steps) / 2))
        return AnswerEncoded(
            meeting_id=offer.meeting_id, parts=(part,), progress_steps=self.progress_steps, clip_norms=(limit,)
        )

    def _close(self, answer: Answer) -> Event:
        offered = self._offers.pop(answer.meeting_id, None)
        if offered is None:
            return _refused(answer.meeting_id, RefusalReason.UNKNOWN_MEETING)
        own, own_progress = offered
        is_whole = len(answer.parts) == 1 and len(answer.parts[0]) == len(own)
        if not is_whole or not self._population.is_plausible(answer.progress_steps):
            return _refused(answer.meeting_id, RefusalReason.MALFORMED)
        part, correction = encode_close([self.x], _PLAN, b"", own, answer.parts[0])
        norm = _norm(correction)
        if not math.isfinite(norm):
            if not self._is_attacking:
                return _refused(answer.meeting_id, RefusalReason.NONFINITE)
            norm = 0.0
        limit = math.inf if self._is_attacking else self._clip_norms.limit(Stream.PARAMS, Codec.DENSE)
        theirs = answer.clip_norms[0] if answer.clip_norms else math.inf
        scale = clip_scale(norm, limit, theirs)
        shift = (answer.progress_steps - own_progress) / 2
        _keep(self._held, answer.meeting_id, (correction, norm, scale, shift))
        return CloseEncoded(meeting_id=answer.meeting_id, parts=(part,), scales=(scale,))

    def _apply(self, close: Close) -> Event:
        answered = self._answers.pop(close.meeting_id, None)
        if answered is None:
            return _refused(close.meeting_id, RefusalReason.UNKNOWN_MEETING)
        half, limit, shift = answered
        if close.parts != (b"",) or len(close.scales) > 1:
            return _refused(close.meeting_id, RefusalReason.MALFORMED)
        correction = finish(half, close.parts[0])
        norm, scale = _norm(correction), close.scales[0] if close.scales else 1.0
        if not self._is_attacking:
            if not math.isfinite(norm):
                return _refused(close.meeting_id, RefusalReason.NONFINITE)
            if scale * norm > limit * (1 + _CLIP_SLACK):
                return _refused(close.meeting_id, RefusalReason.MALFORMED)
        return self._follow(close.meeting_id, correction, norm, scale, shift, sign=1)

    def _follow(
        self, meeting_id: MeetingId, correction: Correction, norm: float, scale: float, shift: float, *, sign: int
    ) -> Event:
        self.progress_steps = max(0.0, self.progress_steps + shift)
        # A hostile node wants to stay what it is, except where it needs to be near the others to be believed.
        if not self._is_attacking:
            weight = sign * self._population.weight * scale
            correction.add_to_([self.x], weight)
            if self._population.has_hostile:
                part = correction.parts[0]
                assert isinstance(part, Tensor)
                self.moved[meeting_id] = weight * part
            self._clip_norms.observe(Stream.PARAMS, Codec.DENSE, norm)
        elif self._population.scenario.attack is Attack.NUDGE and math.isfinite(norm):
            weight = self._population.weight * scale
            correction.add_to_([self.x], sign * weight)
            self.x += weight * self._population.nudge  # it was not there that it showed itself
        return CorrectionApplied(
            meeting_id=meeting_id, norms=((Stream.PARAMS, norm),), scales=((Stream.PARAMS, scale),)
        )

    @property
    def _is_attacking(self) -> bool:
        return self.is_hostile and self._population.is_attacking

    def shown(self) -> Tensor:
        """The vector as others get to see it."""
        return self._population.falsified(self.x) if self._is_attacking else self.x


class VectorPopulation:
    """Implements ``Population``: one matrix for all vectors, one generator for all noise, and the account of attacks."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.is_attacking = False
        manifest = scenario.manifest
        self.weight = manifest.outer.mixing_gain / 2
        self.has_hostile = scenario.hostile_ratio > 0
        every_steps = manifest.meeting.params_every_steps
        self.stride = max(1, every_steps // _REPORTS_PER_PERIOD)
        self.state_bytes = 4 * manifest.model.num_parameters
        self._sizes = meeting_sizes(manifest)[Stream.PARAMS].sizes
        self._generator = np.random.Generator(np.random.PCG64(scenario.seed))
        self._start = self._draw(_WEIGHT_RMS)
        self.initial_sketch = _sketch(torch.from_numpy(self._start))
        self.total_steps = math.ceil(scenario.duration_s / scenario.step_s)
        self._noise: _Rows = np.empty((0, scenario.dimension), dtype=np.float32)
        self._next = 0
        self._pushes = np.zeros(scenario.dimension)
        self.nudge = _NUDGE_OVER_DIFFERENCE * scenario.noise * math.sqrt(2 * every_steps)
        steps = 8 * scenario.duration_s / scenario.step_s  # of the fastest machine, generously
        self._training = TrainingConfig(total_steps=math.ceil(steps), warmup_steps=0)

    def make(self, index: int, chance: Random, *, is_hostile: bool) -> VectorTrainer:
        return VectorTrainer(torch.from_numpy(self._start.copy()), self, is_hostile=is_hostile)

    def make_rules(self, own: PeerId, seed: bytes) -> NodeRules:
        meeting, settings = self.scenario.manifest.meeting, self.scenario.settings
        return rules(
            own,
            seed,
            periods={Stream.PARAMS: meeting.params_every_steps},
            timing=Timing(meeting.timing),
            clip_ratio=meeting.clip_ratio,
            deadline_s=settings.meeting.deadline_s,
            verdict_keep_s=settings.meeting.verdict_keep_s,
            max_peers=settings.network.max_peers,
            num_bells=settings.network.bells,
        )

    def weigh(self, message: Message) -> Sequence[int]:
        match message:
            case Offer():
                return (self._sizes.offer,)
            case Answer():
                return (self._sizes.answer,)
            case Close():
                return (self._sizes.close,)
        return ()

    def codec_of(self, plan: StreamPlan) -> Codec:
        return Codec(self.scenario.manifest.meeting.codec)

    def look(self, trainers: Sequence[VectorTrainer], now: float) -> Look:
        rows = np.stack([trainer.x.numpy() for trainer in trainers]).astype(np.float64)
        progress = np.array([trainer.progress_steps for trainer in trainers])
        error = self._pushes / len(trainers)
        return Look(
            spread=_rms(rows - rows.mean(0)),
            progress_spread=float(progress.std()),
            consensus_error=_rms(error),
            extra={},
        )

    def centre(self, trainers: Sequence[VectorTrainer]) -> Centre:
        rows = torch.stack([trainer.x for trainer in trainers]).double()
        mean = rows.mean(0)
        return Centre(mean, float((rows - mean).square().mean().sqrt()))

    def distance(self, newcomer: VectorTrainer, centre: Centre) -> float:
        return float((newcomer.x - centre.mean).square().mean().sqrt())

    def pushed(self, trainer: VectorTrainer, meeting_id: MeetingId, *, is_by_hostile: bool) -> None:
        moved = trainer.moved.pop(meeting_id, None)
        if is_by_hostile and moved is not None:
            self._pushes += moved.numpy()

    def increment(self) -> Tensor:
        """What ``stride`` own steps add to a vector."""
        if self._next == len(self._noise):
            scenario = self.scenario
            shape = (_BLOCK, scenario.dimension)
            self._noise = self._generator.standard_normal(shape, dtype=np.float32)
            self._noise *= scenario.noise * math.sqrt(self.stride)
            self._noise += scenario.drift * self.stride
            self._next = 0
        self._next += 1
        return torch.from_numpy(self._noise[self._next - 1])

    def is_plausible(self, progress_steps: float) -> bool:
        """Of a run as long as the simulation."""
        return is_plausible(progress_steps, self._training)

    def falsified(self, x: Tensor) -> Tensor:
        """What a hostile node shows in place of its vector."""
        match self.scenario.attack:
            case Attack.SIGN_FLIP:
                return -x
            case Attack.SCALE:
                return 10 * x
            case Attack.NAN:
                return torch.full_like(x, torch.nan)
            case Attack.STALE:
                return torch.from_numpy(self._start)
            case Attack.GARBAGE:
                return torch.from_numpy(self._draw(_WEIGHT_RMS))
            case Attack.NUDGE:
                return x + self.nudge

    def _draw(self, rms: float) -> _Rows:
        drawn: _Rows = self._generator.standard_normal(self.scenario.dimension, dtype=np.float32)
        return drawn * np.float32(rms * max(self.scenario.noise, 1e-3))


def _rms(values: NDArray[np.float64]) -> float:
    return math.sqrt(float(np.mean(np.square(values, dtype=np.float64))))


def _sketch(x: Tensor) -> tuple[float, ...]:
    return tuple(count_sketch([x]).tolist())


def _norm(correction: Correction) -> float:
    return correction.norm() if correction.is_finite() else math.nan


def _refused(meeting_id: MeetingId, reason: RefusalReason) -> EncodingRefused:
    return EncodingRefused(meeting_id=meeting_id, reason=reason, detail="")


def _keep(pending: OrderedDict[MeetingId, _Item], meeting_id: MeetingId, item: _Item) -> None:
    pending[meeting_id] = item
    while len(pending) > _MAX_PENDING:
        pending.popitem(last=False)
