"""Meeting messages to frames on a stream: a header frame, then the payload in chunk frames."""

from collections.abc import Iterator, Sequence
from typing import assert_never

from google.protobuf.message import DecodeError

from lowcomm_node.core.messages import Answer, Busy, Close, Confirm, Message, Offer, Refusal, StreamPlan, Verdict
from lowcomm_node.errors import RefusalReason, RemoteProtocolError
from lowcomm_node.units import Omega
from lowcomm_node.wire.assembly import payload_digest, split
from lowcomm_node.wire.gen.lowcomm.v1 import meeting_pb2, records_pb2
from lowcomm_node.wire.limits import CHUNK_BYTES, MAX_HEADER_BYTES
from lowcomm_node.wire.peer_id import peer_id_to_bytes

__all__ = ["REASON_FROM_WIRE", "decode_frame", "framed_bytes", "to_frames"]

_ANY_DIGEST = bytes(32)
_REASON_TO_WIRE: dict[RefusalReason, str] = {reason: f"REFUSAL_REASON_{reason.name}" for reason in RefusalReason}
REASON_FROM_WIRE: dict[int, RefusalReason] = {
    meeting_pb2.RefusalReason.Value(name): reason for reason, name in _REASON_TO_WIRE.items()
}
"""The proto's enum has the same words as ours; one that it lacks fails here, at import."""


def to_frames(message: Message, digest: bytes | None = None) -> Iterator[meeting_pb2.MeetingFrame]:
    """The frames of one message, header first.

    Args:
        message: what to say.
        digest: ``payload_digest(message.parts)`` when the caller has computed it in a thread already.
    """
    parts: tuple[bytes, ...] = ()
    if isinstance(message, Offer | Answer | Close):
        parts = message.parts
    yield _header(message, [len(part) for part in parts], digest or payload_digest(parts))
    for offset, piece in split(parts):
        # Filled in place: a Chunk that is made first would be copied once more.
        frame = meeting_pb2.MeetingFrame()
        frame.chunk.offset, frame.chunk.data = offset, bytes(piece)
        yield frame


def framed_bytes(message: Message, sizes: Sequence[int] = ()) -> int:
    """Bytes that ``to_frames`` makes of a message whose parts have these ``sizes``; those it holds itself are not looked at.

    Exact but for two bytes a chunk at most, by which the first ones of a payload are smaller.
    """
    total = _header(message, sizes, _ANY_DIGEST).ByteSize()
    for size in sizes:
        for length, count in ((CHUNK_BYTES, size // CHUNK_BYTES), (size % CHUNK_BYTES, 1)):
            if length and count:
                frame = meeting_pb2.MeetingFrame()
                frame.chunk.offset, frame.chunk.data = sum(sizes) - length, bytes(length)
                total += count * frame.ByteSize()
    return total


def _header(message: Message, sizes: Sequence[int], digest: bytes) -> meeting_pb2.MeetingFrame:
    frame = meeting_pb2.MeetingFrame()
    meeting_id = bytes.fromhex(message.meeting_id)
    payload = None
    if isinstance(message, Offer | Answer | Close):
        payload = meeting_pb2.PayloadHeader(total_bytes=sum(sizes), sha256=digest)
    match message:
        case Offer():
            frame.offer.CopyFrom(
                meeting_pb2.Offer(
                    meeting_id=meeting_id,
                    run_id=bytes.fromhex(message.run_id),
                    protocol_version=message.protocol_version,
                    sender=peer_id_to_bytes(message.sender),
                    receiver=peer_id_to_bytes(message.receiver),
                    plans=[_plan(plan, size) for plan, size in zip(message.plans, sizes, strict=True)],
                    progress_steps=message.progress_steps,
                    payload=payload,
                    member=records_pb2.SignedRecord.FromString(message.member) if message.member else None,
                    weight=_weight(message.weight),
                )
            )
        case Answer():
            answer = meeting_pb2.Answer(meeting_id=meeting_id, part_bytes=sizes, payload=payload)
            answer.progress_steps = message.progress_steps
            answer.clip_norms.extend(message.clip_norms)
            answer.weight = _weight(message.weight)
            frame.answer.CopyFrom(answer)
        case Close():
            close = meeting_pb2.Close(meeting_id=meeting_id, part_bytes=sizes, payload=payload, scales=message.scales)
            frame.close.CopyFrom(close)
        case Verdict():
            reason = _REASON_TO_WIRE[message.reason] if message.reason is not None else None
            frame.verdict.CopyFrom(meeting_pb2.Verdict(meeting_id=meeting_id, applied=message.applied, reason=reason))
        case Confirm():
            frame.confirm.CopyFrom(meeting_pb2.Confirm(meeting_id=meeting_id))
        case Busy():
            frame.busy.CopyFrom(meeting_pb2.Busy(meeting_id=meeting_id))
        case Refusal():
            reason = _REASON_TO_WIRE[message.reason]
            frame.refusal.CopyFrom(meeting_pb2.Refusal(meeting_id=meeting_id, reason=reason))
        case _:
            assert_never(message)
    return frame


def _plan(plan: StreamPlan, payload_bytes: int) -> meeting_pb2.StreamPlan:
    return meeting_pb2.StreamPlan(
        stream=plan.stream.value,
        codec=plan.codec.value,
        dtype=plan.dtype.value,
        ranks=plan.ranks,
        payload_bytes=payload_bytes,
        omega="" if plan.omega is Omega.SEEDED else plan.omega.value,
        frozen_digest=bytes.fromhex(plan.frozen),
        factor="" if plan.factor is None else plan.factor.value,
    )


def decode_frame(data: bytes) -> meeting_pb2.MeetingFrame:
    """Parse one frame.

    Raises:
        RemoteProtocolError: OVERSIZED above one mebibyte and a little; MALFORMED when it does not parse.
    """
    if len(data) > MAX_HEADER_BYTES + 64:
        raise RemoteProtocolError(RefusalReason.OVERSIZED, f"a frame of {len(data)} bytes")
    try:
        return meeting_pb2.MeetingFrame.FromString(data)
    except DecodeError as error:
        raise RemoteProtocolError(RefusalReason.MALFORMED, "a frame that does not parse") from error


def _weight(weight: float) -> float:
    """Full weight is not written: it is what a message without one means."""
    return 0.0 if weight == 1.0 else weight
