"""Descriptions of snapshots, and fingerprints."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.errors import RefusalReason, RemoteProtocolError
from lowcomm_node.units import RunId
from lowcomm_node.wire.gen.lowcomm.v1 import state_pb2
from lowcomm_node.wire.state import Snapshot, decode_fingerprint, encode_fingerprint
from tests.wire.samples import FINGERPRINT, RUN, SNAPSHOT


@pytest.mark.parametrize(
    ("snapshot", "reason"),
    [
        (replace(SNAPSHOT, total_bytes=1501), RefusalReason.OVERSIZED),
        (replace(SNAPSHOT, total_bytes=0, digests=()), RefusalReason.MALFORMED),
        (replace(SNAPSHOT, total_bytes=1024), RefusalReason.MALFORMED),
        (replace(SNAPSHOT, chunk_bytes=0), RefusalReason.MALFORMED),
        (replace(SNAPSHOT, chunk_bytes=1), RefusalReason.MALFORMED),
        (replace(SNAPSHOT, chunk_bytes=2**31), RefusalReason.MALFORMED),
        (replace(SNAPSHOT, digests=SNAPSHOT.digests[:1]), RefusalReason.MALFORMED),
        (replace(SNAPSHOT, digests=(b"short", b"short")), RefusalReason.MALFORMED),
        (replace(SNAPSHOT, progress_steps=float("inf")), RefusalReason.MALFORMED),
    ],
)
def test_a_description_is_checked_before_anything_is_fetched(snapshot: Snapshot, reason: RefusalReason) -> None:
    """Sizes, counts and progress that make no sense are refused."""
    with pytest.raises(RemoteProtocolError) as caught:
        Snapshot.decode(snapshot.encode(RUN), run_id=RUN, max_bytes=1500)

    assert caught.value.reason is reason


def test_an_id_that_is_not_that_of_the_chunks_is_refused() -> None:
    """The id names the content."""
    told = state_pb2.SnapshotDescription.FromString(SNAPSHOT.encode(RUN))
    told.snapshot_id = bytes(32)

    with pytest.raises(RemoteProtocolError) as caught:
        Snapshot.decode(told.SerializeToString(), run_id=RUN, max_bytes=1500)

    assert caught.value.reason is RefusalReason.CHECKSUM


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    """No bytes break the reader, neither as a description nor as a chunk nor as a fingerprint."""
    with pytest.raises(RemoteProtocolError):
        Snapshot.decode(data, run_id=RUN, max_bytes=1500)
    with pytest.raises(RemoteProtocolError):
        SNAPSHOT.check_chunk(data, {0, 1})
    with pytest.raises(RemoteProtocolError):
        decode_fingerprint(data, RUN)


def test_the_last_chunk_is_what_is_left() -> None:
    """Lengths add up to the total."""
    assert [SNAPSHOT.length_of(index) for index in range(2)] == [1024, 476]


@pytest.mark.parametrize(
    ("fingerprint", "reason"),
    [
        (replace(FINGERPRINT, progress_steps=-1.0), RefusalReason.MALFORMED),
        (replace(FINGERPRINT, sketch=(math.nan,)), RefusalReason.NONFINITE),
        (replace(FINGERPRINT, norms=(("params", math.inf),)), RefusalReason.NONFINITE),
        (replace(FINGERPRINT, norms=(("params", -1.0),)), RefusalReason.MALFORMED),
        (replace(FINGERPRINT, norms=(("params", 1.0), ("params", 2.0))), RefusalReason.MALFORMED),
        (replace(FINGERPRINT, norms=(("x" * 65, 1.0),)), RefusalReason.MALFORMED),
        (replace(FINGERPRINT, norms=tuple((str(number), 1.0) for number in range(33))), RefusalReason.MALFORMED),
        (replace(FINGERPRINT, sketch=(0.0,) * 1025), RefusalReason.MALFORMED),
        (replace(FINGERPRINT, sketch=(0.0,) * 2048), RefusalReason.OVERSIZED),
    ],
)
def test_a_fingerprint_is_small_and_finite(fingerprint: Fingerprint, reason: RefusalReason) -> None:
    """Each thing that the comparison could stumble over has its reason."""
    with pytest.raises(RemoteProtocolError) as caught:
        decode_fingerprint(encode_fingerprint(fingerprint, RUN), RUN)

    assert caught.value.reason is reason


def test_a_fingerprint_of_another_run_is_refused() -> None:
    """Norms of other models say nothing."""
    with pytest.raises(RemoteProtocolError) as caught:
        decode_fingerprint(encode_fingerprint(FINGERPRINT, RunId("cd" * 32)), RUN)

    assert caught.value.reason is RefusalReason.WRONG_RUN
