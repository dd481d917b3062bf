"""Second moments exchanged by their logarithm."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lowcomm_node.algo.correction import Correction
from lowcomm_node.algo.log_moments import apply_log_correction_, log_view, reference_apply_log_correction

_EPS = 1e-4
_BIAS = 0.3


def _moment(seed: int) -> Tensor:
    """Entries over eight orders of magnitude, one of them without any gradient."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.exp(torch.randn(6, 5, generator=generator) * 4 - 10) * _BIAS
    v[0, 0] = 0.0
    return v


def _applied(v: Tensor, c: Tensor, weight: float) -> Tensor:
    moved = v.clone()
    apply_log_correction_([moved], Correction((c,)), weight, bias_correction=_BIAS, eps=_EPS)
    return moved


@given(st.integers(0, 1000), st.floats(-1.0, 1.0), st.floats(0.01, 20.0))
def test_fast_form_equals_the_reference(seed: int, weight: float, size: float) -> None:
    """Any weight and any size of C, clamped or not, to fp32 rounding of the largest number that enters."""
    v, c = _moment(seed), torch.randn(6, 5, generator=torch.Generator().manual_seed(seed + 1)) * size

    ours = _applied(v, c, weight)

    expected = reference_apply_log_correction(v, c, weight, bias_correction=_BIAS, eps=_EPS)
    error = (ours.double() - expected).abs()
    assert bool((error <= 2e-6 * (expected + _BIAS * _EPS**2)).all())


@given(st.integers(0, 1000), st.floats(-50.0, 50.0))
def test_second_moments_stay_non_negative_finite_and_within_a_factor(seed: int, size: float) -> None:
    """One meeting changes v^ + eps^2 by a factor of 4 at most, so that no step size changes by more than 2."""
    v, c = _moment(seed), torch.randn(6, 5, generator=torch.Generator().manual_seed(seed + 1)) * size

    moved = _applied(v, c, 0.5)

    floor = _EPS**2
    assert bool((moved >= 0).all())
    ratio = (moved.double() / _BIAS + floor) / (v.double() / _BIAS + floor)
    assert float(ratio.max()) < 4.001
    assert float(ratio.min()) > 0.249


def test_pair_keeps_its_geometric_mean() -> None:
    """Both ends take half of the same C: the sum of the logarithms stays, and here they meet in the middle."""
    v_i = _moment(0)
    v_j = v_i * torch.exp(torch.randn(6, 5, generator=torch.Generator().manual_seed(9)))
    before = [log_view(v, bias_correction=_BIAS, eps=_EPS) for v in (v_i, v_j)]
    c = before[0] - before[1]

    after = [
        log_view(_applied(v, c, weight), bias_correction=_BIAS, eps=_EPS) for v, weight in ((v_i, -0.5), (v_j, 0.5))
    ]

    torch.testing.assert_close(after[0], after[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(after[0] + after[1], before[0] + before[1], atol=2e-5, rtol=0)


def test_no_difference_changes_no_bit() -> None:
    """v is not taken through a logarithm and back."""
    v = _moment(4)

    assert torch.equal(_applied(v, torch.zeros(6, 5), 0.5), v)


def test_entries_without_gradient_are_alike_and_far_below_the_others() -> None:
    """v = 0 stands at log(eps^2) on every node, of whatever age, instead of at minus infinity."""
    zero = torch.zeros(2)

    views = [log_view(zero, bias_correction=c, eps=1e-8) for c in (0.01, 1.0)]

    assert torch.equal(*views)
    assert views[0].tolist() == pytest.approx([2 * math.log(1e-8)] * 2)


def test_wrong_number_of_tensors_is_refused() -> None:
    """Nothing is applied to a part of a stream."""
    with pytest.raises(ValueError, match="2 tensors"):
        apply_log_correction_([_moment(0)] * 2, Correction((None,)), 0.5, bias_correction=1.0, eps=_EPS)
