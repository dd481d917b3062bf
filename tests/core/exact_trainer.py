"""A trainer of one exact number: what a meeting does to it, and what the swarm's sum should be, is known without rounding."""

from dataclasses import dataclass, field
from fractions import Fraction
from random import Random

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
from lowcomm_node.sim.swarm import VirtualSwarm
from lowcomm_node.units import Codec, Dtype, MeetingId, Stream

PLAN = StreamPlan(stream=Stream.PARAMS, codec=Codec.DENSE, dtype=Dtype.FP32, ranks=(-1,))
CLIP_NORM = 8.0
"""Where differences are larger than the answerer takes, less of the correction is applied: scales must reach both ends."""
CLIP_SCALE = 0.75


@dataclass
class ExactTrainer:
    """The correction of a meeting is half the difference, or three eighths where that is clipped."""

    value: Fraction
    drift: Fraction = Fraction(0)
    steps: int = 0
    nonfinite_steps: int = 0
    is_diverging: bool = False
    """Its steps are not finite until another state takes the place of this one."""
    offers: dict[MeetingId, Fraction] = field(default_factory=dict)
    answers: dict[MeetingId, tuple[Fraction, Fraction]] = field(default_factory=dict)
    held: dict[MeetingId, Fraction] = field(default_factory=dict)
    scales: dict[MeetingId, float] = field(default_factory=dict)
    applied: list[MeetingId] = field(default_factory=list)
    moved: dict[MeetingId, Fraction] = field(default_factory=dict)
    """What the correction of each meeting did to ``value``."""

    def step(self, chance: Random) -> StepsTaken:
        by = Fraction(chance.randrange(-9, 10))
        self.steps += 1
        if self.is_diverging:
            self.nonfinite_steps += 1
        else:
            self.value += by
            self.drift += by
        return StepsTaken(steps=self.steps, nonfinite_steps=self.nonfinite_steps)

    def forget(self) -> None:
        self.offers, self.answers, self.held, self.scales = {}, {}, {}, {}

    def take_over(self, donor: "ExactTrainer") -> None:
        """Nothing of its own meetings is in the new state: what that differs by from its first one is a drift."""
        self.drift += donor.value - self.value + sum(self.moved.values(), Fraction(0))
        self.value, self.steps, self.nonfinite_steps, self.is_diverging = donor.value, 0, 0, False
        self.moved = {}
        self.forget()

    def pending(self) -> set[MeetingId]:
        return {*self.offers, *self.answers, *self.held}

    def carry_out(self, command: Command) -> Event | None:
        match command:
            case EncodeOffer(meeting_id=meeting):
                self.offers[meeting] = self.value
                return OfferEncoded(meeting_id=meeting, plans=(PLAN,), parts=(_encode(self.value),), progress_steps=0)
            case EncodeAnswer(offer=offer):
                self.answers[offer.meeting_id] = (_decode(offer.parts[0]), self.value)
                return AnswerEncoded(
                    meeting_id=offer.meeting_id,
                    parts=(_encode(self.value),),
                    progress_steps=0,
                    clip_norms=(CLIP_NORM,),
                )
            case EncodeClose(answer=answer):
                if answer.meeting_id not in self.offers:
                    return _unknown(answer.meeting_id)
                difference = self.offers.pop(answer.meeting_id) - _decode(answer.parts[0])
                scale = CLIP_SCALE if abs(difference) > answer.clip_norms[0] else 1.0
                self.held[answer.meeting_id] = Fraction(scale) * difference / 2
                self.scales[answer.meeting_id] = scale
                return CloseEncoded(meeting_id=answer.meeting_id, parts=(b"",), scales=(scale,))
            case ApplyClose(close=close):
                if close.meeting_id not in self.answers:
                    return _unknown(close.meeting_id)
                theirs, ours = self.answers.pop(close.meeting_id)
                (scale,) = close.scales
                self._move(close.meeting_id, Fraction(scale) * (theirs - ours) / 2)
                return _applied(close.meeting_id, scale)
            case SettleMeeting(meeting_id=meeting):
                if meeting not in self.held:
                    return _unknown(meeting)
                self._move(meeting, -self.held.pop(meeting))
                return _applied(meeting, self.scales.pop(meeting))
            case DropMeeting(meeting_id=meeting):
                for store in (self.offers, self.answers, self.held, self.scales):
                    store.pop(meeting, None)
        return None

    def _move(self, meeting: MeetingId, by: Fraction) -> None:
        self.value += by
        self.applied.append(meeting)
        self.moved[meeting] = by


def exact_swarm(count: int, *, seed: int, faults: float) -> VirtualSwarm[ExactTrainer]:
    """A swarm of numbers drawn from the seed."""
    chance = Random(seed)
    trainers = [ExactTrainer(Fraction(chance.randrange(-1000, 1000))) for _ in range(count)]
    return VirtualSwarm(trainers, seed=seed, faults=faults)


def _applied(meeting: MeetingId, scale: float) -> CorrectionApplied:
    return CorrectionApplied(meeting_id=meeting, norms=((Stream.PARAMS, 1.0),), scales=((Stream.PARAMS, scale),))


def _encode(value: Fraction) -> bytes:
    return str(value).encode()


def _decode(part: bytes) -> Fraction:
    return Fraction(part.decode())


def _unknown(meeting: MeetingId) -> EncodingRefused:
    return EncodingRefused(meeting_id=meeting, reason=RefusalReason.UNKNOWN_MEETING, detail="")
