"""A trainer of a small vector with real clip norms: learns with warm-up, meets clipped, and can be made unfit or hostile."""

import math
from dataclasses import dataclass, field
from random import Random

from lowcomm_node.algo.clipping import ClipNorms, clip_scale
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
from lowcomm_node.core.messages import StreamPlan
from lowcomm_node.errors import RefusalReason
from lowcomm_node.units import Codec, Dtype, MeetingId, Stream

PLAN = StreamPlan(stream=Stream.PARAMS, codec=Codec.AB, dtype=Dtype.FP32, ranks=(1,))
_DIMENSIONS = 16
_WARM_UP_STEPS = 100
_RATIO = 4.0

Vector = tuple[float, ...]


@dataclass
class GossipTrainer:
    """Drifts with everybody in one direction and by itself in random ones, faster and faster during the warm-up."""

    is_hostile: bool = False
    """Meets with weights that are far from everybody's, each time elsewhere, and never heals."""
    value: Vector = (10.0,) * _DIMENSIONS
    steps: int = 0
    nonfinite_steps: int = 0
    clip_norms: ClipNorms = field(default_factory=lambda: ClipNorms(_RATIO))
    moves: list[tuple[float, float]] = field(default_factory=list)
    """Of each meeting: how far it moved this node, and how far its clip norm lets one."""
    _offers: dict[MeetingId, Vector] = field(default_factory=dict)
    _answers: dict[MeetingId, tuple[Vector, float]] = field(default_factory=dict)
    _held: dict[MeetingId, tuple[Vector, float, float]] = field(default_factory=dict)

    def step(self, chance: Random) -> StepsTaken:
        self.steps += 1
        rate = min(1.0, self.steps / _WARM_UP_STEPS)
        if all(map(math.isfinite, self.value)):
            self.value = tuple(x + rate * (0.02 + 0.1 * chance.gauss(0, 1)) for x in self.value)
        else:
            self.nonfinite_steps += 1
        if self.is_hostile:
            self.value = tuple(1e4 * chance.gauss(0, 1) for _ in self.value)
        return StepsTaken(steps=self.steps, nonfinite_steps=self.nonfinite_steps)

    def forget(self) -> None:
        self._offers, self._answers, self._held = {}, {}, {}

    def take_over(self, donor: "GossipTrainer") -> None:
        self.value, self.steps, self.nonfinite_steps = donor.value, 0, 0
        self.forget()

    def carry_out(self, command: Command) -> Event | None:
        match command:
            case EncodeOffer(meeting_id=meeting):
                self._offers[meeting] = self.value
                return OfferEncoded(meeting_id=meeting, plans=(PLAN,), parts=(_encode(self.value),), progress_steps=0)
            case EncodeAnswer(offer=offer):
                difference = _minus(_decode(offer.parts[0]), self.value)
                limit = self.clip_norms.limit(Stream.PARAMS, Codec.AB)
                if not math.isfinite(_norm(difference)):
                    return _refused(offer.meeting_id, RefusalReason.NONFINITE)
                self._answers[offer.meeting_id] = (difference, limit)
                return AnswerEncoded(
                    meeting_id=offer.meeting_id, parts=(_encode(self.value),), progress_steps=0, clip_norms=(limit,)
                )
            case EncodeClose(answer=answer):
                difference = _minus(self._offers.pop(answer.meeting_id), _decode(answer.parts[0]))
                norm = _norm(difference)
                if not math.isfinite(norm):
                    return _refused(answer.meeting_id, RefusalReason.NONFINITE)
                limit = self.clip_norms.limit(Stream.PARAMS, Codec.AB)
                scale = clip_scale(norm, limit, answer.clip_norms[0])
                self._held[answer.meeting_id] = (difference, scale, limit)
                return CloseEncoded(meeting_id=answer.meeting_id, parts=(b"",), scales=(scale,))
            case ApplyClose(close=close):
                if close.meeting_id not in self._answers:
                    return _refused(close.meeting_id, RefusalReason.UNKNOWN_MEETING)
                difference, limit = self._answers.pop(close.meeting_id)
                (scale,) = close.scales
                if scale * _norm(difference) > 1.001 * limit:
                    return _refused(close.meeting_id, RefusalReason.MALFORMED)
                return self._follow(close.meeting_id, difference, scale, 0.5, limit)
            case SettleMeeting(meeting_id=meeting):
                difference, scale, limit = self._held.pop(meeting)
                return self._follow(meeting, difference, scale, -0.5, limit)
            case DropMeeting(meeting_id=meeting):
                for store in (self._offers, self._answers, self._held):
                    store.pop(meeting, None)
        return None

    def _follow(
        self, meeting: MeetingId, difference: Vector, scale: float, weight: float, limit: float
    ) -> CorrectionApplied:
        norm = _norm(difference)
        self.moves.append((abs(weight) * scale * norm, limit))
        self.value = tuple(x + weight * scale * d for x, d in zip(self.value, difference, strict=True))
        self.clip_norms.observe(Stream.PARAMS, Codec.AB, norm)
        return CorrectionApplied(meeting_id=meeting, norms=((Stream.PARAMS, norm),), scales=((Stream.PARAMS, scale),))


def distance(a: GossipTrainer, b: GossipTrainer) -> float:
    return _norm(_minus(a.value, b.value))


def _norm(vector: Vector) -> float:
    return math.hypot(*vector)


def _minus(a: Vector, b: Vector) -> Vector:
    return tuple(x - y for x, y in zip(a, b, strict=True))


def _encode(value: Vector) -> bytes:
    return ",".join(map(repr, value)).encode()


def _decode(part: bytes) -> Vector:
    return tuple(map(float, part.decode().split(",")))


def _refused(meeting: MeetingId, reason: RefusalReason) -> EncodingRefused:
    return EncodingRefused(meeting_id=meeting, reason=reason, detail="")
