"""The common test matrix: the same bits for everybody."""

import hashlib

import torch

from lowcomm_node.algo.omega import balanced, main_directions, pad_basis, rademacher

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


def test_padding_keeps_what_is_known() -> None:
    """A basis is cut or filled up to the rank with what both ends could have drawn."""
    known = torch.eye(6)[:, :3]

    assert torch.equal(pad_basis(known, _SEED, 0, 6, 2), known[:, :2])
    filled = pad_basis(known, _SEED, 0, 6, 5)
    assert torch.equal(filled[:, :3], known)
    assert torch.equal(filled[:, 3:], rademacher(_SEED, 0, 6, 2))
    assert torch.equal(pad_basis(None, _SEED, 0, 6, 5), rademacher(_SEED, 0, 6, 5))


def test_main_directions_are_those_of_the_svd() -> None:
    """A displacement of rank r is spanned exactly; tensors without a rank, vectors among them, have no directions."""
    generator = torch.Generator().manual_seed(1)
    right, _ = torch.linalg.qr(torch.randn(12, 3, generator=generator))
    X = torch.randn(20, 3, generator=generator) @ right.T

    basis, vector, left_out = main_directions([X.reshape(20, 3, 4), torch.ones(5), X], (3, -1, 0), _SEED)

    assert vector is None
    assert left_out is None
    assert basis is not None
    unit = basis / basis.norm(dim=0)
    assert torch.allclose(unit @ unit.T, right @ right.T, atol=1e-5)
    assert torch.allclose((X @ basis).norm(dim=0), X.norm().expand(3), rtol=1e-4)
    # An initiator that has not moved has arbitrary directions, but has some.
    still = main_directions([torch.zeros(20, 12)], (3,), _SEED)[0]
    assert still is not None
    assert torch.allclose(still.T @ still, 12 * torch.eye(3), atol=1e-4)


def test_balanced_columns_are_no_longer_than_signs() -> None:
    """A direction that the model hardly knows is made longer, but not without limit; one that holds everything keeps length 1."""
    basis = torch.eye(9)[:, :4]

    lengths = balanced(basis, torch.tensor([2.0, 1.0, 1e-30, 0.0]), 2.0).norm(dim=0)

    assert lengths.tolist() == [1.0, 2.0, 3.0, 3.0]
