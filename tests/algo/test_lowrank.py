"""Low rank: C is the projection it claims to be, and captures what a subspace step can."""

import pytest
import torch
from torch import Tensor

from lowcomm_node.algo.correction import Factors, right_factors
from lowcomm_node.algo.lowrank import reference_power_projection, reference_projection
from lowcomm_node.algo.omega import main_directions, rademacher
from lowcomm_node.units import Dtype, Omega
from tests.algo.swarm_of_tensors import SEED, captured, decaying_pair, make_plan, materialise, meet

_PARITY = {Dtype.FP32: 1e-4, Dtype.BF16: 0.05, Dtype.INT8: 0.15}
"""Of bf16 and int8 mostly the basis is off: Y is rounded as weights, or to a sixth of an expected difference."""


def _energy_left(difference: Tensor, C: Tensor) -> float:
    return float((difference.double() - C.double()).square().sum() / difference.double().square().sum())


@pytest.mark.parametrize("dtype", _PARITY)
@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (16, 5, 4)])
def test_ab_is_the_projection(dtype: Dtype, shape: tuple[int, ...]) -> None:
    """C equals the fp64 projection of the difference on span((M_i - M_j) Omega)."""
    generator = torch.Generator().manual_seed(7)
    m, n = shape[0], torch.Size(shape[1:]).numel()
    first, second = decaying_pair(generator, m, n, 0.8)

    outcome = meet([first.reshape(shape)], [second.reshape(shape)], make_plan((6,), dtype=dtype))
    C = materialise(outcome.initiator, [shape])[0].reshape(m, n).double()

    expected = reference_projection(first, second, rademacher(SEED, 0, n, 6))
    assert (C - expected).norm() / expected.norm() < _PARITY[dtype]


def test_full_rank_is_the_whole_difference() -> None:
    """At r = min(m, n) nothing is left over."""
    generator = torch.Generator().manual_seed(8)
    first, second = torch.randn(6, 8, generator=generator), torch.randn(6, 8, generator=generator)

    C = materialise(meet([first], [second], make_plan((6,))).initiator, [(6, 8)])[0]

    assert torch.allclose(C, first - second, atol=1e-2)


@pytest.mark.parametrize(("decay", "of_best"), [(0.7, 0.85), (0.9, 0.7)])
def test_captured_energy(decay: float, of_best: float) -> None:
    """On a decaying spectrum a meeting captures most of what the best rank-r approximation could, and far more than chance."""
    generator = torch.Generator().manual_seed(11)
    m, n, r = 60, 40, 8
    first, second = decaying_pair(generator, m, n, decay)
    difference = (first - second).double()
    energy = float(difference.square().sum())

    share = captured([first], [second], meet([first], [second], make_plan((r,))).initiator)

    best = float(torch.linalg.svdvals(difference)[:r].square().sum()) / energy
    chance, _ = torch.linalg.qr(torch.randn(m, r, generator=generator, dtype=torch.float64))
    by_chance = float((chance.T @ difference).square().sum()) / energy
    assert share > of_best * best
    assert share > 2 * by_chance
    assert share <= best + 1e-6


def test_a_steep_spectrum_is_captured_as_by_the_svd() -> None:
    """Where each direction holds a quarter of the one before, rank r loses hardly more than truncation."""
    first, second = decaying_pair(torch.Generator().manual_seed(11), 60, 40, 0.5)

    share = captured([first], [second], meet([first], [second], make_plan((6,))).initiator)

    best = float(torch.linalg.svdvals((first - second).double())[:6].square().sum() / (first - second).square().sum())
    assert best - share < 0.01


@pytest.mark.parametrize("dtype", [Dtype.BF16, Dtype.INT8, Dtype.INT4])
@pytest.mark.parametrize("relative", [0.1, 0.01])
def test_few_bits_capture_nearly_as_much(dtype: Dtype, relative: float) -> None:
    """Integers resolve the difference: a quarter of the bytes or less, and at most 6 % less energy, be it ten or a hundred times smaller than the weights."""
    first, second = decaying_pair(torch.Generator().manual_seed(21), 128, 96, 0.9, relative)

    shares = {
        kind: captured([first], [second], meet([first], [second], make_plan((8,), dtype=kind)).initiator)
        for kind in (Dtype.FP32, dtype)
    }

    assert shares[dtype] > 0.94 * shares[Dtype.FP32]


