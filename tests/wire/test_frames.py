"""wire.frames: what a message weighs is known before it is made."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.core.messages import Answer, Close, Confirm, Offer, StreamPlan, Verdict
from lowcomm_node.units import Codec, Dtype, MeetingId, Stream
from lowcomm_node.wire.frames import framed_bytes, to_frames
from lowcomm_node.wire.limits import CHUNK_BYTES
from tests.wire.samples import MEETING, OTHER, OWN, RECORD, RUN

SIZES = st.lists(st.integers(0, 3 * CHUNK_BYTES + 1), min_size=1, max_size=3)


@given(sizes=SIZES, ranks=st.lists(st.integers(-1, 5000), min_size=1, max_size=40))
def test_an_offer_weighs_what_was_said(sizes: list[int], ranks: list[int]) -> None:
    """Exactly, but for two bytes a chunk, whatever its plans and however many chunks it takes."""
    plans = [
        StreamPlan(stream=stream, codec=Codec.SPARSE, dtype=Dtype.INT4, ranks=tuple(ranks))
        for stream, _ in zip(Stream, sizes, strict=False)
    ]
    offer = Offer(
        meeting_id=MEETING,
        run_id=RUN,
        protocol_version=1,
        sender=OWN,
        receiver=OTHER,
        plans=tuple(plans),
        parts=tuple(map(bytes, sizes)),
        progress_steps=7.5,
        member=RECORD,
    )
    _agrees(offer, sizes)


@given(sizes=SIZES)
def test_the_other_messages_do_too(sizes: list[int]) -> None:
    parts = tuple(map(bytes, sizes))
    _agrees(Answer(meeting_id=MEETING, parts=parts, progress_steps=1.0, clip_norms=(2.0,) * len(sizes)), sizes)
    _agrees(Close(meeting_id=MEETING, parts=parts, scales=(0.5,)), sizes)


def test_messages_without_payload_weigh_what_they_are() -> None:
    for message in (Confirm(meeting_id=MEETING), Verdict(meeting_id=MeetingId("00" * 16), applied=True)):
        (frame,) = to_frames(message)
        assert framed_bytes(message) == frame.ByteSize()


def _agrees(message: Offer | Answer | Close, sizes: list[int]) -> None:
    frames = list(to_frames(message))
    real = sum(frame.ByteSize() for frame in frames)
    empty = replace(message, parts=tuple(b"" for _ in sizes))

    assert 0 <= framed_bytes(empty, sizes) - real <= 2 * (len(frames) - 1)
