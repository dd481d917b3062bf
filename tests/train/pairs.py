"""Two trainers' ends of a meeting without a daemon between them, on a model that steps in a millisecond."""

import dataclasses
import tempfile
from pathlib import Path

import torch

from lowcomm_node.core.commands import ApplyClose, EncodeAnswer, EncodeClose, EncodeOffer, SettleMeeting
from lowcomm_node.core.events import AnswerEncoded, CloseEncoded, CorrectionApplied, EncodingRefused, OfferEncoded
from lowcomm_node.core.messages import Answer, Close, Offer
from lowcomm_node.errors import RefusalReason
from lowcomm_node.settings.manifest import (
    Manifest,
    MeetingConfig,
    ModelConfig,
    OptimizerConfig,
    OuterConfig,
    TrainingConfig,
)
from lowcomm_node.settings.node import DataSettings, DeviceSettings, NodeSettings
from lowcomm_node.train.desk import MeetingDesk, MeetingEvent
from lowcomm_node.train.replica import Replica
from lowcomm_node.train.session import Session, build_session
from lowcomm_node.units import MeetingId, PeerId, RunId, Stream

RUN = RunId("ab" * 32)


def tiny_manifest(
    meeting: MeetingConfig | None = None,
    outer: OuterConfig | None = None,
    optimizer: OptimizerConfig | None = None,
    **training: int,
) -> Manifest:
    """A run whose model has about ten thousand parameters, trained by AdamW, with all streams exchanged."""
    return Manifest(
        model=ModelConfig(num_layers=1, num_heads=2, d_model=16, d_ff=32, context_length=16),
        training=dataclasses.replace(TrainingConfig(batch_size=4, total_steps=200, warmup_steps=5), **training),
        optimizer=optimizer or OptimizerConfig(kind="adamw", lr=1e-2),
        meeting=meeting or tiny_meeting(),
        outer=outer or OuterConfig(every_steps=8),
    )


def tiny_meeting(**changes: object) -> MeetingConfig:
    """Factors in bf16, every stream on, and a budget that a low rank of the tiny model needs."""
    config = MeetingConfig(
        codec="ab",
        dtype="bf16",
        budget_bytes=4096,
        exp_avg_every_steps=10,
        exp_avg_sq_every_steps=10,
        momentum_every_steps=10,
        dense_last_ratio=0.05,
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def write_text(folder: Path, copies: int = 1) -> Path:
    """A text with enough structure that a few steps lower the loss; in ten files."""
    for number in range(10):
        lines = [f"the number {k} follows the number {k - 1}\n" for k in range(number, number + 60)]
        (folder / f"part{number}.txt").write_text("".join(lines) * copies)
    return folder


def tiny_settings(folder: Path, eval_every_steps: int = 10) -> NodeSettings:
    """One thread on the CPU, text from ``folder``."""
    return NodeSettings(
        eval_every_steps=eval_every_steps,
        device=DeviceSettings(name="cpu", threads=1),
        data=DataSettings(paths=(str(folder),)),
    )


def tiny_session(manifest: Manifest, peer: str = "peer") -> Session:
    """A replica on the tiny text."""
    with tempfile.TemporaryDirectory() as folder:
        return build_session(manifest, tiny_settings(write_text(Path(folder))), RUN, PeerId(peer))


def train(session: Session, steps: int) -> list[float]:
    """Take own steps; returns their losses."""
    replica = session.replica
    return [replica.train_step(session.stream.batch(replica.data_cursor)).loss for _ in range(steps)]


class Pair:
    """Initiator i and answerer j, whose weights have drifted apart by some own steps."""

    def __init__(self, manifest: Manifest, steps: int = 6) -> None:
        self.sessions = [tiny_session(manifest, peer) for peer in ("i", "j")]
        self.i, self.j = (session.replica for session in self.sessions)
        self.desk_i, self.desk_j = (MeetingDesk(replica, manifest, RUN) for replica in (self.i, self.j))
        self.num_meetings = 0
        self.step(steps)

    def step(self, steps: int) -> None:
        """Own steps on both ends."""
        for session in self.sessions:
            train(session, steps)

    def offer(self, *streams: Stream, is_dense: bool = False) -> Offer:
        """The initiator's offer."""
        self.num_meetings += 1
        meeting_id = MeetingId(f"{self.num_meetings:032x}")
        event = self.desk_i.handle(EncodeOffer(meeting_id=meeting_id, streams=streams, is_dense=is_dense))
        assert isinstance(event, OfferEncoded), event
        return Offer(
            meeting_id=meeting_id,
            run_id=RUN,
            protocol_version=1,
            sender=PeerId("i"),
            receiver=PeerId("j"),
            plans=event.plans,
            parts=event.parts,
            progress_steps=event.progress_steps,
            weight=event.weight,
        )

    def answer(self, offer: Offer) -> Answer:
        """The answerer's answer, or an assertion that says why not."""
        event = self.desk_j.handle(EncodeAnswer(offer=offer))
        assert isinstance(event, AnswerEncoded), event
        return Answer(
            meeting_id=event.meeting_id,
            parts=event.parts,
            progress_steps=event.progress_steps,
            clip_norms=event.clip_norms,
            weight=event.weight,
        )

    def close(self, answer: Answer) -> Close:
        """The initiator's close."""
        event = self.desk_i.handle(EncodeClose(answer=answer))
        assert isinstance(event, CloseEncoded), event
        return Close(meeting_id=event.meeting_id, parts=event.parts, scales=event.scales)

    def apply(self, close: Close) -> CorrectionApplied:
        """The answerer follows."""
        return applied(self.desk_j.handle(ApplyClose(close=close)))

    def settle(self, meeting_id: MeetingId) -> CorrectionApplied:
        """The initiator follows."""
        return applied(self.desk_i.handle(SettleMeeting(meeting_id=meeting_id)))

    def meet(self, *streams: Stream, is_dense: bool = False) -> CorrectionApplied:
        """A whole meeting."""
        offer = self.offer(*streams, is_dense=is_dense)
        self.apply(self.close(self.answer(offer)))
        return self.settle(offer.meeting_id)


def applied(event: MeetingEvent | None) -> CorrectionApplied:
    """The event, which must say that the correction was applied."""
    assert isinstance(event, CorrectionApplied), event
    return event


def refusal(event: MeetingEvent | None) -> RefusalReason:
    """The reason of an event that must be a refusal."""
    assert isinstance(event, EncodingRefused), event
    return event.reason


def distance(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """Frobenius norm of the difference of two lists of tensors."""
    return float(sum((a.double() - b.double()).square().sum() for a, b in zip(one, other, strict=True)) ** 0.5)


def means(one: Replica, other: Replica, stream: Stream) -> list[torch.Tensor]:
    """The pair's mean of a stream, in fp64."""
    pairs = zip(one.views(stream), other.views(stream), strict=True)
    return [(a.double() + b.double()) / 2 for a, b in pairs]
