"""Whole tensors and random shares of them in few-bit integers: what is captured, whatever the distribution, and what is seen to be too far."""

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lowcomm_node.algo.whole import answer_whole, offer_whole, read_whole
from lowcomm_node.algo.wireformat import Reader
from lowcomm_node.units import Codec, Dtype
from tests.algo.swarm_of_tensors import SEED, captured, make_plan, make_replica, materialise, meet, rms_of

_DENSE_INT4 = make_plan((-1,), codec=Codec.DENSE, dtype=Dtype.INT4)


def _heavy_tailed(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """An embedding and another that differs by 1 %, twelve times more in a few rows than in the rest."""
    first = torch.randn(256, 64, generator=generator)
    difference = 0.01 * torch.randn(256, 64, generator=generator)
    difference[torch.randperm(256, generator=generator)[:4]] *= 12.0
    return first, first - difference


@pytest.mark.parametrize(("error", "least"), [(0.5, 0.88), (1.0, 0.92), (2.0, 0.77)], ids=["half", "right", "twice"])
def test_four_bits_capture_heavy_tails(error: float, least: float) -> None:
    """Outliers do not wrap: 4 bits in both directions take away more than 0.9 of the energy, and not much less when beliefs are off by two."""
    generator = torch.Generator().manual_seed(41)
    for meeting in range(5):
        first, second = _heavy_tailed(generator)
        ranges = [error * rms for rms in rms_of([first], [second])]
        outcome = meet([first], [second], _DENSE_INT4, bytes([meeting]) * 32, ranges=ranges)

        assert captured([first], [second], outcome.initiator) > least


@given(
    kind=st.sampled_from(["gaussian", "one row", "one column", "one number"]), share=st.sampled_from([0.1, 0.3, 0.6])
)
@settings(max_examples=12)
def test_a_share_of_the_coefficients_captures_that_share(kind: str, share: float) -> None:
    """In every meeting, and not only on average over many, whether the energy is everywhere or in one place."""
    generator = torch.Generator().manual_seed(42)
    first = torch.randn(64, 64, generator=generator)
    difference = 0.01 * torch.randn(64, 64, generator=generator)
    if kind in ("one row", "one number"):
        difference[torch.arange(64) != 3] = 0.0
    if kind in ("one column", "one number"):
        difference[:, torch.arange(64) != 5] = 0.0
    second = first - difference
    plan = make_plan((int(share * 4096),), codec=Codec.SPARSE, dtype=Dtype.INT4)

    for meeting in range(3):
        found = captured([first], [second], meet([first], [second], plan, bytes([meeting]) * 32).initiator)

        assert 0.8 * share < found < 1.1 * share


def test_what_was_seen_of_a_share_is_the_energy_of_all() -> None:
    """The spectrum of a sparse correction estimates |D|^2, padding or not, and that is what the next range follows."""
    generator = torch.Generator().manual_seed(43)
    first, second = torch.randn(997, generator=generator), torch.randn(997, generator=generator)
    plan = make_plan((300,), codec=Codec.SPARSE, dtype=Dtype.INT8)

    (spectrum,) = meet([first], [second], plan).initiator.spectra()

    assert spectrum is not None
    assert spectrum[0] == pytest.approx(float((first - second).square().sum()), rel=0.25)


@pytest.mark.parametrize("dtype", [Dtype.INT8, Dtype.INT4])
def test_a_hundred_times_larger_is_void(dtype: Dtype) -> None:
    """A difference far beyond its range is seen, whichever codec, and leaves both ends as they were."""
    first, second = make_replica(torch.Generator().manual_seed(44), [(60, 40)]), [torch.zeros(60, 40)]
    for codec, rank in ((Codec.DENSE, -1), (Codec.SPARSE, 700)):
        plan = make_plan((rank,), codec=codec, dtype=dtype)

        outcome = meet(first, second, plan, ranges=[0.01])

        assert outcome.initiator.parts == outcome.answerer.parts == (None,)


@pytest.mark.parametrize("ratio", [1e-3, 1e-2, 0.1])
def test_differences_below_the_step_are_not_made_up(ratio: float) -> None:
    """Where far more was expected, C is nothing or a part of the difference, never noise larger than it."""
    generator = torch.Generator().manual_seed(45)
    first = torch.randn(4096, generator=generator)
    second = first + ratio * torch.randn(4096, generator=generator)

    outcome = meet([first], [second], _DENSE_INT4, ranges=[1.0])

    assert captured([first], [second], outcome.initiator) > -0.05
    assert outcome.initiator.norm() < 1.05 * float((first - second).norm())


def test_golden_bytes() -> None:
    """Range, checksum and packed integers of an offer, flag, scale and packed integers of an answer: the wire contract."""
    seed = hashlib.sha256(b"golden").digest()
    ours, theirs = torch.tensor([0.5, -1.0, 2.0, 100.0]), torch.tensor([0.25, -1.25, 2.5, 101.0])

    (offer,) = offer_whole(ours.unsqueeze(0), Dtype.INT4, seed, (3,), (0.5,))
    ((answer, C),) = answer_whole(theirs.unsqueeze(0), Dtype.INT4, seed, (3,), (Reader(offer, len(offer)),))

    assert offer.hex() == "0000003f1bffffffe195"
    assert answer.hex() == "00213e219e"
    assert C is not None
    (again,) = read_whole(4, Dtype.INT4, (Reader(answer, len(answer)),))
    assert again is not None
    assert torch.equal(again, C)


def test_only_the_offer_is_rounded_to_the_step() -> None:
    """The answerer knows its own numbers: errors have the energy of one rounding, step^2 / 12 a number, and not of two."""
    generator = torch.Generator().manual_seed(46)
    first = 10 * torch.randn(8192, generator=generator)
    second = first + torch.randn(8192, generator=generator)

    (offer,) = offer_whole(first.unsqueeze(0), Dtype.INT8, SEED, (0,), (10.0,))
    ((_, C),) = answer_whole(second.unsqueeze(0), Dtype.INT8, SEED, (0,), (Reader(offer, len(offer)),))

    step = 16.0 * 10.0 / 127
    assert C is not None
    error = float((C - (first - second)).square().mean())
    assert error == pytest.approx(step**2 / 12 / (1 + step**2 / 12), rel=0.1)


def test_repeatable() -> None:
    """The same meeting gives the same bytes and the same correction."""
    first, second = _heavy_tailed(torch.Generator().manual_seed(47))
    plan = make_plan((5000,), codec=Codec.SPARSE, dtype=Dtype.INT4)

    one, two = meet([first], [second], plan), meet([first], [second], plan)

    assert (one.offer, one.answer, one.close) == (two.offer, two.answer, two.close)
    shapes = [first.shape]
    assert torch.equal(materialise(one.initiator, shapes)[0], materialise(two.initiator, shapes)[0])
