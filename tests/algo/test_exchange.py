"""Meetings leave the swarm's mean alone, both ends agree to the last bit, and C is the projection it claims to be."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lowcomm_node.algo.correction import Correction
from lowcomm_node.algo.exchange import (
    check_plan,
    encode_answer,
    encode_close,
    encode_offer,
    finish,
    part_bytes,
    reference_projection,
)
from lowcomm_node.algo.omega import rademacher
from lowcomm_node.core.messages import StreamPlan
from lowcomm_node.units import Codec, Dtype
from tests.algo.swarm_of_tensors import (
    SEED,
    SHAPES,
    decaying_pair,
    make_plan,
    make_replica,
    materialise,
    meet,
    nudge,
)

_FP32_PARITY = 1e-4
_BF16_PARITY = 0.05
"""bf16 keeps 8 bits; the difference is a tenth of the tensors, and Z_j is rounded relative to those."""
_MEAN_ROUNDING = 2e-5

_ranks = st.tuples(st.integers(-1, 9), st.integers(-1, 0), st.integers(-1, 6), st.integers(-1, 3), st.integers(-1, 0))


@st.composite
def plans(draw: st.DrawFn) -> StreamPlan:
    codec = draw(st.sampled_from([Codec.AB, Codec.DENSE]))
    ranks = [min(rank, 0) if codec is Codec.DENSE else rank for rank in draw(_ranks)]
    return make_plan(ranks, codec=codec, dtype=draw(st.sampled_from(Dtype)))


@dataclass
class _Late:
    """A correction that one end has yet to apply."""

    node: int
    correction: Correction
    weight: float


@given(
    meetings=st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 3), plans(), st.booleans(), st.booleans()), min_size=1, max_size=6
    ),
    seed=st.integers(0, 1000),
    gain=st.floats(0.1, 1.9),
)
def test_mean_is_untouched(meetings: list[tuple[int, int, StreamPlan, bool, bool]], seed: int, gain: float) -> None:
    """Any meetings among four nodes, with local steps between all messages and late corrections: the mean follows the steps alone."""
    generator = torch.Generator().manual_seed(seed)
    nodes = [make_replica(generator) for _ in range(4)]
    expected = _mean(nodes)
    late: list[_Late] = []

    def step_everybody() -> None:
        for node in nodes:
            for mean, step in zip(expected, nudge(node, generator), strict=True):
                mean.add_(step.double() / len(nodes))

    for number, (first, distance, plan, is_first_late, is_second_late) in enumerate(meetings):
        second = (first + distance) % 4
        key = bytes([number]) * 32
        offer = encode_offer(nodes[first], plan, key)
        step_everybody()
        answer, half = encode_answer(nodes[second], plan, key, offer)
        step_everybody()
        close, correction = encode_close(nodes[first], plan, offer, answer)
        step_everybody()
        ends = (_Late(first, correction, -gain / 2), _Late(second, finish(half, close), gain / 2))
        for end, is_late in zip(ends, (is_first_late, is_second_late), strict=True):
            if is_late:
                late.append(end)
            else:
                end.correction.add_to_(nodes[end.node], end.weight)
        step_everybody()
    for end in late:
        end.correction.add_to_(nodes[end.node], end.weight)

    for ours, theirs in zip(_mean(nodes), expected, strict=True):
        assert torch.all((ours - theirs).abs() < _MEAN_ROUNDING)


def _mean(nodes: list[list[Tensor]]) -> list[Tensor]:
    return [torch.stack([tensor.double() for tensor in tensors]).mean(0) for tensors in zip(*nodes, strict=True)]


@given(plan=plans(), seed=st.integers(0, 1000))
def test_both_ends_agree_to_the_last_bit(plan: StreamPlan, seed: int) -> None:
    """Whatever the plan, initiator and answerer hold the same C, and the payloads have the announced sizes."""
    generator = torch.Generator().manual_seed(seed)
    outcome = meet(make_replica(generator), make_replica(generator), plan)
    sizes = part_bytes(SHAPES, plan)

    for ours, theirs in zip(materialise(outcome.initiator), materialise(outcome.answerer), strict=True):
        assert torch.equal(ours, theirs)
    assert (sizes.offer, sizes.answer, sizes.close) == (len(outcome.offer), len(outcome.answer), len(outcome.close))
    assert sizes.largest_direction == max(sizes.offer + sizes.close, sizes.answer)
    assert outcome.initiator.is_finite()
    assert outcome.initiator.norm() == outcome.answerer.norm()


@pytest.mark.parametrize(("dtype", "tolerance"), [(Dtype.FP32, _FP32_PARITY), (Dtype.BF16, _BF16_PARITY)])
@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (16, 5, 4)])
def test_ab_is_the_projection(dtype: Dtype, tolerance: float, shape: tuple[int, ...]) -> None:
    """C equals the fp64 projection of the difference on span((M_i - M_j) Omega)."""
    generator = torch.Generator().manual_seed(7)
    m, n = shape[0], torch.Size(shape[1:]).numel()
    first, second = decaying_pair(generator, m, n, 0.8)
    plan = make_plan((6,), dtype=dtype)

    outcome = meet([first.reshape(shape)], [second.reshape(shape)], plan)
    C = materialise(outcome.initiator, [shape])[0].reshape(m, n).double()

    expected = reference_projection(first, second, rademacher(SEED, 0, n, 6))
    assert (C - expected).norm() / expected.norm() < tolerance


def test_full_rank_is_the_whole_difference() -> None:
    """At r = min(m, n) nothing is left over."""
    generator = torch.Generator().manual_seed(8)
    first, second = torch.randn(6, 8, generator=generator), torch.randn(6, 8, generator=generator)

    C = materialise(meet([first], [second], make_plan((6,))).initiator, [(6, 8)])[0]

    assert torch.allclose(C, first - second, atol=1e-2)


def test_dense_is_the_difference() -> None:
    """fp32 dense gives M_i - M_j itself, and g = 1 makes the pair equal."""
    generator = torch.Generator().manual_seed(9)
    first, second = make_replica(generator), make_replica(generator)

    outcome = meet(first, second, make_plan((-1,) * 5, codec=Codec.DENSE))
    outcome.initiator.add_to_(first, -0.5)
    outcome.answerer.add_to_(second, 0.5)

    for ours, theirs in zip(first, second, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("dtype", Dtype)
def test_equal_replicas_have_no_correction(dtype: Dtype) -> None:
    """Nothing to agree on: C is exactly 0, not noise."""
    tensors = make_replica(torch.Generator().manual_seed(10))

    outcome = meet(tensors, tensors, make_plan((4, -1, 2, -1, -1), dtype=dtype))

    assert outcome.initiator.is_finite()
    if dtype is Dtype.FP32:
        assert outcome.initiator.norm() == 0.0
    else:  # the basis is the rounding of one end's sketch; what it spans of the tensors is as small
        assert outcome.initiator.norm() < 0.05


@pytest.mark.parametrize("decay", [0.7, 0.9])
def test_captured_energy(decay: float) -> None:
    """On a decaying spectrum a meeting captures most of what the best rank-r approximation could, and far more than chance."""
    generator = torch.Generator().manual_seed(11)
    m, n, r = 60, 40, 6
    first, second = decaying_pair(generator, m, n, decay)
    difference = (first - second).double()
    total = float(difference.square().sum())

    outcome = meet([first], [second], make_plan((r,)))
    captured = 1 - float((difference - materialise(outcome.initiator, [(m, n)])[0]).square().sum()) / total

    best = float(torch.linalg.svdvals(difference)[:r].square().sum()) / total
    chance, _ = torch.linalg.qr(torch.randn(m, r, generator=generator, dtype=torch.float64))
    by_chance = float((chance.T @ difference).square().sum()) / total
    assert captured > 0.6 * best
    assert captured > 2 * by_chance
    assert captured <= best + 1e-6


def test_stale_offer_still_gives_a_projection() -> None:
    """Local steps after the offer: C is the projection of the difference at the close, on the basis of the answer."""
    generator = torch.Generator().manual_seed(12)
    first, second = (tensor.clone() for tensor in decaying_pair(generator, 20, 16, 0.7))
    plan = make_plan((4,))

    offer = encode_offer([first], plan, SEED)
    answer, half = encode_answer([second], plan, SEED, offer)
    nudge([first], generator, 0.01)
    close, _ = encode_close([first], plan, offer, answer)
    C = materialise(finish(half, close), [(20, 16)])[0].double()

    basis = half.parts[0]
    assert basis is not None
    wide = basis.double()
    expected = wide @ torch.linalg.pinv(wide) @ (first - second).double()
    assert (C - expected).norm() / expected.norm() < _FP32_PARITY


@given(plan=plans(), cut=st.integers(-9, 9).filter(bool), which=st.sampled_from(["offer", "answer", "close"]))
@settings(max_examples=30)
def test_wrong_length_is_refused(plan: StreamPlan, cut: int, which: str) -> None:
    """A payload that is too short or too long is a ValueError, never a wrong correction."""
    generator = torch.Generator().manual_seed(13)
    first, second = make_replica(generator), make_replica(generator)
    outcome = meet(first, second, plan)
    _, half = encode_answer(second, plan, SEED, outcome.offer)

    def resize(payload: bytes) -> bytes:
        return payload[:cut] if cut < 0 and payload else payload + bytes(abs(cut))

    receive: dict[str, Callable[[], object]] = {
        "offer": lambda: encode_answer(second, plan, SEED, resize(outcome.offer)),
        "answer": lambda: encode_close(first, plan, outcome.offer, resize(outcome.answer)),
        "close": lambda: finish(half, resize(outcome.close)),
    }
    with pytest.raises(ValueError, match="payload of"):
        receive[which]()


@given(plan=plans(), where=st.integers(0, 10_000), which=st.sampled_from(["offer", "answer", "close"]))
@settings(max_examples=40)
def test_nan_is_seen_before_it_is_applied(plan: StreamPlan, where: int, which: str) -> None:
    """One NaN anywhere in a payload makes the half or the correction of who receives it not finite, and raises nothing."""
    generator = torch.Generator().manual_seed(14)
    first, second = make_replica(generator), make_replica(generator)
    outcome = meet(first, second, plan)
    payload = {"offer": outcome.offer, "answer": outcome.answer, "close": outcome.close}[which]
    if not payload:
        return
    size = plan.dtype.itemsize
    start = where % (len(payload) // size) * size
    poisoned = payload[:start] + b"\xff" * size + payload[start + size :]

    if which == "offer":
        assert not encode_answer(second, plan, SEED, poisoned)[1].is_finite()
    elif which == "answer":
        assert not encode_close(first, plan, outcome.offer, poisoned)[1].is_finite()
    else:
        _, half = encode_answer(second, plan, SEED, outcome.offer)
        assert half.is_finite()
        assert not finish(half, poisoned).is_finite()


@pytest.mark.parametrize(
    ("ranks", "codec", "text"),
    [
        ((1, -1, 1, 1), Codec.AB, "4 ranks for 5 tensors"),
        ((10, -1, 1, 1, -1), Codec.AB, "tensor 0 .*above min"),
        ((1, 1, 1, 1, -1), Codec.AB, "tensor 1 .*vector"),
        ((1, -1, 1, 1, 1), Codec.AB, "tensor 4 .*vector"),
        ((-2, -1, 1, 1, -1), Codec.AB, "tensor 0 .*ranks are"),
        ((1, -1, -1, -1, -1), Codec.DENSE, "codec dense has no low rank"),
        ((1, -1, 1, 1, -1), Codec.RANK1, "codec rank1"),
    ],
)
def test_impossible_plans_are_refused(ranks: tuple[int, ...], codec: Codec, text: str) -> None:
    """Each plan that cannot be carried out is refused with its reason, before anything is computed."""
    with pytest.raises(ValueError, match=text):
        check_plan(SHAPES, make_plan(ranks, codec=codec))
