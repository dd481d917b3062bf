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
from lowcomm_node.units import Codec, Dtype, MeetingId, Stream
from tests.core.virtual_swarm import VirtualSwarm

PLAN = StreamPlan(stream=Stream.PARAMS, codec=Codec.DENSE, dtype=Dtype.FP32, ranks=(-1,))


@dataclass
class ExactTrainer:
    """The correction of a meeting is half the difference."""

    value: Fraction
    drift: Fraction = Fraction(0)
    steps: int = 0
    offers: dict[MeetingId, Fraction] = field(default_factory=dict)
    answers: dict[MeetingId, tuple[Fraction, Fraction]] = field(default_factory=dict)
    held: dict[MeetingId, Fraction] = field(default_factory=dict)
    applied: list[MeetingId] = field(default_factory=list)

    def step(self, chance: Random) -> StepsTaken:
        by = Fraction(chance.randrange(-9, 10))
        self.value += by
        self.drift += by
        self.steps += 1
        return StepsTaken(steps=self.steps)

    def forget(self) -> None:
        self.offers, self.answers, self.held = {}, {}, {}

    def pending(self) -> set[MeetingId]:
        return {*self.offers, *self.answers, *self.held}

    def carry_out(self, command: Command) -> Event | None:
        norms = ((Stream.PARAMS, 1.0),)
        match command:
            case EncodeOffer(meeting_id=meeting):
                self.offers[meeting] = self.value
                return OfferEncoded(meeting_id=meeting, plans=(PLAN,), parts=(_encode(self.value),), progress_steps=0)
            case EncodeAnswer(offer=offer):
                self.answers[offer.meeting_id] = (_decode(offer.parts[0]), self.value)
                return AnswerEncoded(meeting_id=offer.meeting_id, parts=(_encode(self.value),), progress_steps=0)
            case EncodeClose(answer=answer):
                if answer.meeting_id not in self.offers:
                    return _unknown(answer.meeting_id)
                ours = self.offers.pop(answer.meeting_id)
                self.held[answer.meeting_id] = (ours - _decode(answer.parts[0])) / 2
                return CloseEncoded(meeting_id=answer.meeting_id, parts=(b"",))
            case ApplyClose(close=close):
                if close.meeting_id not in self.answers:
                    return _unknown(close.meeting_id)
                theirs, ours = self.answers.pop(close.meeting_id)
                self.value += (theirs - ours) / 2
                self.applied.append(close.meeting_id)
                return CorrectionApplied(meeting_id=close.meeting_id, norms=norms)
            case SettleMeeting(meeting_id=meeting):
                if meeting not in self.held:
                    return _unknown(meeting)
                self.value -= self.held.pop(meeting)
                self.applied.append(meeting)
                return CorrectionApplied(meeting_id=meeting, norms=norms)
            case DropMeeting(meeting_id=meeting):
                for store in (self.offers, self.answers, self.held):
                    store.pop(meeting, None)
        return None


def exact_swarm(count: int, *, seed: int, faults: float) -> VirtualSwarm[ExactTrainer]:
    """A swarm of numbers drawn from the seed."""
    chance = Random(seed)
    trainers = [ExactTrainer(Fraction(chance.randrange(-1000, 1000))) for _ in range(count)]
    return VirtualSwarm(trainers, seed=seed, faults=faults)


def _encode(value: Fraction) -> bytes:
    return str(value).encode()


def _decode(part: bytes) -> Fraction:
    return Fraction(part.decode())


def _unknown(meeting: MeetingId) -> EncodingRefused:
    return EncodingRefused(meeting_id=meeting, reason=RefusalReason.UNKNOWN_MEETING, detail="")
