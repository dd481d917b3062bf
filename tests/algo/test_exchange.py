"""Meetings leave the swarm's mean alone and both ends agree to the last bit, whatever the codec, the format and the bytes."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lowcomm_node.algo.correction import Correction
from lowcomm_node.algo.exchange import encode_answer, encode_close, encode_offer, finish
from lowcomm_node.algo.sizes import is_integer, part_bytes
from lowcomm_node.core.messages import StreamPlan
from lowcomm_node.units import Codec, Dtype, Omega
from tests.algo.swarm_of_tensors import SEED, SHAPES, make_plan, make_replica, materialise, meet, nudge, rms_of

_MEAN_ROUNDING = 2e-5
_SIZES = (108, 5, 48, 9, 1)

_ranks = {
    Codec.AB: (st.integers(-1, 9), st.integers(-1, 0), st.integers(-1, 6), st.integers(-1, 3), st.integers(-1, 0)),
    Codec.DENSE: (st.integers(-1, 0),) * 5,
    Codec.SPARSE: tuple(st.integers(-1, size) for size in _SIZES),
}


@st.composite
def plans(draw: st.DrawFn, dtypes: tuple[Dtype, ...] = tuple(Dtype)) -> StreamPlan:
    codec = draw(st.sampled_from(list(_ranks)))
    omega = draw(st.sampled_from(Omega)) if codec is Codec.AB else Omega.SEEDED
    return make_plan(draw(st.tuples(*_ranks[codec])), codec=codec, dtype=draw(st.sampled_from(dtypes)), omega=omega)


def _bases(generator: torch.Generator, num_columns: int) -> list[Tensor | None]:
    """What an initiator may bring: some columns for the matrices, fewer or more than the rank."""
    widths = (9, None, 8, 3, None)
    return [
        None if n is None or not num_columns else torch.linalg.qr(torch.randn(n, num_columns, generator=generator))[0]
        for n in widths
    ]


@dataclass
class _Late:
    """A correction that one end has yet to apply."""

    node: int
    correction: Correction
    weight: float


@given(
    meetings=st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 3), plans(), st.booleans(), st.booleans(), st.floats(0.1, 3.0)),
        min_size=1,
        max_size=6,
    ),
    seed=st.integers(0, 1000),
    gain=st.floats(0.1, 1.9),
)
def test_mean_is_untouched(
    meetings: list[tuple[int, int, StreamPlan, bool, bool, float]], seed: int, gain: float
) -> None:
    """Any meetings among four nodes, with local steps between all messages, late corrections and wrong beliefs: the mean follows the steps alone."""
    generator = torch.Generator().manual_seed(seed)
    nodes = [make_replica(generator) for _ in range(4)]
    expected = _mean(nodes)
    late: list[_Late] = []

    def step_everybody() -> None:
        for node in nodes:
            for mean, step in zip(expected, nudge(node, generator), strict=True):
                mean.add_(step.double() / len(nodes))

    for number, (first, distance, plan, is_first_late, is_second_late, error) in enumerate(meetings):
        second = (first + distance) % 4
        key = bytes([number]) * 32
        ranges = [error * rms for rms in rms_of(nodes[first], nodes[second])]
        offer = encode_offer(nodes[first], plan, key, ranges=ranges, bases=_bases(generator, number % 4))
        step_everybody()
        answer, half = encode_answer(nodes[second], plan, key, offer)
        step_everybody()
        close, correction = encode_close(nodes[first], plan, key, offer, answer)
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


@given(plan=plans(), seed=st.integers(0, 1000), error=st.floats(1e-3, 1e3), num_columns=st.integers(0, 3))
def test_both_ends_agree_to_the_last_bit(plan: StreamPlan, seed: int, error: float, num_columns: int) -> None:
    """Whatever the plan and the beliefs, initiator and answerer hold the same C, and the payloads have the announced sizes."""
    generator = torch.Generator().manual_seed(seed)
    first, second = make_replica(generator), make_replica(generator)
    ranges = [error * rms for rms in rms_of(first, second)]
    outcome = meet(first, second, plan, ranges=ranges, bases=_bases(generator, num_columns))
    sizes = part_bytes(SHAPES, plan)

    for ours, theirs in zip(materialise(outcome.initiator), materialise(outcome.answerer), strict=True):
        assert torch.equal(ours, theirs)
    assert (sizes.offer, sizes.answer, sizes.close) == (len(outcome.offer), len(outcome.answer), len(outcome.close))
    assert sizes.largest_direction == max(sizes.offer + sizes.close, sizes.answer)
    assert outcome.initiator.is_finite()
    assert outcome.initiator.norm() == outcome.answerer.norm()
    assert outcome.initiator.spectra() == outcome.answerer.spectra()


@pytest.mark.parametrize("codec", [Codec.DENSE, Codec.SPARSE])
def test_everything_is_the_difference(codec: Codec) -> None:
    """fp32 and all coordinates: C is M_i - M_j itself, and g = 1 makes the pair equal."""
    generator = torch.Generator().manual_seed(9)
    first, second = make_replica(generator), make_replica(generator)

    outcome = meet(first, second, make_plan((-1,) * 5 if codec is Codec.DENSE else _SIZES, codec=codec))
    outcome.initiator.add_to_(first, -0.5)
    outcome.answerer.add_to_(second, 0.5)

    for ours, theirs in zip(first, second, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_sparse_is_the_difference_at_some_coordinates() -> None:
    """As many numbers of C as planned are M_i - M_j, others in the next meeting, and all else is 0."""
    generator = torch.Generator().manual_seed(9)
    first, second = make_replica(generator), make_replica(generator)
    plan = make_plan((20, 2, 0, -1, 1), codec=Codec.SPARSE)

    C = materialise(meet(first, second, plan).initiator)
    other = materialise(meet(first, second, plan, bytes(32)).initiator)

    for tensor, a, b, count in zip(C, first, second, (20, 2, 0, 9, 1), strict=True):
        chosen = tensor != 0
        assert int(chosen.sum()) == count
        assert torch.equal(tensor[chosen], (a - b)[chosen])
    assert not torch.equal(C[0] != 0, other[0] != 0)


@pytest.mark.parametrize("dtype", Dtype)
def test_equal_replicas_have_no_correction(dtype: Dtype) -> None:
    """Nothing to agree on: C is exactly 0, not noise, but for what bf16 rounds off weights."""
    tensors = make_replica(torch.Generator().manual_seed(10))

    for codec, ranks in ((Codec.AB, (4, -1, 2, -1, -1)), (Codec.SPARSE, (30, 3, 40, 1, 1))):
        outcome = meet(tensors, tensors, make_plan(ranks, codec=codec, dtype=dtype), ranges=[0.1] * 5)

        assert outcome.initiator.is_finite()
        assert None not in outcome.initiator.parts
        assert outcome.initiator.norm() == 0.0 if dtype is not Dtype.BF16 else outcome.initiator.norm() < 0.05


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
        "answer": lambda: encode_close(first, plan, SEED, outcome.offer, resize(outcome.answer)),
        "close": lambda: finish(half, resize(outcome.close)),
    }
    with pytest.raises(ValueError, match="payload of"):
        receive[which]()


@given(plan=plans(), noise=st.randoms(use_true_random=False), which=st.sampled_from(["offer", "answer", "close"]))
def test_damaged_bytes_are_harmless(plan: StreamPlan, noise: object, which: str) -> None:
    """Any bytes of the right length give a ValueError, or something that says whether it is finite; never another failure."""
    generator = torch.Generator().manual_seed(14)
    first, second = make_replica(generator), make_replica(generator)
    outcome = meet(first, second, plan)
    payload = {"offer": outcome.offer, "answer": outcome.answer, "close": outcome.close}[which]
    damaged = noise.randbytes(len(payload))  # type: ignore[attr-defined]

    try:
        if which == "offer":
            answer, half = encode_answer(second, plan, SEED, damaged)
            _, correction = encode_close(first, plan, SEED, outcome.offer, answer)
            assert isinstance(half.is_finite(), bool)
        elif which == "answer":
            _, correction = encode_close(first, plan, SEED, outcome.offer, damaged)
        else:
            correction = finish(encode_answer(second, plan, SEED, outcome.offer)[1], damaged)
    except ValueError:
        return
    if correction.is_finite():
        assert all(bool(torch.isfinite(tensor).all()) for tensor in materialise(correction))


@given(plan=plans((Dtype.FP32, Dtype.BF16)), where=st.integers(0, 10_000))
@settings(max_examples=40)
def test_nan_in_an_offer_is_seen(plan: StreamPlan, where: int) -> None:
    """One NaN anywhere in a floating-point offer makes the half of who receives it not finite, and raises nothing."""
    generator = torch.Generator().manual_seed(14)
    first, second = make_replica(generator), make_replica(generator)
    offer = meet(first, second, plan).offer
    assume(offer)
    size = plan.dtype.bits // 8
    start = where % (len(offer) // size) * size
    poisoned = offer[:start] + b"\xff" * size + offer[start + size :]

    assert not encode_answer(second, plan, SEED, poisoned)[1].is_finite()


@given(plan=plans(), bad=st.sampled_from([float("nan"), float("inf"), -float("inf")]), when=st.integers(0, 2))
@settings(max_examples=60)
def test_weights_that_are_not_finite_never_reach_the_partner(plan: StreamPlan, bad: float, when: int) -> None:
    """A NaN or infinity in a tensor that meets is seen by one of the ends before anything could be applied, whatever the format."""
    generator = torch.Generator().manual_seed(15)
    first, second = make_replica(generator), make_replica(generator)
    ranges = rms_of(first, second)
    index = next((index for index, rank in enumerate(plan.ranks) if rank), None)
    assume(index is not None and plan.codec is not Codec.SPARSE)
    assert index is not None

    def poison(tensors: list[Tensor]) -> None:
        tensors[index].reshape(-1)[0] = bad

    if when == 0:
        poison(first)
    offer = encode_offer(first, plan, SEED, ranges=ranges)
    if when == 1:
        poison(second)
    if when == 0 and is_integer(plan.dtype):
        with pytest.raises(ValueError, match="not a positive number"):
            encode_answer(second, plan, SEED, offer)
        return
    answer, half = encode_answer(second, plan, SEED, offer)
    if when < 2:
        assert not half.is_finite()
        return
    poison(first)
    close, correction = encode_close(first, plan, SEED, offer, answer)
    if plan.ranks[index] > 0:
        assert not correction.is_finite()
        assert not finish(half, close).is_finite()
    else:  # sent whole: C was settled before the weights went bad
        assert correction.is_finite()


def test_stale_offer_still_gives_a_projection() -> None:
    """Local steps after the offer: C is the projection of the difference at the close, on the basis of the answer."""
    generator = torch.Generator().manual_seed(12)
    first, second = make_replica(generator, [(20, 16)]), make_replica(generator, [(20, 16)])
    plan = make_plan((4,))

    offer = encode_offer(first, plan, SEED)
    answer, half = encode_answer(second, plan, SEED, offer)
    nudge(first, generator, 0.01)
    close, _ = encode_close(first, plan, SEED, offer, answer)
    C = materialise(finish(half, close), [(20, 16)])[0].double()

    basis = half.parts[0]
    assert basis is not None
    wide = basis.double()
    expected = wide @ torch.linalg.pinv(wide) @ (first[0] - second[0]).double()
    assert (C - expected).norm() / expected.norm() < 1e-4


def test_integers_need_ranges() -> None:
    """Without a belief about the difference there is no step to count in."""
    with pytest.raises(ValueError, match="int8 of params needs the expected ranges"):
        encode_offer(make_replica(torch.Generator()), make_plan((-1,) * 5, dtype=Dtype.INT8), SEED)


@pytest.mark.parametrize(("codec", "rank"), [(Codec.DENSE, -1), (Codec.SPARSE, 20)], ids=["dense", "sparse"])
@pytest.mark.parametrize("dtype", list(Dtype))
def test_alike_tensors_together_are_as_each_alone(codec: Codec, rank: int, dtype: Dtype) -> None:
    """Tensors of one size go through in one call, which changes no byte and no number of any; one of them has no finite numbers, one is void."""
    generator = torch.Generator().manual_seed(48)
    shapes = [(33,), (11, 3), (40,), (3, 11), (33, 1), (40,)]
    first, second = make_replica(generator, shapes), make_replica(generator, shapes)
    second = [a + 0.01 * b for a, b in zip(first, second, strict=True)]
    second[1] = second[1] + 100.0
    second[3][0, 0] = torch.nan
    ranges = [0.01] * len(shapes)
    together = meet(first, second, make_plan((rank,) * len(shapes), codec=codec, dtype=dtype), ranges=ranges)

    offers, answers = [], []
    for index in range(len(shapes)):
        ranks = [rank if other == index else 0 for other in range(len(shapes))]
        alone = meet(first, second, make_plan(ranks, codec=codec, dtype=dtype), ranges=ranges)
        offers.append(alone.offer)
        answers.append(alone.answer)
        ours, theirs = (outcome.answerer.parts[index] for outcome in (together, alone))
        assert (ours is None) == (theirs is None)
        if ours is not None:
            written = [
                materialise(Correction((None,) * index + (part,) + (None,) * (len(shapes) - index - 1)), shapes)[index]
                for part in (ours, theirs)
            ]
            assert torch.equal(*(tensor.nan_to_num(nan=7.0) for tensor in written))

    assert together.offer == b"".join(offers)
    assert together.answer == b"".join(answers)


def test_one_correction_on_two_replicas() -> None:
    """Weights and their anchor move by the same numbers as one after the other."""
    generator = torch.Generator().manual_seed(49)
    first, second = make_replica(generator), make_replica(generator)
    plan = make_plan((2, 3, -1, 4, -1), codec=Codec.SPARSE, dtype=Dtype.INT8)
    correction = meet(first, second, plan).initiator
    one, two = make_replica(generator), make_replica(generator)
    apart = [[tensor.clone() for tensor in replica] for replica in (one, two)]

    correction.add_to_all_((one, two), -0.3)
    for replica in apart:
        correction.add_to_(replica, -0.3)

    assert all(torch.equal(a, b) for a, b in zip([*one, *two], [*apart[0], *apart[1]], strict=True))
