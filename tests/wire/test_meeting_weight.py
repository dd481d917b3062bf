"""wire.meeting_weight: the messages it makes up weigh as much as real ones."""

from dataclasses import replace

from lowcomm_node.core.messages import Answer, Close, Confirm, Message, Offer, StreamPlan, Verdict
from lowcomm_node.core.spread import MarkedSketch
from lowcomm_node.units import Codec, Dtype, Stream
from lowcomm_node.wire.frames import to_frames
from lowcomm_node.wire.meeting_weight import message_bytes
from lowcomm_node.wire.records import sign_member
from lowcomm_node.wire.vitals import FOLDED_SUMS, Vitals
from tests.wire.samples import CERTIFICATE, KEY, MEETING, MEMBER, OTHER, OWN, RUN

PLAN = StreamPlan(stream=Stream.PARAMS, codec=Codec.SPARSE, dtype=Dtype.INT4, ranks=(4096,) * 30)


def test_a_meeting_of_two_members_weighs_what_was_said() -> None:
    """Signed record, certificate, sketches, digests: within twenty bytes, which is how much addresses and numbers differ in length."""
    offer, answer, close = bytes(45_000), bytes(47_000), bytes(100)
    sketches = tuple(MarkedSketch(mark, (0.25,) * FOLDED_SUMS) for mark in (4097, 4096, 3840))
    record = sign_member(
        replace(MEMBER, certificate=CERTIFICATE),
        run_id=RUN,
        protocol_version=1,
        sign=KEY.sign,
        vitals=Vitals(validation_loss=2.5, sketches=sketches),
    )
    offered = Offer(
        meeting_id=MEETING,
        run_id=RUN,
        protocol_version=1,
        sender=OWN,
        receiver=OTHER,
        plans=(PLAN,),
        parts=(offer,),
        progress_steps=12345.5,
        member=record,
    )
    initiator: list[Message] = [
        offered,
        Close(meeting_id=MEETING, parts=(close,), scales=(1.0,)),
        Confirm(meeting_id=MEETING),
    ]
    answerer: list[Message] = [
        Answer(meeting_id=MEETING, parts=(answer,), progress_steps=12300.25, clip_norms=(3.5,)),
        Verdict(meeting_id=MEETING, applied=True),
        Confirm(meeting_id=MEETING),
    ]

    sent, received = message_bytes(PLAN, len(offer), len(answer), len(close))

    real = [sum(frame.ByteSize() for message in end for frame in to_frames(message)) for end in (initiator, answerer)]
    assert abs(sent - real[0]) <= 20
    assert abs(received - real[1]) <= 20
