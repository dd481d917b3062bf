"""Frozen factors: equal to the equations, projections, exact means within the span, and nothing outside of it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lowcomm_node.algo.factors import largest_rank, tall
from lowcomm_node.algo.frozen import (
    SplitVectors,
    add_expanded_,
    confine_,
    coordinates,
    energy_kept,
    orthonormality_error,
    reference_confined,
    reference_coordinates,
    reference_vectors,
    split_vectors,
)
from lowcomm_node.units import Factor

_FP32 = 2e-5
_FP64 = 1e-10
_SHAPES = [(24, 16), (16, 24), (20, 20), (9, 3), (12, 4, 3, 3)]
_DTYPES = [(torch.float64, _FP64), (torch.float32, _FP32)]


def _weights(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _projection(vectors: SplitVectors, trained: Factor) -> Tensor:
    F = vectors.frozen(trained)
    return F @ F.T


def _within(W: Tensor, vectors: SplitVectors, trained: Factor) -> Tensor:
    P = _projection(vectors, trained)
    return W @ P if trained is Factor.A else P @ W


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize(("cutoff", "budget"), [(0.0, 1.0), (0.3, 1.0), (0.0, 0.4), (0.3, 0.4)])
@pytest.mark.parametrize(("dtype", "tolerance"), _DTYPES)
def test_the_fast_split_equals_the_equations(
    shape: tuple[int, ...], cutoff: float, budget: float, dtype: torch.dtype, tolerance: float
) -> None:
    """The vectors themselves: signs are fixed, the rank is the same, and columns are orthonormal."""
    W = tall(_weights(shape))

    ours, reference = split_vectors(W.to(dtype), cutoff, budget), reference_vectors(W, cutoff, budget)

    assert ours.rank == reference.rank
    for own, expected in ((ours.U, reference.U), (ours.V, reference.V)):
        assert own.dtype == dtype
        assert own.is_contiguous()
        assert (own.double() - expected).abs().max() < tolerance
        assert orthonormality_error(own) < tolerance


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("trained", Factor)
@pytest.mark.parametrize(("dtype", "tolerance"), _DTYPES)
def test_coordinates_and_projected_changes_equal_the_equations(
    shape: tuple[int, ...], trained: Factor, dtype: torch.dtype, tolerance: float
) -> None:
    """Wide tensors and kernels through their tall view, the change of the live tensor in place."""
    live, before = _weights(shape, 1, dtype), _weights(shape, dtype=dtype)
    F = split_vectors(tall(before), 0.3, 0.5).frozen(trained)
    expected = reference_confined(tall(live), tall(before), F, trained)

    found = coordinates(tall(live), F, trained)
    confine_(tall(live), tall(before), F, trained)

    assert (found.double() - reference_coordinates(tall(_weights(shape, 1, dtype)), F, trained)).abs().max() < tolerance
    assert (tall(live).double() - expected).abs().max() < tolerance


@given(st.floats(0.001, 0.999), st.floats(0.001, 1.0), st.integers(0, 30))
def test_rank_follows_cutoff_and_budget(cutoff: float, budget: float, seed: int) -> None:
    """The smaller of what both leave, never nothing; the error of the kept part is the energy of the rest (Eckart and Young)."""
    W = _weights((11, 7), seed)
    S = torch.linalg.svdvals(W)

    vectors = split_vectors(W, cutoff, budget)

    assert vectors.rank == min(int((cutoff * S[0] < S).sum()), largest_rank(7, budget))
    for trained in Factor:
        kept, whole = energy_kept(W, vectors.frozen(trained), trained)
        assert kept == pytest.approx(float(S[: vectors.rank].square().sum()), rel=1e-9)
        assert whole == pytest.approx(float(S.square().sum()), rel=1e-9)


def test_a_budget_leaves_the_share_that_it_says() -> None:
    """Of rounding too: 0.29 of a hundred are 29."""
    assert [largest_rank(100, ratio) for ratio in (1.0, 0.29, 0.5, 0.001)] == [100, 29, 50, 1]


@pytest.mark.parametrize("trained", Factor)
@given(seed=st.integers(0, 30))
def test_projected_changes(trained: Factor, seed: int) -> None:
    """Projecting twice is projecting once; nothing outside of the span changes; what lies inside passes unharmed."""
    W0, W = _weights((12, 8), seed), _weights((12, 8), seed + 100)
    vectors = split_vectors(W0, 0.0, 0.4)
    F = vectors.frozen(trained)
    once = W.clone()
    confine_(once, W0, F, trained)

    twice = once.clone()
    confine_(twice, W0, F, trained)

    assert torch.allclose(twice, once, atol=_FP64)
    assert torch.allclose(_within(once - W0, vectors, trained), once - W0, atol=_FP64)
    assert torch.allclose(_within(once, vectors, trained), _within(W, vectors, trained), atol=_FP64)
    assert not torch.allclose(once, W, atol=0.1)


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("trained", Factor)
def test_a_step_that_changes_nothing_is_the_identity(shape: tuple[int, ...], trained: Factor) -> None:
    """To the bit and whatever was cut off: split and join are no event for who does not train."""
    before = _weights(shape, dtype=torch.float32)
    live = before.clone()

    confine_(tall(live), tall(before), split_vectors(tall(before), 0.9, 0.2).frozen(trained), trained)

    assert torch.equal(live, before)


@pytest.mark.parametrize("trained", Factor)
@given(seed=st.integers(0, 30), weight=st.floats(0.1, 0.9))
def test_a_correction_in_coordinates_is_the_exact_mean_within_the_span(
    trained: Factor, seed: int, weight: float
) -> None:
    """Two nodes with weights of their own: with weight 1/2 they agree in the span, with any the mean stays, and outside nothing moves."""
    one, other = _weights((12, 8), seed), _weights((12, 8), seed + 100)
    vectors = split_vectors(_weights((12, 8), seed + 200), 0.0, 0.5)
    F = vectors.frozen(trained)
    C = coordinates(one, F, trained) - coordinates(other, F, trained)

    moved, met = one.clone(), other.clone()
    add_expanded_(moved, C, F, trained, -weight)
    add_expanded_(met, C, F, trained, weight)

    assert torch.allclose(moved + met, one + other, atol=_FP64)
    expected = _within((1 - weight) * one + weight * other, vectors, trained)
    assert torch.allclose(_within(moved, vectors, trained), expected, atol=_FP64)
    for after, before in ((moved, one), (met, other)):
        outside = (after - before) - _within(after - before, vectors, trained)
        assert outside.abs().max() < _FP64
    assert torch.allclose(C.norm(), _within(one - other, vectors, trained).norm())


def test_the_split_is_a_function_of_the_weights() -> None:
    """Signs do not come from the library's mood: the same to the bit again, and nearly the same of nearly the same."""
    W = _weights((10, 6))

    one, same, near = (split_vectors(w, 0.0, 1.0) for w in (W, W.clone(), W + 1e-7 * _weights((10, 6), 5)))

    assert torch.equal(one.U, same.U)
    assert torch.equal(one.V, same.V)
    assert (one.U - near.U).abs().max() < 1e-4
    assert (one.V - near.V).abs().max() < 1e-4


