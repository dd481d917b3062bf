"""Factors of matrices: equal to the equations, the algebra of a join, and what must not be joined."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lowcomm_node.algo.factors import (
    Factors,
    factor_gradient,
    fit,
    join,
    reference_epoch,
    reference_split,
    set_product_,
    split,
    tall,
)
from lowcomm_node.units import Factor

_FP32 = 2e-5
_FP64 = 1e-12
_SHAPES = [(24, 16), (16, 24), (20, 20), (9, 3), (12, 4, 3, 3)]
_STALE = {Factor.A: [0.5, 0.5], Factor.B: [0.5, 0.5]}
_LEARNED = {Factor.A: [1.0, 0.0], Factor.B: [0.0, 1.0]}
_BOTH = (Factor.A, Factor.B)


def _weights(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _moved(start: Factors, seed: int = 1) -> tuple[Tensor, Tensor, list[Factors]]:
    """dA, dB, and the copies of two nodes of which one has trained A, the other one B."""
    dA, dB = _weights(tuple(start.A.shape), seed), _weights(tuple(start.B.shape), seed + 1)
    return dA, dB, [Factors(start.A + dA, start.B), Factors(start.A, start.B + dB)]


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("cutoff", [0.0, 0.3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, _FP64), (torch.float32, _FP32)])
def test_fast_split_equals_the_equations(
    shape: tuple[int, ...], cutoff: float, dtype: torch.dtype, tolerance: float
) -> None:
    """The factors themselves, not only their product: signs are fixed, and the rank is the same."""
    W = tall(_weights(shape))

    ours, reference = split(W.to(dtype), cutoff), reference_split(W, cutoff)

    for own, expected in ((ours.A, reference.A), (ours.B, reference.B)):
        assert own.dtype == dtype
        assert own.shape == expected.shape
        assert own.is_contiguous()
        assert (own.double() - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize("shape", _SHAPES)
def test_split_and_join_without_training_change_nothing(shape: tuple[int, ...]) -> None:
    """Whatever the shape of the tensor and however many copies are counted, an uncut split comes back to its weights."""
    tensor = _weights(shape).float()
    rebuilt = torch.zeros_like(tensor)
    factors = split(tall(tensor), 0.0)

    for weights in (_STALE, _LEARNED):
        set_product_(rebuilt, join([factors, factors], weights))

        assert torch.allclose(rebuilt, tensor, atol=_FP32)
    assert factors.rank == min(tall(tensor).shape)


@pytest.mark.parametrize("shape", _SHAPES)
def test_both_factors_have_the_same_share(shape: tuple[int, ...]) -> None:
    """A^T A = B B^T = S: neither factor is the large one, so that one learning rate fits both."""
    factors = split(tall(_weights(shape)), 0.0)
    S = torch.diag(torch.linalg.svdvals(tall(_weights(shape))))

    assert torch.allclose(factors.A.T @ factors.A, S, atol=1e-9)
    assert torch.allclose(factors.B @ factors.B.T, S, atol=1e-9)


@given(st.floats(0.001, 0.999), st.integers(0, 30))
def test_the_cut_keeps_what_is_above_and_loses_no_more_than_it_must(cutoff: float, seed: int) -> None:
    """R is the number of singular values above the cutoff; the error is the energy of the others (Eckart and Young)."""
    W = _weights((11, 7), seed)
    S = torch.linalg.svdvals(W)

    factors = split(W, cutoff)

    assert factors.rank == int((cutoff * S[0] < S).sum())
    assert (factors.A.shape, factors.B.shape) == ((11, factors.rank), (factors.rank, 7))
    error = (W - factors.A @ factors.B).square().sum()
    assert torch.isclose(error, S[factors.rank :].square().sum(), rtol=1e-9, atol=1e-12)


def test_something_is_always_kept() -> None:
    """A matrix of zeros has rank one, and nothing that is not finite."""
    factors = split(torch.zeros(5, 3), 0.5)

    assert factors.rank == 1
    assert torch.equal(factors.A @ factors.B, torch.zeros(5, 3))


def test_join_with_stale_copies_is_the_mean_of_both_updates() -> None:
    """W0 + (dA B0 + A0 dB)/2 + dA dB/4."""
    W0 = _weights((10, 6))
    start = split(W0, 0.0)
    dA, dB, copies = _moved(start)

    joined = join(copies, _STALE)

    expected = W0 + (dA @ start.B + start.A @ dB) / 2 + dA @ dB / 4
    assert torch.allclose(joined.A @ joined.B, expected, atol=1e-10)


def test_join_of_what_was_learned_is_the_sum_of_both_updates() -> None:
    """W0 + dA B0 + A0 dB + dA dB."""
    W0 = _weights((10, 6))
    start = split(W0, 0.0)
    dA, dB, copies = _moved(start)

    joined = join(copies, _LEARNED)

    assert torch.allclose(joined.A @ joined.B, W0 + dA @ start.B + start.A @ dB + dA @ dB, atol=1e-10)


def test_copies_of_one_frozen_factor_are_averaged_exactly() -> None:
    """With B the same everywhere, the product of the mean is the mean of the products; with both moved it is not."""
    start = split(_weights((10, 6)), 0.0)
    copies = [Factors(start.A + _weights((10, 6), seed), start.B) for seed in (1, 2)]
    _, _, crossed = _moved(start)

    exact, inexact = (join(both, _STALE) for both in (copies, crossed))

    mean, crossed_mean = (torch.stack([own.A @ own.B for own in both]).mean(0) for both in (copies, crossed))
    assert torch.allclose(exact.A @ exact.B, mean, atol=1e-10)
    assert not torch.allclose(inexact.A @ inexact.B, crossed_mean, atol=1e-3)


def test_copies_of_two_gauges_have_no_mean() -> None:
    """One column with the other sign is the same W, and its mean with the first is not: why copies come from one split."""
    start = split(_weights((10, 6)), 0.0)
    signs = torch.tensor([-1.0, 1, 1, 1, 1, 1], dtype=torch.float64)
    turned = Factors(start.A * signs, start.B * signs[:, None])

    joined = join([start, turned], _STALE)

    assert torch.allclose(turned.A @ turned.B, start.A @ start.B)
    assert not torch.allclose(joined.A @ joined.B, start.A @ start.B, atol=1e-3)


def test_a_slightly_different_matrix_has_slightly_different_factors() -> None:
    """Signs do not come from the library's mood: where singular values differ, A and B are continuous in W."""
    W = _weights((10, 6))

    one, other = split(W, 0.0), split(W + 1e-7 * _weights((10, 6), 5), 0.0)

    assert (one.A - other.A).abs().max() < 1e-4
    assert (one.B - other.B).abs().max() < 1e-4


