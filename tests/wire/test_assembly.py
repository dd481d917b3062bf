"""Payloads in pieces."""

from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.errors import RefusalReason, RemoteProtocolError
from lowcomm_node.wire.assembly import PayloadAssembler, payload_digest, split
from lowcomm_node.wire.limits import CHUNK_BYTES


def assembler(parts: tuple[bytes, ...], max_bytes: int = 1 << 30) -> PayloadAssembler:
    return PayloadAssembler(part_sizes=[len(part) for part in parts], digest=payload_digest(parts), max_bytes=max_bytes)


def reason_of(attempt: object) -> RefusalReason:
    with pytest.raises(RemoteProtocolError) as caught:
        attempt()  # type: ignore[operator]
    return caught.value.reason


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=3), st.lists(st.integers(0, 600), max_size=20))
def test_any_chunking_reassembles(parts: list[bytes], cuts: list[int]) -> None:
    """Wherever a payload is cut, the parts come out as they went in."""
    whole = b"".join(parts)
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    payload = assembler(tuple(parts))

    for start, end in pairwise(edges):
        payload.add(start, whole[start:end])

    assert payload.missing_bytes == 0
    assert payload.finish() == tuple(parts)


@given(st.integers(1, 5), st.integers(1, 3 * CHUNK_BYTES), st.sampled_from([1000, 4096, CHUNK_BYTES, 3 * CHUNK_BYTES]))
def test_large_parts_reassemble_from_small_and_large_chunks(seed: int, length: int, chunk_bytes: int) -> None:
    """Pieces around the size at which they are gathered keep their order."""
    parts = (bytes([seed]) * length, sha256(bytes([seed])).digest() * (length // 64))
    payload = assembler(parts)

    for offset, piece in split(parts, chunk_bytes):
        payload.add(offset, bytes(piece))

    assert payload.finish() == parts


def test_split_covers_the_payload_once_without_copies() -> None:
    """Slices follow each other, none is longer than asked, and they are views of the parts."""
    parts = (b"a" * 1000, b"", b"b" * 700)

    slices = list(split(parts, 256))

    assert [offset for offset, _ in slices] == [0, 256, 512, 768, 1000, 1256, 1512]
    assert max(len(piece) for _, piece in slices) == 256
    assert b"".join(piece for _, piece in slices) == b"".join(parts)
    assert all(piece.obj in parts for _, piece in slices)


def test_an_announced_length_takes_no_memory() -> None:
    """A header that promises more than allowed is refused; one that promises much within bounds costs nothing yet."""
    digest = bytes(32)

    refused = reason_of(lambda: PayloadAssembler(part_sizes=[1 << 62, 1 << 62], digest=digest, max_bytes=1 << 20))
    waiting = PayloadAssembler(part_sizes=[1 << 60], digest=digest, max_bytes=1 << 62)

    assert refused is RefusalReason.OVERSIZED
    assert waiting.missing_bytes == 1 << 60


@pytest.mark.parametrize(
    ("offset", "data", "reason"),
    [
        (5, b"xy", RefusalReason.MALFORMED),
        (3, b"xy", RefusalReason.MALFORMED),
        (0, b"xy", RefusalReason.MALFORMED),
        (4, b"", RefusalReason.MALFORMED),
        (4, b"1234567", RefusalReason.OVERSIZED),
    ],
    ids=["gap", "overlap", "repeated", "empty", "beyond the end"],
)
def test_a_chunk_out_of_place_is_refused(offset: int, data: bytes, reason: RefusalReason) -> None:
    """Chunks follow each other exactly, up to the announced length."""
    payload = assembler((b"0123456789",))
    payload.add(0, b"0123")

    assert reason_of(lambda: payload.add(offset, data)) is reason


def test_nothing_comes_out_before_it_is_whole_and_verified() -> None:
    """Missing bytes, a flipped bit, and a digest or size that is none are refused."""
    payload = assembler((b"0123456789",))
    payload.add(0, b"01234")
    assert reason_of(payload.finish) is RefusalReason.MALFORMED
    payload.add(5, b"5678x")
    assert reason_of(payload.finish) is RefusalReason.CHECKSUM
    short = reason_of(lambda: PayloadAssembler(part_sizes=[1], digest=b"short", max_bytes=9))
    assert short is RefusalReason.MALFORMED
    negative = reason_of(lambda: PayloadAssembler(part_sizes=[5, -1], digest=bytes(32), max_bytes=9))
    assert negative is RefusalReason.MALFORMED