def test_zeros_have_a_direction() -> None:
    """A tensor of zeros has one pair of orthonormal vectors, finite ones."""
    vectors = split_vectors(torch.zeros(5, 3), 0.5, 1.0)

    assert vectors.rank == 1
    assert orthonormality_error(vectors.U) < _FP32
    assert orthonormality_error(vectors.V) < _FP32
    assert energy_kept(torch.zeros(5, 3), vectors.V, Factor.A) == (0.0, 0.0)


def test_steps_in_both_spans_find_a_target() -> None:
    """Two nodes, a factor each, whole steps in between as a rebound has them: the distance to a target of full rank goes to nothing."""
    target = _weights((10, 6), 8)
    nodes = [_weights((10, 6), 0) for _ in Factor]
    first = (nodes[0] - target).square().sum()

    for _ in range(12):
        vectors = split_vectors(nodes[0], 0.0, 0.5)
        for W, trained in zip(nodes, Factor, strict=True):
            for _ in range(10):
                before = W.clone()
                W.sub_(W - target, alpha=0.1)
                confine_(W, before, vectors.frozen(trained), trained)
        for W in nodes:
            W.sub_(W - target, alpha=0.1)
        mean = (nodes[0] + nodes[1]) / 2
        nodes = [mean.clone() for _ in nodes]

    assert (nodes[0] - target).square().sum() < 0.01 * first
