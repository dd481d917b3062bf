"""Exchanging Adam's moments: v stays positive, log v keeps its mean, no step explodes, and nodes come closer."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lowcomm_node.algo.moments import (
    RatioCorrection,
    add_nonnegative_,
    bias_correction,
    check_plan,
    encode_answer,
    encode_offer,
    finish,
    guard_,
    part_bytes,
    rank1_ranks,
)
from lowcomm_node.core.messages import StreamPlan
from lowcomm_node.units import Codec, Dtype, Stream
from tests.algo.swarm_of_tensors import SHAPES, make_plan, meet

_SECOND_ORDER = 2.0
"""Allowed error as a multiple of the squared log difference."""


def _plan(ranks: tuple[int, ...] = rank1_ranks(SHAPES)) -> StreamPlan:
    return make_plan(ranks, codec=Codec.RANK1, stream=Stream.EXP_AVG_SQ)


def _moments(generator: torch.Generator, noise: float = 1.0, base: list[Tensor] | None = None) -> list[Tensor]:
    """Positive tensors over a few orders of magnitude; near ``base`` when given."""
    logs = [tensor.log() for tensor in base] if base else [torch.full(shape, -12.0) for shape in SHAPES]
    return [(log + noise * torch.randn(log.shape, generator=generator)).exp() for log in logs]


def _meet(first: list[Tensor], second: list[Tensor], plan: StreamPlan) -> tuple[RatioCorrection, RatioCorrection]:
    offer = encode_offer(first, plan)
    answer, answerer = encode_answer(second, plan, offer)
    return finish([tensor.shape for tensor in first], plan, offer, answer), answerer


@given(seed=st.integers(0, 1000), weight=st.floats(0.05, 1.0), noise=st.floats(0.01, 6.0))
def test_log_mean_is_untouched_and_v_stays_positive(seed: int, weight: float, noise: float) -> None:
    """However far apart: v > 0, no entry changes more than fourfold, and the pair's mean of log v stays."""
    generator = torch.Generator().manual_seed(seed)
    first, second = _moments(generator, noise), _moments(generator, noise)
    before = [(a.log() + b.log()) / 2 for a, b in zip(first, second, strict=True)]
    old = [tensor.clone() for tensor in first]

    ours, theirs = _meet(first, second, _plan())
    ours.apply_(first, -weight)
    theirs.apply_(second, weight)

    assert ours.is_finite()
    for a, b, mean, start in zip(first, second, before, old, strict=True):
        assert torch.all(a > 0)
        assert torch.all(b > 0)
        assert torch.allclose((a.log() + b.log()) / 2, mean, atol=1e-4)
        assert torch.all((a / start).log().abs() <= math.log(4.0) + 1e-4)


def test_agrees_with_the_arithmetic_form_to_second_order() -> None:
    """v_i *= (R Cc^T / s) / (R_i Cc_i^T / s_i) with arithmetic pair means is the same but for squares of the difference."""
    generator = torch.Generator().manual_seed(31)
    shape = (10, 8)
    base = [torch.rand(shape, generator=generator) + 0.5]

    def error(noise: float) -> float:
        noisy = torch.Generator().manual_seed(32)
        first, second = (_moments(noisy, noise, base) for _ in range(2))
        means = [(v[0].double().mean(1), v[0].double().mean(0)) for v in (first, second)]
        R, Cc = (means[0][0] + means[1][0]) / 2, (means[0][1] + means[1][1]) / 2
        model = R.outer(Cc) / R.mean()
        own_model = means[0][0].outer(means[0][1]) / means[0][0].mean()
        expected = first[0].double() * model / own_model
        ours, _ = _meet(first, second, make_plan((1,), codec=Codec.RANK1, stream=Stream.EXP_AVG_SQ))
        ours.apply_(first, -0.5)
        return float((first[0].double() / expected).log().abs().max())

    assert error(0.2) < _SECOND_ORDER * 0.2**2
    assert error(0.02) < _SECOND_ORDER * 0.02**2


