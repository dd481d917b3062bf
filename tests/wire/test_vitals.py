"""wire.vitals: what members tell of themselves, in their records."""

from dataclasses import replace

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.core.spread import MOST_SKETCHES, MarkedSketch
from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2
from lowcomm_node.wire.limits import MAX_RECORD_BYTES
from lowcomm_node.wire.records import is_address, read_member, read_vitals, sign_member
from lowcomm_node.wire.vitals import FOLDED_SUMS, Vitals, fold, to_vitals
from tests.wire.samples import CERTIFICATE, INVITED_RECORD, KEY, MEMBER, RECORD, RUN

VITALS = Vitals(
    validation_loss=2.5,
    sketches=tuple(MarkedSketch(mark, tuple(float(mark + i) for i in range(FOLDED_SUMS))) for mark in (300, 288, 256)),
    metrics_address="a.example:9464",
)


def _record(vitals: Vitals | None) -> bytes:
    return sign_member(MEMBER, run_id=RUN, protocol_version=1, sign=KEY.sign, vitals=vitals)


def test_what_is_told_comes_back() -> None:
    """Within a signed record that is still a member's."""
    data = _record(VITALS)

    assert read_vitals(data) == VITALS
    assert read_member(data, run_id=RUN, protocol_version=1, now=MEMBER.expires_at - 1) == MEMBER


def test_who_tells_nothing_has_the_record_of_before() -> None:
    """Byte by byte: to others nothing has changed."""
    assert _record(Vitals()) == _record(None) == RECORD
    assert read_vitals(INVITED_RECORD) == Vitals()


def test_the_largest_record_is_far_below_the_limit() -> None:
    """Certificate, admission, and the longest address there is."""
    longest = replace(
        VITALS,
        sketches=tuple(sketch._replace(mark=2**32 - 1) for sketch in VITALS.sketches),
        metrics_address=f"{'a' * 63}.{'b' * 63}:65535",
    )
    member = replace(MEMBER, certificate=CERTIFICATE)
    data = sign_member(member, run_id=RUN, protocol_version=1, sign=KEY.sign, vitals=longest)

    assert len(data) + (len(INVITED_RECORD) - len(RECORD)) < MAX_RECORD_BYTES


@pytest.mark.parametrize(
    ("told", "read"),
    [
        (records_pb2.Vitals(validation_loss=float("nan")), Vitals()),
        (records_pb2.Vitals(validation_loss=float("inf")), Vitals()),
        (records_pb2.Vitals(validation_loss=-1.0), Vitals()),
        (records_pb2.Vitals(sketch=[1.0] * 15, sketch_mark=3), Vitals()),
        (records_pb2.Vitals(sketch=[float("nan")] * 16), Vitals()),
        (records_pb2.Vitals(older_sketches=[records_pb2.MarkedSketch(mark=2, sums=[1.0] * 17)]), Vitals()),
        (records_pb2.Vitals(metrics_address="unix:/x"), Vitals()),
        (records_pb2.Vitals(validation_loss=1.0, sketch=[1.0]), Vitals(validation_loss=1.0)),
    ],
)
def test_nonsense_is_as_if_it_had_not_been_told(told: records_pb2.Vitals, read: Vitals) -> None:
    """A member with a broken number in what nobody relies on is a member all the same."""
    assert to_vitals(told, is_address=False) == read


def test_a_loss_that_is_no_number_is_not_told() -> None:
    """Before the first look at held-out text, or after a bad step."""
    told = Vitals(validation_loss=float("nan"), sketches=VITALS.sketches).to_wire()
    assert told is not None
    assert told.validation_loss == 0.0


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=64, max_size=64), st.lists(st.floats(-1e6, 1e6), min_size=64, max_size=64)
)
def test_folding_is_linear(left: list[float], right: list[float]) -> None:
    """So that differences of folded sketches are folded sketches of differences."""
    together = fold([a + b for a, b in zip(left, right, strict=True)])
    assert together == pytest.approx([a + b for a, b in zip(fold(left), fold(right), strict=True)], abs=1e-3)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_within_bounds(data: bytes) -> None:
    """Whatever a member puts there: a finite loss, a few sketches of sixteen sums, an address or none."""
    try:
        told = records_pb2.Vitals.FromString(data)
    except DecodeError:
        return
    vitals = to_vitals(told, is_address=is_address(told.metrics_address))

    assert 0.0 <= vitals.validation_loss < 1e6
    assert len(vitals.sketches) <= MOST_SKETCHES
    assert all(len(sketch.sums) == FOLDED_SUMS for sketch in vitals.sketches)
    assert not vitals.metrics_address or is_address(vitals.metrics_address)


def test_what_cannot_be_folded_is_nothing() -> None:
    """A sketch of another length than ours would be compared with."""
    assert fold(range(17)) == fold(()) == ()
