"""Golden vectors: what nodes of this protocol version say today, they must say and understand tomorrow."""

import json
from dataclasses import replace

import pytest

from lowcomm_node.core.messages import Message
from lowcomm_node.settings.manifest import SecurityConfig
from lowcomm_node.wire.admission import AdmissionRule
from lowcomm_node.wire.channel import read_proof, read_welcome
from lowcomm_node.wire.frames import decode_frame
from lowcomm_node.wire.meeting import MeetingReader
from lowcomm_node.wire.records import read_member
from lowcomm_node.wire.state import Snapshot, decode_fingerprint
from tests.wire.samples import (
    CERTIFICATE,
    CLAIM,
    FINGERPRINT,
    LIMITS,
    MEMBER,
    MESSAGES,
    ORGANISER,
    OTHER,
    OWN,
    RUN,
    SNAPSHOT,
    TOKEN,
    VECTORS,
    vectors,
)

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


def test_the_committed_proof_welcome_and_admission_are_understood() -> None:
    """Who proves itself to a node of the next version is the same to it, and an invitation given today lets in tomorrow."""
    (invited,), (proof,), (welcome,) = (
        GOLDEN[name] for name in ("member_record_of_the_invited", "channel_proof", "channel_welcome")
    )
    rule = AdmissionRule.of(SecurityConfig(admission="invite", organiser=ORGANISER), RUN)

    claim, admission = read_proof(
        bytes.fromhex(proof), own=OTHER, run_id=RUN, protocol_version=1, certificate_sha256=CLAIM.certificate_sha256
    )

    assert claim == CLAIM
    assert rule.stay_s(claim.sender, admission, 1999.0) == 3000 - 1999.0
    assert read_welcome(bytes.fromhex(welcome), claim) == TOKEN
    member = read_member(bytes.fromhex(invited), run_id=RUN, protocol_version=1, now=1999.0, rule=rule)
    assert member == replace(MEMBER, certificate=CERTIFICATE)
