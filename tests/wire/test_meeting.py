"""Reading frames: everything a peer says is checked, and nothing it says breaks the reader."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.core.messages import Answer, Message
from lowcomm_node.errors import RefusalReason, RemoteProtocolError
from lowcomm_node.units import RunId, Stream
from lowcomm_node.wire.frames import decode_frame, to_frames
from lowcomm_node.wire.gen.lowcomm.v1 import meeting_pb2
from lowcomm_node.wire.limits import MAX_HEADER_BYTES
from lowcomm_node.wire.meeting import MeetingReader
from tests.wire.samples import LIMITS, MEETING, MESSAGES, OFFER, OWN

Frame = meeting_pb2.MeetingFrame


def _coordinates(offer: meeting_pb2.Offer, digest: bytes, factor: str) -> None:
    offer.plans[0].frozen_digest, offer.plans[0].factor = digest, factor


def read(frames: list[Frame]) -> Message | None:
    reader = MeetingReader(LIMITS, OWN)
    message = None
    for frame in frames:
        message = reader.feed(frame)
    return message


def refused(frames: list[Frame]) -> RefusalReason:
    with pytest.raises(RemoteProtocolError) as caught:
        read(frames)
    return caught.value.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"run_id": RunId("ff" * 32)}, RefusalReason.WRONG_RUN),
        ({"protocol_version": 7}, RefusalReason.WRONG_PROTOCOL),
        ({"receiver": OWN}, RefusalReason.WRONG_RECEIVER),
        ({"parts": (b"x" * (1 << 20), b"y", b"")}, RefusalReason.OVERSIZED),
        ({"progress_steps": float("nan")}, RefusalReason.MALFORMED),
        ({"progress_steps": -1.0}, RefusalReason.MALFORMED),
        ({"progress_steps": 1e300}, RefusalReason.MALFORMED),
    ],
)
def test_an_offer_is_judged_by_its_header(change: dict[str, object], reason: RefusalReason) -> None:
    """Wrong run, version, receiver and size are decided before any of the payload is read."""
    header = next(to_frames(replace(OFFER, **change)))  # type: ignore[arg-type]

    assert refused([header]) is reason


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda offer: setattr(offer, "meeting_id", b"short"), RefusalReason.MALFORMED),
        (lambda offer: setattr(offer, "sender", b"somebody"), RefusalReason.MALFORMED),
        (lambda offer: setattr(offer.payload, "total_bytes", 1), RefusalReason.MALFORMED),
        (lambda offer: setattr(offer.payload, "sha256", b"short"), RefusalReason.MALFORMED),
        (lambda offer: setattr(offer.plans[0], "stream", "gradients"), RefusalReason.MALFORMED),
        (lambda offer: setattr(offer.plans[0], "codec", "zip"), RefusalReason.MALFORMED),
        (lambda offer: setattr(offer.plans[0], "dtype", "int3"), RefusalReason.MALFORMED),
        (lambda offer: setattr(offer.plans[0], "omega", "guessed"), RefusalReason.MALFORMED),
        (lambda offer: setattr(offer.plans[0], "frozen_digest", bytes(32)), RefusalReason.MALFORMED),
        (lambda offer: setattr(offer.plans[0], "factor", "a"), RefusalReason.MALFORMED),
        (lambda offer: _coordinates(offer, bytes(31), "a"), RefusalReason.MALFORMED),
        (lambda offer: _coordinates(offer, bytes(32), "c"), RefusalReason.MALFORMED),
        (lambda offer: setattr(offer.plans[1], "stream", "params"), RefusalReason.MALFORMED),
        (lambda offer: setattr(offer.plans[0], "payload_bytes", 2**64 - 1), RefusalReason.MALFORMED),
        (lambda offer: offer.plans[0].ranks.extend([1] * 5), RefusalReason.MALFORMED),
        (lambda offer: offer.plans[0].ranks.append(-2), RefusalReason.MALFORMED),
        (lambda offer: offer.plans[0].ranks.append(2**31 - 1), RefusalReason.MALFORMED),
        (lambda offer: offer.plans[0].ClearField("ranks"), RefusalReason.MALFORMED),
        (lambda offer: offer.ClearField("plans"), RefusalReason.MALFORMED),
        (lambda offer: offer.plans.extend(list(offer.plans)), RefusalReason.MALFORMED),
        (lambda offer: setattr(offer.member, "record", b"x" * 2000), RefusalReason.OVERSIZED),
    ],
)
def test_each_field_of_an_offer_is_checked(damage: Callable[[meeting_pb2.Offer], None], reason: RefusalReason) -> None:
    """A field out of its bounds refuses the offer with the right word."""
    frames = list(to_frames(OFFER))
    damage(frames[0].offer)

    assert refused(frames) is reason


@pytest.mark.parametrize("clip_norms", [[0.0], [-1.0], [math.nan], [1.0] * (len(Stream) + 1)])
def test_clip_norms_of_an_answer_are_checked(clip_norms: list[float]) -> None:
    """A bound that nothing or everything meets, or more bounds than a meeting can have plans, are no bounds."""
    frames = list(to_frames(MESSAGES["answer"]))
    frames[0].answer.clip_norms.extend(clip_norms)

    assert refused(frames) is RefusalReason.MALFORMED


@pytest.mark.parametrize("scales", [[0.0], [-0.5], [1.0000001], [math.nan], [math.inf], [1.0] * (len(Stream) + 1)])
def test_scales_of_a_close_are_checked(scales: list[float]) -> None:
    """A scale makes a correction smaller: it neither turns it round nor blows it up."""
    frames = list(to_frames(MESSAGES["close"]))
    frames[0].close.scales.extend(scales)

    assert refused(frames) is RefusalReason.MALFORMED


@pytest.mark.parametrize("weight", [-0.5, 1.0000001, math.nan, math.inf])
def test_nobody_counts_more_than_everybody(weight: float) -> None:
    """In offers and answers: a weight makes its sender count less."""
    offer, answer = (list(to_frames(message)) for message in (OFFER, MESSAGES["answer"]))
    offer[0].offer.weight = weight
    answer[0].answer.weight = weight

    assert refused(offer) is refused(answer) is RefusalReason.MALFORMED


def test_an_omega_of_few_words_is_understood() -> None:
    """Seeded may be said or left unsaid."""
    frames = list(to_frames(OFFER))
    assert frames[0].offer.plans[0].omega == ""
    frames[0].offer.plans[0].omega = "seeded"

    assert read(frames) == OFFER


@pytest.mark.parametrize(
    "frames",
    [
        [Frame()],
        [Frame(chunk=meeting_pb2.Chunk(offset=0, data=b"x"))],
        [*list(to_frames(OFFER))[:1], *to_frames(MESSAGES["confirm"])],
        [Frame(verdict=meeting_pb2.Verdict(meeting_id=bytes(16), applied=True, reason="REFUSAL_REASON_EXPIRED"))],
        [Frame(verdict=meeting_pb2.Verdict(meeting_id=bytes(16), applied=False))],
        [Frame.FromString(bytes.fromhex("3a140a10" + "00" * 16 + "1063"))],
        [Frame(answer=meeting_pb2.Answer(meeting_id=bytes(16), part_bytes=[0] * (len(Stream) + 1)))],
    ],
    ids=["empty", "lone chunk", "header in a payload", "both", "neither", "unknown reason", "too many parts"],
)
def test_frames_out_of_order_or_reason_are_malformed(frames: list[Frame]) -> None:
    """What has no place in the protocol is refused as malformed."""
    assert refused(frames) is RefusalReason.MALFORMED


def test_the_meeting_is_known_as_soon_as_it_is_legible() -> None:
    """A refusal can be addressed even when the rest of the header is wrong."""
    reader = MeetingReader(LIMITS, OWN)

    with pytest.raises(RemoteProtocolError):
        reader.feed(next(to_frames(replace(OFFER, receiver=OWN))))

    assert reader.meeting_id == MEETING


def test_one_reader_reads_message_after_message() -> None:
    """Messages of one stream follow each other through the same reader."""
    reader = MeetingReader(LIMITS, OWN)
    frames = [frame for message in MESSAGES.values() for frame in to_frames(message)]

    read_messages = [message for frame in frames if (message := reader.feed(frame)) is not None]

    assert read_messages == list(MESSAGES.values())
    assert reader.missing_bytes == 0


def test_frames_beyond_the_bound_are_refused_unparsed() -> None:
    """A header cannot be used to fill memory."""
    with pytest.raises(RemoteProtocolError) as caught:
        decode_frame(bytes(MAX_HEADER_BYTES + 100))

    assert caught.value.reason is RefusalReason.OVERSIZED


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_any_bytes_give_a_message_or_a_refusal(data: list[bytes]) -> None:
    """The reader never fails in another way, whatever comes."""
    reader = MeetingReader(LIMITS, OWN)
    refusals: list[RefusalReason] = []
    given_out: list[Message | None] = []
    for frame in data:
        try:
            given_out.append(reader.feed(decode_frame(frame)))
        except RemoteProtocolError as refusal:
            refusals.append(refusal.reason)
            break

    assert len(given_out) + len(refusals) <= len(data)
    assert all(message is None or isinstance(message, Message) for message in given_out)


@given(st.sampled_from(sorted(MESSAGES)), st.data())
def test_any_damage_to_a_message_is_refused_or_harmless(name: str, data: st.DataObject) -> None:
    """One changed byte anywhere gives a refusal, an unfinished message, or a message: never a damaged payload."""
    frames = [bytearray(frame.SerializeToString()) for frame in to_frames(MESSAGES[name])]
    victim = data.draw(st.integers(0, len(frames) - 1))
    place = data.draw(st.integers(0, len(frames[victim]) - 1))
    frames[victim][place] ^= data.draw(st.integers(1, 255))
    reader = MeetingReader(LIMITS, OWN)
    message = None
    try:
        for frame in frames:
            message = reader.feed(decode_frame(bytes(frame)))
    except RemoteProtocolError:
        return
    assert message is None or victim == 0, "a damaged payload passed for a good one"


@given(
    st.lists(st.binary(max_size=100), min_size=1, max_size=3),
    st.floats(0, 1e12),
)
def test_every_answer_comes_back_as_it_went(parts: list[bytes], progress_steps: float) -> None:
    """Encoding and reading are inverse for any payload."""
    answer = Answer(meeting_id=MEETING, parts=tuple(parts), progress_steps=progress_steps)

    assert read(list(to_frames(answer))) == answer
