"""Frames on a stream to meeting messages, with everything that a peer says checked and bounded.

The reader decides on a message's header alone whether it wants the payload, and gives a message out only complete
and verified.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import TypeVar

from lowcomm_node.core.messages import Answer, Busy, Close, Confirm, Message, Offer, Refusal, StreamPlan, Verdict
from lowcomm_node.errors import RefusalReason, RemoteProtocolError
from lowcomm_node.units import Codec, Dtype, Factor, MeetingId, Omega, PeerId, RunId, Stream
from lowcomm_node.wire.assembly import PayloadAssembler
from lowcomm_node.wire.frames import REASON_FROM_WIRE
from lowcomm_node.wire.gen.lowcomm.v1 import meeting_pb2
from lowcomm_node.wire.limits import MAX_RECORD_BYTES
from lowcomm_node.wire.peer_id import peer_id_from_bytes

__all__ = ["MeetingLimits", "MeetingReader"]

_MEETING_ID_BYTES = 16
_DIGEST_BYTES = 32
_MAX_PROGRESS_STEPS = 1e12
_MAX_RANK = 1 << 20

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeetingLimits:
    """What the receiving node is, and the most it is willing to take."""

    run_id: RunId
    peer_id: PeerId
    protocol_version: int
    max_payload_bytes: int
    """Most payload bytes of one message."""
    max_tensors: int
    """Parameter tensors of the model; a plan has one rank for each."""


class MeetingReader:
    """Turns the frames of one direction of one stream into messages.

    After an error the reader is of no more use: what follows on the stream cannot be trusted to begin anywhere.
    """

    def __init__(self, limits: MeetingLimits, peer: PeerId) -> None:
        """``peer``: who is at the other end of the stream."""
        self._limits = limits
        self._peer = peer
        self._payload: PayloadAssembler | None = None
        self._complete: Callable[[tuple[bytes, ...]], Message] | None = None
        self.meeting_id: MeetingId | None = None
        """Of the newest header, known as soon as it is legible; a refusal can be addressed with it."""

    @property
    def missing_bytes(self) -> int:
        """Payload bytes of the message under way that have not arrived; 0 between messages."""
        return self._payload.missing_bytes if self._payload is not None else 0

    def feed(self, frame: meeting_pb2.MeetingFrame) -> Message | None:
        """Take the next frame; a message when it completes one.

        Raises:
            RemoteProtocolError: with the reason a Refusal can name.
        """
        kind = frame.WhichOneof("body")
        if kind == "chunk":
            if self._payload is None:
                raise _malformed("a chunk without a header")
            self._payload.add(frame.chunk.offset, frame.chunk.data)
            return self._complete_message()
        if self._payload is not None:
            raise _malformed(f"{kind} in the middle of a payload")
        match kind:
            case "offer":
                return self._begin_offer(frame.offer)
            case "answer":
                return self._begin_answer(frame.answer)
            case "close":
                return self._begin_close(frame.close)
            case "verdict":
                return self._verdict(frame.verdict)
            case "confirm":
                return Confirm(meeting_id=self._address(frame.confirm.meeting_id))
            case "busy":
                return Busy(meeting_id=self._address(frame.busy.meeting_id))
            case "refusal":
                meeting_id = self._address(frame.refusal.meeting_id)
                return Refusal(meeting_id=meeting_id, reason=_reason(frame.refusal.reason))
        raise _malformed("a frame without content")

    def _address(self, data: bytes) -> MeetingId:
        if len(data) != _MEETING_ID_BYTES:
            raise _malformed(f"a meeting id of {len(data)} bytes")
        self.meeting_id = MeetingId(data.hex())
        return self.meeting_id

    def _begin_offer(self, offer: meeting_pb2.Offer) -> Message | None:
        meeting_id = self._address(offer.meeting_id)
        if offer.protocol_version != self._limits.protocol_version:
            raise RemoteProtocolError(
                RefusalReason.WRONG_PROTOCOL,
                f"protocol version {offer.protocol_version}, ours is {self._limits.protocol_version}",
            )
        if offer.run_id.hex() != self._limits.run_id:
            raise RemoteProtocolError(RefusalReason.WRONG_RUN, f"run {offer.run_id[:32].hex() or 'without id'}")
        sender, receiver = peer_id_from_bytes(offer.sender), peer_id_from_bytes(offer.receiver)
        if receiver != self._limits.peer_id:
            raise RemoteProtocolError(RefusalReason.WRONG_RECEIVER, f"an offer to {receiver}")
        if sender != self._peer:
            raise RemoteProtocolError(RefusalReason.WRONG_SENDER, f"an offer of {sender} on a channel of {self._peer}")
        progress_steps, weight = _progress(offer.progress_steps), _weight(offer.weight)
        member = offer.member.SerializeToString() if offer.HasField("member") else b""
        if len(member) > MAX_RECORD_BYTES:
            raise RemoteProtocolError(RefusalReason.OVERSIZED, f"a member record of {len(member)} bytes")
        plans = tuple(self._read_plan(plan) for plan in _bounded(offer.plans))
        if len({plan.stream for plan in plans}) != len(plans):
            raise _malformed("a stream planned twice")

        def complete(parts: tuple[bytes, ...]) -> Offer:
            return Offer(
                meeting_id=meeting_id,
                run_id=self._limits.run_id,
                protocol_version=self._limits.protocol_version,
                sender=sender,
                receiver=receiver,
                plans=plans,
                parts=parts,
                progress_steps=progress_steps,
                member=member,
                weight=weight,
            )

        return self._begin_payload(offer.payload, [plan.payload_bytes for plan in offer.plans], complete)

    def _begin_answer(self, answer: meeting_pb2.Answer) -> Message | None:
        meeting_id = self._address(answer.meeting_id)
        progress_steps, weight = _progress(answer.progress_steps), _weight(answer.weight)
        clip_norms = _positive(answer.clip_norms, inf, "clip norm")

        def complete(parts: tuple[bytes, ...]) -> Answer:
            return Answer(
                meeting_id=meeting_id,
                parts=parts,
                progress_steps=progress_steps,
                clip_norms=clip_norms,
                weight=weight,
            )

        return self._begin_payload(answer.payload, _bounded(answer.part_bytes), complete)

    def _begin_close(self, close: meeting_pb2.Close) -> Message | None:
        meeting_id = self._address(close.meeting_id)
        scales = _positive(close.scales, 1.0, "scale")

        def complete(parts: tuple[bytes, ...]) -> Close:
            return Close(meeting_id=meeting_id, parts=parts, scales=scales)

        return self._begin_payload(close.payload, _bounded(close.part_bytes), complete)

    def _verdict(self, verdict: meeting_pb2.Verdict) -> Verdict:
        meeting_id = self._address(verdict.meeting_id)
        if not verdict.applied:
            return Verdict(meeting_id=meeting_id, applied=False, reason=_reason(verdict.reason))
        if verdict.reason != meeting_pb2.REFUSAL_REASON_UNSPECIFIED:
            raise _malformed("a verdict that is both applied and refused")
        return Verdict(meeting_id=meeting_id, applied=True)

    def _begin_payload(
        self,
        header: meeting_pb2.PayloadHeader,
        part_sizes: Sequence[int],
        complete: Callable[[tuple[bytes, ...]], Message],
    ) -> Message | None:
        if sum(part_sizes) != header.total_bytes:
            raise _malformed(f"parts of {sum(part_sizes)} bytes in a payload of {header.total_bytes}")
        self._payload = PayloadAssembler(
            part_sizes=part_sizes, digest=header.sha256, max_bytes=self._limits.max_payload_bytes
        )
        self._complete = complete
        return self._complete_message()

    def _complete_message(self) -> Message | None:
        if self._payload is None or self._complete is None or self._payload.missing_bytes:
            return None
        message = self._complete(self._payload.finish())
        self._payload = self._complete = None
        return message

    def _read_plan(self, plan: meeting_pb2.StreamPlan) -> StreamPlan:
        if not 1 <= len(plan.ranks) <= self._limits.max_tensors:
            raise _malformed(f"ranks for {len(plan.ranks)} tensors, the model has {self._limits.max_tensors}")
        ranks = tuple(plan.ranks)
        if min(ranks) < -1 or max(ranks) > _MAX_RANK:
            raise _malformed(f"ranks from {min(ranks)} to {max(ranks)}")
        if len(plan.frozen_digest) not in (0, _DIGEST_BYTES) or bool(plan.frozen_digest) != bool(plan.factor):
            raise _malformed(f"frozen factors by {len(plan.frozen_digest)} bytes, and factor {plan.factor[:8]!r}")
        try:
            return StreamPlan(
                stream=Stream(plan.stream),
                codec=Codec(plan.codec),
                dtype=Dtype(plan.dtype),
                ranks=ranks,
                omega=Omega(plan.omega or Omega.SEEDED),
                frozen=plan.frozen_digest.hex(),
                factor=Factor(plan.factor) if plan.factor else None,
            )
        except ValueError as error:
            raise _malformed(f"an unknown word in a plan: {error}") from error


def _malformed(detail: str) -> RemoteProtocolError:
    return RemoteProtocolError(RefusalReason.MALFORMED, detail)


def _reason(value: int) -> RefusalReason:
    reason = REASON_FROM_WIRE.get(value)
    if reason is None:
        raise _malformed(f"refusal reason {value}")
    return reason


def _progress(steps: float) -> float:
    if not (isfinite(steps) and 0.0 <= steps <= _MAX_PROGRESS_STEPS):
        raise _malformed(f"progress of {steps} steps")
    return steps


def _weight(weight: float) -> float:
    """How much the sender counts: at most as much as everybody, and nothing said is that."""
    (checked,) = _positive((weight or 1.0,), 1.0, "weight")
    return checked


def _positive(numbers: Sequence[float], largest: float, what: str) -> tuple[float, ...]:
    """One number per plan, or none at all; how many plans there are is known only to who has made or read the offer."""
    if len(numbers) > len(Stream):
        raise _malformed(f"{len(numbers)} numbers where there are {len(Stream)} streams")
    for number in numbers:
        if not 0.0 < number <= largest:  # NaN is none of it
            raise _malformed(f"a {what} of {number}")
    return tuple(numbers)


def _bounded(items: Sequence[_Item]) -> Sequence[_Item]:
    if not 1 <= len(items) <= len(Stream):
        raise _malformed(f"{len(items)} parts where there are {len(Stream)} streams")
    return items
