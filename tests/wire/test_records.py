"""Member records."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.core.events import Member
from lowcomm_node.core.membership import Bucket
from lowcomm_node.errors import RefusalReason, RemoteProtocolError
from lowcomm_node.units import RunId
from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2
from lowcomm_node.wire.peer_id import peer_id_from_bytes, peer_id_to_bytes, verify
from lowcomm_node.wire.records import MAX_LIFETIME_S, bucket_key, is_address, is_storable, read_member, sign_member
from tests.wire.samples import FROZEN_MEMBER, FROZEN_RECORD, KEY, MEMBER, OTHER, OWN, RECORD, RUN

NOW = MEMBER.expires_at - 30.0


def signed(member: Member, run_id: RunId = RUN, protocol_version: int = 1) -> bytes:
    return sign_member(member, run_id=run_id, protocol_version=protocol_version, sign=KEY.sign)


def reason_of(data: bytes, now: float = NOW) -> RefusalReason:
    with pytest.raises(RemoteProtocolError) as caught:
        read_member(data, run_id=RUN, protocol_version=1, now=now)
    return caught.value.reason


def test_a_record_is_small() -> None:
    """A bucket of 64 of them stays far below what the DHT can carry."""
    assert len(RECORD) < 300


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (signed(MEMBER, run_id=RunId("ff" * 32)), RefusalReason.WRONG_RUN),
        (signed(MEMBER, protocol_version=2), RefusalReason.WRONG_PROTOCOL),
        (signed(replace(MEMBER, peer=OTHER)), RefusalReason.CHECKSUM),
        (signed(replace(MEMBER, expires_at=NOW)), RefusalReason.EXPIRED),
        (signed(replace(MEMBER, expires_at=NOW + MAX_LIFETIME_S + 1)), RefusalReason.MALFORMED),
        (signed(replace(MEMBER, expires_at=float("nan"))), RefusalReason.MALFORMED),
        (signed(replace(MEMBER, expires_at=float("inf"))), RefusalReason.MALFORMED),
        (signed(replace(MEMBER, progress_steps=float("nan"))), RefusalReason.MALFORMED),
        (signed(replace(MEMBER, progress_steps=-1.0)), RefusalReason.MALFORMED),
        (signed(replace(MEMBER, grpc_address="")), RefusalReason.LEAVING),
        (signed(replace(MEMBER, grpc_address="unix:/tmp/x")), RefusalReason.MALFORMED),
        (signed(replace(MEMBER, grpc_address="x" * 900 + ":1")), RefusalReason.OVERSIZED),
        (b"\xff", RefusalReason.MALFORMED),
        (b"", RefusalReason.CHECKSUM),
    ],
)
def test_a_record_that_cannot_be_believed_is_refused(data: bytes, reason: RefusalReason) -> None:
    """Each thing that can be wrong with a record has its reason."""
    assert reason_of(data) is reason


@given(st.integers(0, len(RECORD) - 1), st.integers(1, 255))
def test_no_byte_of_a_record_can_be_changed(place: int, change: int) -> None:
    """A forger cannot move an address or a number: whatever is changed, the record is refused."""
    forged = bytearray(RECORD)
    forged[place] ^= change

    assert reason_of(bytes(forged)) in {RefusalReason.CHECKSUM, RefusalReason.MALFORMED}


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    """No bytes break the reader, neither as a record nor as its content."""
    signed = records_pb2.SignedRecord(record=data, signature=KEY.sign(b"lowcomm/v1/member" + data))

    assert reason_of(data) in RefusalReason
    assert reason_of(signed.SerializeToString()) in RefusalReason


def test_frozen_factors_travel_with_the_record() -> None:
    """Epoch, digest and factor come out as they went in; a record without any names none."""
    assert read_member(FROZEN_RECORD, run_id=RUN, protocol_version=1, now=NOW) == FROZEN_MEMBER
    assert read_member(RECORD, run_id=RUN, protocol_version=1, now=NOW).frozen is None
    assert len(FROZEN_RECORD) < 300


@pytest.mark.parametrize(
    "frozen",
    [
        records_pb2.FrozenFactors(epoch=0, digest=bytes(32), factor="a"),
        records_pb2.FrozenFactors(epoch=1_000_001, digest=bytes(32), factor="a"),
        records_pb2.FrozenFactors(epoch=1, digest=bytes(31), factor="a"),
        records_pb2.FrozenFactors(epoch=1, digest=b"", factor="a"),
        records_pb2.FrozenFactors(epoch=1, digest=bytes(32), factor="c"),
        records_pb2.FrozenFactors(epoch=1, digest=bytes(32)),
        records_pb2.FrozenFactors(),
    ],
)
def test_frozen_factors_that_cannot_be_are_refused(frozen: records_pb2.FrozenFactors) -> None:
    """With the record: who signs such a thing is no member of this run as we know it."""
    signed = records_pb2.SignedRecord.FromString(RECORD)
    record = records_pb2.MemberRecord.FromString(signed.record)
    record.frozen.CopyFrom(frozen)
    data = record.SerializeToString()
    signed = records_pb2.SignedRecord(record=data, signature=KEY.sign(b"lowcomm/v1/member" + data))

    assert reason_of(signed.SerializeToString()) is RefusalReason.MALFORMED


def test_only_the_signer_stores_under_its_name_and_until_when_it_said() -> None:
    """An old record of somebody else cannot be put over a newer one: its expiration is signed too."""
    own = peer_id_to_bytes(OWN)

    assert is_storable(RECORD, subkey=own, expires_at=MEMBER.expires_at)
    assert not is_storable(RECORD, subkey=own, expires_at=MEMBER.expires_at + 60)
    assert not is_storable(RECORD, subkey=peer_id_to_bytes(OTHER), expires_at=MEMBER.expires_at)
    assert not is_storable(b"plain", subkey=own, expires_at=MEMBER.expires_at)


@pytest.mark.parametrize("address", ["10.0.0.1:80", "node.example.org:65535", "[2001:db8::1]:31337", "localhost:1"])
def test_addresses_others_can_dial(address: str) -> None:
    """Numbers, names and bracketed IPv6 with a port."""
    assert is_address(address)


@pytest.mark.parametrize(
    "address", ["", "host", ":80", "host:0", "host:65536", "a b:80", "http://x:80", "::1:80", "-x:80", "x:80\n", "x:٣"]
)
def test_addresses_nobody_can_dial(address: str) -> None:
    """Nothing that a resolver could take for something else gets through."""
    assert not is_address(address)


def test_peer_ids_are_the_key() -> None:
    """The 38 bytes and the base58 form are the same id, and anything else is refused."""
    assert peer_id_from_bytes(peer_id_to_bytes(OWN)) == OWN
    assert len(peer_id_to_bytes(OWN)) == 38
    for other in (b"", b"\x12\x20" + bytes(32), peer_id_to_bytes(OWN) + b"x"):
        with pytest.raises(RemoteProtocolError):
            peer_id_from_bytes(other)
        assert not verify(other, bytes(64), b"data")


def test_buckets_of_runs_and_depths_have_names_of_their_own() -> None:
    """No two buckets share a key of the DHT."""
    buckets = [Bucket(0, 0), Bucket(1, 0), Bucket(1, 1), Bucket(2, 1)]

    keys = {bucket_key(run, bucket) for run in (RUN, RunId("ff" * 32)) for bucket in buckets}

    assert len(keys) == 2 * len(buckets)