def test_brings_rank1_moments_together() -> None:
    """Moments that differ by row and column factors are nearly equal after one exchange at w = 1/2; a vector entirely."""
    generator = torch.Generator().manual_seed(33)
    base = _moments(generator, 0.3)[0]
    rows, columns = torch.randn(12, 1, generator=generator), torch.randn(1, 9, generator=generator)
    first, second = (
        [base, torch.tensor([1.0, 4.0])],
        [base * (0.5 * rows + 0.5 * columns).exp(), torch.tensor([4.0, 1.0])],
    )
    distance = float((first[0] / second[0]).log().norm())
    plan = make_plan((1, -1), codec=Codec.RANK1, stream=Stream.EXP_AVG_SQ)

    ours, theirs = _meet(first, second, plan)
    ours.apply_(first, -0.5)
    theirs.apply_(second, 0.5)

    assert float((first[0] / second[0]).log().norm()) < 0.3 * distance
    assert torch.allclose(first[1], torch.tensor([2.0, 2.0]), atol=1e-5)
    assert torch.allclose(second[1], first[1], atol=1e-5)


def test_norm_is_that_of_the_log_difference() -> None:
    """For exactly rank-1 moments |C| is the distance of the logarithms."""
    rows, columns = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[1.0, 3.0]])
    first, second = [rows * columns], [torch.full((3, 2), 0.7)]

    ours, _ = _meet(first, second, make_plan((1,), codec=Codec.RANK1, stream=Stream.EXP_AVG_SQ))

    assert ours.norm() == pytest.approx(float((first[0] / second[0]).log().norm()), rel=1e-5)


def test_rows_without_gradients_are_left_alone() -> None:
    """An embedding row that one node never saw keeps the other's v as it is, and stays 0 where it is 0."""
    generator = torch.Generator().manual_seed(34)
    first, second = ([torch.rand(4, 3, generator=generator) + 0.1] for _ in range(2))
    first[0][2] = 0.0
    kept = second[0].clone()

    ours, theirs = _meet(first, second, make_plan((1,), codec=Codec.RANK1, stream=Stream.EXP_AVG_SQ))
    ours.apply_(first, -0.5)
    theirs.apply_(second, 0.5)

    assert ours.is_finite()
    assert torch.equal(first[0][2], torch.zeros(3))
    assert torch.equal(second[0][2], kept[2])
    assert not torch.equal(second[0][1], kept[1])


def test_payload_sizes() -> None:
    """m + n fp32 numbers per matrix, every entry of a vector, nothing for what is left out; no close."""
    plan = _plan((1, -1, 0, 1, -1))
    sizes = part_bytes(SHAPES, plan)
    tensors = _moments(torch.Generator().manual_seed(35))

    assert (sizes.offer, sizes.answer, sizes.close) == (4 * (21 + 5 + 6 + 1),) * 2 + (0,)
    assert len(encode_offer(tensors, plan)) == sizes.offer
    ours, _ = _meet(tensors, _moments(torch.Generator().manual_seed(36)), plan)
    kept = tensors[2].clone()
    ours.apply_(tensors, -0.5)
    assert torch.equal(tensors[2], kept)


@pytest.mark.parametrize("cut", [-4, -1, 1, 4])
def test_wrong_length_is_refused(cut: int) -> None:
    """A truncated or oversized offer or answer is a ValueError."""
    tensors = _moments(torch.Generator().manual_seed(37))
    good = encode_offer(tensors, _plan())
    bad = good[:cut] if cut < 0 else good + bytes(cut)

    with pytest.raises(ValueError, match="payloads of"):
        encode_answer(tensors, _plan(), bad)
    with pytest.raises(ValueError, match="payloads of"):
        finish(SHAPES, _plan(), good, bad)


