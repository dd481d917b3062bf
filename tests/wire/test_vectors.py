"""Golden vectors: what nodes of this protocol version say today, they must say and understand tomorrow."""

import json

import pytest

from lowcomm_node.core.messages import Message
from lowcomm_node.wire.frames import decode_frame
from lowcomm_node.wire.meeting import MeetingReader
from lowcomm_node.wire.records import read_member
from lowcomm_node.wire.state import Snapshot, decode_fingerprint
from tests.wire.samples import FINGERPRINT, LIMITS, MEMBER, MESSAGES, OWN, RUN, SNAPSHOT, VECTORS, vectors

GOLDEN: dict[str, list[str]] = json.loads(VECTORS.read_text())


def test_what_we_say_is_what_is_written_down() -> None:
    """Each sample encodes to the committed bytes, and none is missing."""
    assert vectors() == GOLDEN


@pytest.mark.parametrize(("name", "message"), MESSAGES.items())
def test_what_is_written_down_is_understood(name: str, message: Message) -> None:
    """The committed frames of a message read as that message, complete with the last frame and not before."""
    reader = MeetingReader(LIMITS, OWN)

    *earlier, last = [reader.feed(decode_frame(bytes.fromhex(frame))) for frame in GOLDEN[name]]

    assert last == message
    assert earlier == [None] * len(earlier)


def test_the_committed_record_snapshot_and_fingerprint_are_understood() -> None:
    """A signature made by this version is one that the next version accepts."""
    (record,), (snapshot,), (fingerprint,) = (GOLDEN[name] for name in ("member_record", "snapshot", "fingerprint"))

    assert read_member(bytes.fromhex(record), run_id=RUN, protocol_version=1, now=1999.0) == MEMBER
    assert Snapshot.decode(bytes.fromhex(snapshot), run_id=RUN, max_bytes=1500) == SNAPSHOT
    assert decode_fingerprint(bytes.fromhex(fingerprint), RUN) == FINGERPRINT
