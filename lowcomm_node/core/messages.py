"""What two nodes say to each other in a meeting, as plain dataclasses. ``wire`` turns them into bytes and back.

Payload parts are opaque here: one byte string per planned stream, made and read by ``algo``.
"""

from dataclasses import dataclass

from lowcomm_node.errors import RefusalReason
from lowcomm_node.units import Codec, Dtype, Factor, MeetingId, Omega, PeerId, RunId, Stream

__all__ = ["Answer", "Busy", "Close", "Confirm", "Message", "Offer", "Refusal", "StreamPlan", "Verdict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlan:
    """How one stream is coded in one meeting; with the manifest's shapes it fixes every payload size."""

    stream: Stream
    codec: Codec
    dtype: Dtype
    ranks: tuple[int, ...]
    """Per tensor of the stream, in its order: r > 0 low rank (ab) or r coordinates (sparse), 0 left out of this meeting, -1 dense."""
    omega: Omega = Omega.SEEDED
    """Codec ab: where the test matrix comes from."""
    frozen: str = ""
    """AB-training: digest of the frozen factors in whose coordinates the split tensors travel, 64 hexadecimal digits; empty: whole."""
    factor: Factor | None = None
    """Which factor travels; None exactly when ``frozen`` is empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Initiator to answerer: the plan and the initiator's half of the sketch."""

    meeting_id: MeetingId
    run_id: RunId
    protocol_version: int
    sender: PeerId
    receiver: PeerId
    plans: tuple[StreamPlan, ...]
    parts: tuple[bytes, ...]
    """One payload per plan."""
    progress_steps: float
    """Swarm progress as the initiator knew it when the offer was encoded."""
    member: bytes = b""
    """The initiator's signed member record, serialised."""
    weight: float = 1.0
    """How much the initiator counts, in (0, 1] (``core.standing``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Answerer to initiator: its half, computed against the offer."""

    meeting_id: MeetingId
    parts: tuple[bytes, ...]
    progress_steps: float
    clip_norms: tuple[float, ...] = ()
    """tau_j per plan, above 0: the largest |C| that the answerer takes unscaled, infinite for any; empty is infinite for all."""
    weight: float = 1.0
    """How much the answerer counts, in (0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """Initiator to answerer: what completes the correction on both ends. Neither has applied it yet."""

    meeting_id: MeetingId
    parts: tuple[bytes, ...]
    scales: tuple[float, ...] = ()
    """s per plan, in (0, 1]: both ends apply s * C; empty is 1 for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Answerer to initiator: the decision that binds both ends. The answerer has already followed it."""

    meeting_id: MeetingId
    applied: bool
    reason: RefusalReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirm:
    """Initiator to answerer: verdict received and followed. The answerer says it back, however often it hears it."""

    meeting_id: MeetingId


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """Answerer to initiator: in another meeting, ask somebody else."""

    meeting_id: MeetingId


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Answerer to initiator: this offer will never be answered."""

    meeting_id: MeetingId
    reason: RefusalReason


Message = Offer | Answer | Close | Verdict | Confirm | Busy | Refusal
