"""What the messages of a meeting weigh beside their payload: made as real ones are, with values as long as usual, and measured."""

from collections.abc import Sequence

from lowcomm_node.core.events import Member
from lowcomm_node.core.messages import Answer, Close, Confirm, Offer, StreamPlan, Verdict
from lowcomm_node.core.spread import MOST_SKETCHES, MarkedSketch
from lowcomm_node.units import MeetingId, RunId
from lowcomm_node.wire.certificate import CERTIFICATE_BYTES
from lowcomm_node.wire.frames import framed_bytes
from lowcomm_node.wire.peer_id import peer_id_from_bytes
from lowcomm_node.wire.records import sign_member
from lowcomm_node.wire.vitals import FOLDED_SUMS, Vitals

__all__ = ["message_bytes"]

_PEER = peer_id_from_bytes(bytes.fromhex("002408011220") + bytes(32))
"""As long as every peer id of an Ed25519 key."""
_MEETING = MeetingId("00" * 16)
_RUN = RunId("00" * 32)
_SIGNATURE_BYTES = 64
_ADDRESS = "203.0.113.5:4001"
_NUMBER = 1.5
"""Any double takes as many bytes as any other."""
_MARK = 1000


def message_bytes(plan: StreamPlan, offer: int, answer: int, close: int) -> tuple[int, int]:
    """Bytes of all messages of a completed meeting for one stream, payloads of these sizes included: sent by its initiator, and by its answerer.

    As between members of an open run without an invitation, both of full weight.
    """
    offered = Offer(
        meeting_id=_MEETING,
        run_id=_RUN,
        protocol_version=1,
        sender=_PEER,
        receiver=_PEER,
        plans=(plan,),
        parts=(b"",),
        progress_steps=_NUMBER,
        member=_record(),
    )
    answered = Answer(meeting_id=_MEETING, parts=(b"",), progress_steps=_NUMBER, clip_norms=(_NUMBER,))
    closed = Close(meeting_id=_MEETING, parts=(b"",), scales=(1.0,))
    confirmed = framed_bytes(Confirm(meeting_id=_MEETING))
    return (
        framed_bytes(offered, (offer,)) + framed_bytes(closed, (close,)) + confirmed,
        framed_bytes(answered, (answer,)) + framed_bytes(Verdict(meeting_id=_MEETING, applied=True)) + confirmed,
    )


def _record() -> bytes:
    """A member's record as an offer carries it."""
    sketches: Sequence[MarkedSketch] = [MarkedSketch(_MARK, (_NUMBER,) * FOLDED_SUMS)] * MOST_SKETCHES
    member = Member(
        peer=_PEER,
        grpc_address=_ADDRESS,
        progress_steps=_NUMBER,
        has_state=True,
        expires_at=_NUMBER,
        certificate=bytes(CERTIFICATE_BYTES),
    )
    vitals = Vitals(validation_loss=_NUMBER, sketches=tuple(sketches))
    return sign_member(
        member, run_id=_RUN, protocol_version=1, sign=lambda _data: bytes(_SIGNATURE_BYTES), vitals=vitals
    )
