"""Proofs of who is at the end of a connection, as bytes."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.errors import RefusalReason, RemoteProtocolError
from lowcomm_node.units import RunId
from lowcomm_node.wire.channel import MAX_PROOF_BYTES, Claim, read_proof, read_welcome, write_proof, write_welcome
from tests.wire.samples import ADMISSION, CLAIM, KEY, OTHER, OWN, PROOF, RUN, TOKEN, WELCOME


def read(data: bytes, **changes: Any) -> tuple[Claim, bytes]:
    expected: dict[str, Any] = {
        "own": OTHER,
        "run_id": RUN,
        "protocol_version": 1,
        "certificate_sha256": CLAIM.certificate_sha256,
    }
    return read_proof(data, **(expected | changes))


def refused(data: bytes, **changes: Any) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as caught:
        read(data, **changes)
    return caught.value


def test_a_proof_is_for_one_node_one_run_and_one_certificate() -> None:
    """What a node has signed for another is worth nothing here."""
    assert read(PROOF) == (CLAIM, ADMISSION)
    assert refused(PROOF, own=OWN).reason is RefusalReason.WRONG_RECEIVER
    assert refused(PROOF, run_id=RunId("ff" * 32)).reason is RefusalReason.WRONG_RUN
    assert refused(PROOF, certificate_sha256=bytes(32)).reason is RefusalReason.CHECKSUM


def test_versions_come_first() -> None:
    """Where they do not fit nothing else is looked at, and both are named."""
    error = refused(write_proof(replace(CLAIM, run_id=RunId("ff" * 32)), KEY.sign), protocol_version=4)

    assert error.reason is RefusalReason.WRONG_PROTOCOL
    assert error.detail == "the run speaks protocol 4, the other end speaks 1 to 3: update lowcomm-node"


@given(st.integers(0, len(PROOF) - 1), st.integers(1, 255))
def test_no_byte_of_a_proof_can_be_changed(place: int, change: int) -> None:
    """But in the admission, which has signatures of its own."""
    forged = bytearray(PROOF)
    forged[place] ^= change
    try:
        claim, admission = read(bytes(forged))
    except RemoteProtocolError:
        return
    assert claim == CLAIM
    assert admission != ADMISSION


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    """On both ends."""
    assert refused(data).reason in RefusalReason
    with pytest.raises(RemoteProtocolError):
        read_welcome(data, CLAIM)


def test_size_is_looked_at_first() -> None:
    """Before anything is parsed."""
    assert refused(bytes(MAX_PROOF_BYTES + 1)).reason is RefusalReason.OVERSIZED


def test_a_welcome_is_of_the_one_who_was_meant() -> None:
    """And an answer to this very proof."""
    assert read_welcome(WELCOME, CLAIM) == TOKEN
    for welcome, claim in (
        (write_welcome(CLAIM, TOKEN, 1, KEY.sign), CLAIM),
        (WELCOME, replace(CLAIM, nonce=bytes(32))),
        (write_welcome(CLAIM, b"short", 1, KEY.sign), CLAIM),
        (bytes(MAX_PROOF_BYTES + 1), CLAIM),
    ):
        with pytest.raises(RemoteProtocolError):
            read_welcome(welcome, claim)
