"""The JSON beside a checkpoint's tensors: what is written is read, and nothing else is believed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.errors import StoreError
from lowcomm_node.units import MeetingId, RunId, Stream
from lowcomm_node.wire.checkpoint import MAX_APPLIED, CheckpointFacts, decode_facts, encode_facts

FACTS = CheckpointFacts(
    run_id=RunId("ab" * 32),
    progress_steps=2.0 / 3.0,
    steps=17,
    state_bytes=4711,
    state_sha256="cd" * 32,
    due={Stream.PARAMS: 20, Stream.EXP_AVG_SQ: 90},
    applied_meetings=tuple(MeetingId(f"{number:032x}") for number in range(3)),
    learnt={"clip_norms": {"params ab": [1.5, 1e-30]}},
)


def test_what_is_written_is_read() -> None:
    """To the bit, floats included."""
    assert decode_facts(encode_facts(FACTS)) == FACTS


def test_only_the_newest_meetings_are_kept() -> None:
    """The file stays small however many a node has answered."""
    many = tuple(MeetingId(f"{number:032x}") for number in range(MAX_APPLIED + 10))
    facts = CheckpointFacts(
        run_id=FACTS.run_id, progress_steps=1.0, steps=1, state_bytes=1, state_sha256="cd" * 32, applied_meetings=many
    )

    assert decode_facts(encode_facts(facts)).applied_meetings == many[10:]


@given(position=st.integers(0, len(encode_facts(FACTS)) - 1), value=st.integers(0, 255))
def test_one_wrong_byte_is_noticed(position: int, value: int) -> None:
    """Wherever it is: an error, or, in white space and the like, the same facts."""
    damaged = bytearray(encode_facts(FACTS))
    damaged[position] = value
    try:
        assert decode_facts(bytes(damaged)) == FACTS
    except StoreError:
        assert bytes(damaged) != encode_facts(FACTS)


@given(st.binary(max_size=300) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_any_bytes_are_refused_with_one_error(data: bytes | str) -> None:
    """Never another exception."""
    with pytest.raises(StoreError):
        decode_facts(data if isinstance(data, bytes) else data.encode())


@pytest.mark.parametrize("length", [0, 1, 50, -2])
def test_a_part_is_refused(length: int) -> None:
    """As a power cut may leave it."""
    with pytest.raises(StoreError, match="damaged"):
        decode_facts(encode_facts(FACTS)[:length])
