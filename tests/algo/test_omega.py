"""The common test matrix: the same bits for everybody."""

import hashlib

import torch

from lowcomm_node.algo.omega import rademacher

_SEED = hashlib.sha256(b"golden").digest()


def test_golden_vector() -> None:
    """These signs are part of the protocol: another implementation must draw the same."""
    signs = ["".join("+" if value > 0 else "-" for value in row) for row in rademacher(_SEED, 3, 4, 5).tolist()]

    assert signs == ["+++-+", "+--++", "-+++-", "--+-+"]


def test_entries_are_signs_of_the_hash() -> None:
    """Written out with the standard library alone: bits of SHAKE-256, least significant first, row by row."""
    n, r = 7, 3

    digest = hashlib.shake_256(_SEED + (9).to_bytes(4, "little")).digest((n * r + 7) // 8)
    bits = [(digest[k // 8] >> (k % 8)) & 1 for k in range(n * r)]

    assert rademacher(_SEED, 9, n, r).flatten().tolist() == [2.0 * bit - 1.0 for bit in bits]


def test_differs_by_tensor_and_meeting() -> None:
    """Another position or another seed gives an unrelated matrix, so that no direction is never looked at."""
    first = rademacher(_SEED, 0, 64, 8)

    for other in (rademacher(_SEED, 1, 64, 8), rademacher(hashlib.sha256(b"other").digest(), 0, 64, 8)):
        assert abs(float((first * other).mean())) < 0.2
    assert abs(float(first.mean())) < 0.2
    assert first.dtype == torch.float32


def test_empty_matrix() -> None:
    """No columns or no rows is not an error."""
    assert rademacher(_SEED, 0, 0, 4).shape == (0, 4)
