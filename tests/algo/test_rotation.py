"""The rotation in front of few-bit integers: orthonormal, portable, and after it no number stands out."""

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.algo.rotation import Rotation, reference_rotation

_SEED = hashlib.sha256(b"golden").digest()


def test_golden_vector() -> None:
    """The order of the coefficients and the signs are part of the protocol: another implementation must rotate the same."""
    coefficients = Rotation(_SEED, 3, 12).forward(torch.arange(1.0, 13.0))

    # Signs from the standard library, four rows of three columns.
    bits = int.from_bytes(hashlib.shake_256(_SEED + b"rotation" + (3).to_bytes(4, "little")).digest(2), "little")
    a, b, c, d = (
        [(number + 1) * (1 if bits >> number & 1 else -1) for number in range(k, k + 3)] for k in (0, 3, 6, 9)
    )
    by_hand = [
        *((p + q + r + s) / 2 for p, q, r, s in zip(a, b, c, d, strict=True)),
        *((p - q + r - s) / 2 for p, q, r, s in zip(a, b, c, d, strict=True)),
        *((p + q - r - s) / 2 for p, q, r, s in zip(a, b, c, d, strict=True)),
        *((p - q - r + s) / 2 for p, q, r, s in zip(a, b, c, d, strict=True)),
    ]
    assert coefficients.tolist() == by_hand
    assert coefficients.tolist() == [-11.0, -8.0, 0.0, 3.0, -2.0, 6.0, 6.0, 11.0, 3.0, 0.0, -5.0, -15.0]


@given(numel=st.integers(1, 600), seed=st.integers(0, 1000), index=st.integers(0, 9))
def test_matches_the_plain_form(numel: int, seed: int, index: int) -> None:
    """To the rounding of fp32, and the plain form's columns are orthonormal, with zeros behind the tensor or without."""
    x = torch.randn(numel, generator=torch.Generator().manual_seed(seed))
    rotation = Rotation(_SEED, index, numel)
    matrix = reference_rotation(_SEED, index, numel)

    coefficients = rotation.forward(x)

    assert matrix.shape == (rotation.total, numel)
    assert torch.allclose(matrix.T @ matrix, torch.eye(numel, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(coefficients.double(), matrix @ x.double(), atol=1e-5)
    anything = torch.randn(rotation.total, generator=torch.Generator().manual_seed(seed + 1))
    assert torch.allclose(rotation.inverse(anything).double(), matrix.T @ anything.double(), atol=1e-5)


@given(numel=st.integers(1, 20_000), seed=st.integers(0, 1000), scale=st.floats(1e-30, 1e30))
def test_there_and_back(numel: int, seed: int, scale: float) -> None:
    """The inverse gives x back, to the rounding of fp32, at any scale; its argument is left alone, and so is that of the rotation."""
    x = scale * torch.randn(numel, generator=torch.Generator().manual_seed(seed))
    rotation, kept = Rotation(_SEED, 0, numel), x.clone()

    coefficients = rotation.forward(x)
    kept_coefficients = coefficients.clone()

    assert float((rotation.inverse(coefficients) - x).abs().max()) <= 1e-6 * float(x.abs().max())
    assert torch.equal(x, kept)
    assert torch.equal(coefficients, kept_coefficients)
    assert float(coefficients.double().norm()) == pytest.approx(float(x.double().norm()), rel=1e-6)


def test_outliers_are_spread() -> None:
    """Ten rows of an embedding differ a hundred times more than the rest; rotated, no number is beyond what Gaussian ones reach."""
    x = torch.randn(2048, 96, generator=torch.Generator().manual_seed(2))
    x[:10] *= 100.0
    flat = x.reshape(-1)

    coefficients = Rotation(_SEED, 0, flat.numel()).forward(flat)

    assert float(flat.abs().max() / flat.square().mean().sqrt()) > 40.0
    assert float(coefficients.abs().max() / coefficients.square().mean().sqrt()) < 5.5


def test_another_meeting_or_tensor_is_rotated_otherwise() -> None:
    """The same x has unrelated coefficients under another seed or at another position."""
    x = torch.randn(1024, generator=torch.Generator().manual_seed(3))
    first = Rotation(_SEED, 0, 1024).forward(x)

    for other in (Rotation(_SEED, 1, 1024), Rotation(bytes(32), 0, 1024)):
        assert abs(float(torch.nn.functional.cosine_similarity(first, other.forward(x), dim=0))) < 0.15
    assert torch.equal(Rotation(_SEED, 0, 1024).forward(x), first)