def test_power_iterations_capture_more() -> None:
    """Each further round trip comes nearer to the best subspace, and never beyond it."""
    first, second = decaying_pair(torch.Generator().manual_seed(12), 60, 40, 0.95)
    omega = rademacher(SEED, 0, 40, 5)
    difference = first - second

    left = [_energy_left(difference, reference_power_projection(first, second, omega, k)) for k in range(4)]

    best = float(torch.linalg.svdvals(difference.double())[5:].square().sum() / difference.double().square().sum())
    assert left == sorted(left, reverse=True)
    assert left[0] > left[3] + 0.02
    assert left[3] >= best - 1e-9


@pytest.mark.parametrize("dtype", Dtype)
def test_a_basis_that_knows_the_difference_captures_more(dtype: Dtype) -> None:
    """CACHED: the right factor of an earlier correction beats a fresh random start, and travels in any format."""
    first, second = decaying_pair(torch.Generator().manual_seed(13), 60, 40, 0.9)
    seeded = meet([first], [second], make_plan((5,), dtype=dtype)).initiator

    cached = meet(
        [first], [second], make_plan((5,), dtype=dtype, omega=Omega.CACHED), bytes(32), bases=right_factors(seeded)
    ).initiator

    assert captured([first], [second], cached) > captured([first], [second], seeded)


def test_displacement_finds_the_difference_that_it_caused() -> None:
    """DISPLACEMENT: an initiator that moved along few directions looks there, and finds its half of the difference."""
    generator = torch.Generator().manual_seed(14)
    start = torch.randn(60, 40, generator=generator)
    steps = [_steep(generator) for _ in range(2)]
    first, second = start + steps[0], start + steps[1]
    plan = make_plan((8,), omega=Omega.DISPLACEMENT)

    bases = main_directions([steps[0]], plan.ranks, SEED)
    found = captured([first], [second], meet([first], [second], plan, bases=bases).initiator)

    assert found > 0.6


def _steep(generator: torch.Generator) -> Tensor:
    first, second = decaying_pair(generator, 60, 40, 0.6)
    return first - second


def test_right_factors_are_an_ordered_basis_of_the_rows() -> None:
    """Orthogonal, the main direction first and shortest, so that C sends each to the same length, and spanning the rows of C."""
    first, second = decaying_pair(torch.Generator().manual_seed(15), 30, 20, 0.7)
    correction = meet([first, first[0]], [second, second[0]], make_plan((4, -1))).initiator

    basis, nothing = right_factors(correction)

    assert nothing is None
    assert basis is not None
    C = materialise(correction, [(30, 20), (20,)])[0]
    lengths = basis.norm(dim=0)
    unit = basis / lengths
    assert torch.allclose(unit.T @ unit, torch.eye(4), atol=1e-5)
    assert torch.allclose(C @ unit @ unit.T, C, atol=1e-5)
    assert torch.equal(lengths, lengths.sort().values)
    assert torch.allclose((C @ basis).norm(dim=0), C.norm().expand(4), rtol=0.05)


def test_a_basis_with_too_few_columns_is_filled_up() -> None:
    """One known direction and rank 4: three random ones beside it find more than it alone."""
    first, second = decaying_pair(torch.Generator().manual_seed(16), 30, 20, 0.9)
    known = torch.zeros(20, 1)
    known[0] = 1.0
    plans = {rank: make_plan((rank,), omega=Omega.CACHED) for rank in (1, 4)}

    found = {
        r: captured([first], [second], meet([first], [second], p, bases=[known]).initiator) for r, p in plans.items()
    }

    assert found[4] > 2 * found[1] > 0


def test_noise_is_not_amplified() -> None:
    """Of a nearly rank-deficient basis all columns are at most of length 1, so what rounding adds to dZ adds no more to C."""
    generator = torch.Generator().manual_seed(17)
    first, second = decaying_pair(generator, 50, 50, 0.2)

    part = meet([first], [second], make_plan((12,), dtype=Dtype.INT8)).initiator.parts[0]

    assert isinstance(part, Factors)
    assert float(part.a.norm(dim=0).max()) <= 1.0 + 1e-5
    assert captured([first], [second], meet([first], [second], make_plan((12,), dtype=Dtype.INT8)).initiator) > 0.98