@pytest.mark.parametrize("trained", _BOTH)
def test_the_gradient_is_that_of_the_product(trained: Factor) -> None:
    """As automatic differentiation has it through W = A B, and of the trained factor alone."""
    start = split(_weights((10, 6)), 0.2)
    A, B = start.A.clone().requires_grad_(), start.B.clone().requires_grad_()
    x = _weights((6, 5), 3)

    (A @ B @ x).square().sum().backward()

    G = 2 * (start.A @ start.B @ x) @ x.T
    expected = A.grad if trained is Factor.A else B.grad
    assert expected is not None
    assert torch.allclose(factor_gradient(G, start, trained), expected, rtol=1e-10)


@pytest.mark.parametrize("join_", ["with-stale", "only-learned"])
@pytest.mark.parametrize("cutoff", [0.0, 0.3])
def test_an_epoch_equals_the_equations(join_: str, cutoff: float) -> None:
    """Split, five steps of four nodes, join: in fp32 by the fast forms, in fp64 line by line."""
    W, lr, trained = _weights((12, 8)), 0.05, (Factor.A, Factor.A, Factor.B, Factor.B)
    gradients = [[_weights((12, 8), 10 * node + step) for step in range(5)] for node in range(4)]
    weights = {
        factor: [0.25 if join_ == "with-stale" else 0.5 * (own is factor) for own in trained] for factor in _BOTH
    }

    start = split(W.float(), cutoff)
    copies = []
    for own, factor in zip(gradients, trained, strict=True):
        copy = Factors(start.A.clone(), start.B.clone())
        for G in own:
            copy.of(factor).sub_(factor_gradient(G.float(), copy, factor), alpha=lr)
        copies.append(copy)
    joined = join(copies, weights)

    expected = reference_epoch(W, gradients, trained, lr=lr, cutoff=cutoff, join=join_)
    assert torch.allclose((joined.A @ joined.B).double(), expected, atol=1e-4)


def test_moments_are_cut_or_filled_up() -> None:
    """What both ranks have stays, what is new begins at nothing."""
    moment = _weights((6, 4))

    narrower, wider = fit(moment, (6, 3)), fit(moment, (6, 5))

    assert torch.equal(narrower, moment[:, :3])
    assert torch.equal(wider[:, :4], moment)
    assert not wider[:, 4].any()
    assert torch.equal(fit(moment.T, (3, 6)), moment.T[:3])


def test_epochs_are_repeatable() -> None:
    """The same weights have the same factors, to the bit."""
    W = _weights((12, 8)).float()

    one, same = split(W, 0.1), split(W.clone(), 0.1)

    assert torch.equal(one.A, same.A)
    assert torch.equal(one.B, same.B)


@pytest.mark.parametrize("weights", [_STALE, _LEARNED])
def test_alternating_factors_find_a_target(weights: dict[Factor, list[float]]) -> None:
    """A node for A, one for B, a join every ten steps: the distance to a matrix of full rank goes to nothing."""
    target, W = _weights((10, 6), 8), _weights((10, 6))
    first = (W - target).square().sum()

    for _ in range(60):
        start = split(W, 0.0)
        copies = [Factors(start.A.clone(), start.B.clone()) for _ in _BOTH]
        for copy, factor in zip(copies, _BOTH, strict=True):
            for _ in range(10):
                copy.of(factor).sub_(factor_gradient(copy.A @ copy.B - target, copy, factor), alpha=0.02)
        joined = join(copies, weights)
        W = joined.A @ joined.B

    assert (W - target).square().sum() < 1e-3 * first


def test_a_vector_has_no_factors() -> None:
    """Neither has a scalar."""
    for shape in ((5,), ()):
        with pytest.raises(ValueError, match="no matrix"):
            tall(torch.zeros(shape))