@pytest.mark.parametrize("poison", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("position", [0, 15, 22, -1])
def test_non_finite_is_seen(poison: str, position: int) -> None:
    """A NaN or infinity among rows, columns or entries of a vector makes the correction not finite."""
    tensors = _moments(torch.Generator().manual_seed(38))
    numbers = torch.frombuffer(bytearray(encode_offer(tensors, _plan())), dtype=torch.float32)
    numbers[position] = float(poison)

    assert not encode_answer(tensors, _plan(), numbers.numpy().tobytes())[1].is_finite()


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (make_plan(rank1_ranks(SHAPES), codec=Codec.RANK1), "rank1 is for exp_avg_sq"),
        (make_plan(rank1_ranks(SHAPES), codec=Codec.AB, stream=Stream.EXP_AVG_SQ), "rank1 is for"),
        (make_plan(rank1_ranks(SHAPES), codec=Codec.RANK1, stream=Stream.EXP_AVG_SQ, dtype=Dtype.BF16), "fp32"),
        (_plan((1, -1)), "2 ranks for 5"),
        (_plan((2, -1, 1, 1, -1)), "tensor 0"),
        (_plan((1, 1, 1, 1, -1)), "tensor 1"),
    ],
)
def test_impossible_plans_are_refused(plan: StreamPlan, text: str) -> None:
    """Each with its reason."""
    with pytest.raises(ValueError, match=text):
        check_plan(SHAPES, plan)


@given(seed=st.integers(0, 1000), step=st.integers(1, 5000), scale=st.floats(1e-6, 1e6))
def test_guard_bounds_the_step(seed: int, step: int, scale: float) -> None:
    """After any merge |u^| <= sqrt(v^), entries inside the bound are not touched, and v = 0 means u = 0."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(50, generator=generator) * scale
    v = torch.rand(50, generator=generator)
    v[:5] = 0.0
    before = u.clone()

    guard_(u, v, step, 0.9, 0.99)

    bound = (v / bias_correction(0.99, step)).sqrt()
    corrected = u / bias_correction(0.9, step)
    assert torch.all(corrected.abs() <= bound * (1 + 1e-5))
    inside = (before / bias_correction(0.9, step)).abs() < bound * (1 - 1e-5)
    assert torch.equal(u[inside], before[inside])
    assert torch.equal(u[:5], torch.zeros(5))


def test_guard_before_the_first_step() -> None:
    """Without a step of its own a node has no scale to judge a first moment by: it is dropped."""
    u = torch.ones(3)

    guard_(u, torch.ones(3), 0, 0.9, 0.99)

    assert torch.equal(u, torch.zeros(3))


def test_bias_correction() -> None:
    """1 - beta^t: 0 at the start, 1 - beta after one step, 1 at last."""
    assert bias_correction(0.9, 0) == 0.0
    assert bias_correction(0.9, 1) == pytest.approx(0.1)
    assert bias_correction(0.0, 1) == 1.0
    assert bias_correction(0.9, 1e6) == 1.0


@given(seed=st.integers(0, 1000), weight=st.floats(-5.0, 5.0))
def test_dense_form_stays_positive(seed: int, weight: float) -> None:
    """Whatever C and its weight, no entry of v falls below a quarter of itself; the usual pair mean is reached exactly."""
    generator = torch.Generator().manual_seed(seed)
    first, second = ([torch.rand(6, 4, generator=generator) + 1e-3] for _ in range(2))
    plan = make_plan((-1,), codec=Codec.DENSE, stream=Stream.EXP_AVG_SQ)
    outcome = meet(first, second, plan)
    stale = [first[0].clone()]
    mean = (first[0] + second[0]) / 2

    add_nonnegative_(stale, outcome.initiator, weight)
    add_nonnegative_(first, outcome.initiator, -0.5)

    assert torch.all(stale[0] >= 0.25 * (2 * mean - second[0]) * (1 - 1e-4))
    assert torch.all(stale[0] > 0)
    assert torch.allclose(first[0], mean, atol=1e-6)
