"""The choice of ranks: inside the budget, where the energy is, and nobody waits for ever; and how large differences are believed to be."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.algo.budget import EnergyModel, choose_counts
from lowcomm_node.algo.shapes import matrix_shape, max_paying_rank
from lowcomm_node.algo.sizes import part_bytes
from lowcomm_node.units import Codec, Dtype, Omega
from tests.algo.swarm_of_tensors import captured, decaying_pair, make_plan, meet

_GPT = ((256, 96), (96,), (96, 288), (96, 96), (96,), (256, 96), (96, 256), (96,), (256, 96))

_shapes = st.lists(st.lists(st.integers(1, 40), min_size=0, max_size=3).map(tuple), min_size=1, max_size=8)


def _geometric(ranks: tuple[int, ...], energies: list[float], decay: float) -> list[tuple[float, ...] | None]:
    """The spectra a meeting would show when tensor k's difference has total energy energies[k]."""
    spectra: list[tuple[float, ...] | None] = []
    for rank, energy in zip(ranks, energies, strict=True):
        if rank == 0:
            spectra.append(None)
        elif rank < 0:
            spectra.append((energy,))
        else:
            spectra.append(tuple(energy * (1 - decay) * decay**k for k in range(rank)))
    return spectra


@given(
    shapes=_shapes,
    budgets=st.lists(st.integers(0, 20_000), min_size=1, max_size=4),
    dtype=st.sampled_from(Dtype),
    omega=st.sampled_from(Omega),
    seed=st.lists(st.floats(0, 1e30), min_size=8, max_size=8),
)
def test_never_over_budget(
    shapes: list[tuple[int, ...]], budgets: list[int], dtype: Dtype, omega: Omega, seed: list[float]
) -> None:
    """Whatever was learnt, the busier end's payload fits, and the plan is one that can be carried out."""
    model = EnergyModel(shapes)
    for budget in budgets:
        ranks = model.choose_ranks(budget, dtype, omega)

        assert part_bytes(shapes, make_plan(ranks, dtype=dtype, omega=omega)).largest_direction <= budget
        for shape, rank in zip(shapes, ranks, strict=True):
            matrix = matrix_shape(shape)
            assert rank <= (0 if matrix is None else max_paying_rank(*matrix))
        model.observe(ranks, _geometric(ranks, seed[: len(shapes)], 0.7))


def test_deterministic() -> None:
    """The same history gives the same ranks."""
    first, second = EnergyModel(_GPT), EnergyModel(_GPT)

    for budget in (5000, 9000, 30_000):
        ranks = first.choose_ranks(budget, Dtype.BF16)
        assert second.choose_ranks(budget, Dtype.BF16) == ranks
        for model in (first, second):
            model.observe(ranks, _geometric(ranks, [1.0] * len(_GPT), 0.8))


def test_everything_dense_when_there_is_room() -> None:
    """A budget for the whole model is spent on the whole model."""
    assert EnergyModel(_GPT).choose_ranks(10**9, Dtype.FP32) == (-1,) * len(_GPT)


def test_budget_is_used() -> None:
    """What is left over would not have bought another rank of anything."""
    ranks = EnergyModel(_GPT).choose_ranks(32_768, Dtype.BF16)

    spent = part_bytes(_GPT, make_plan(ranks, dtype=Dtype.BF16)).largest_direction
    assert 32_768 - spent < 2 * (96 + 96)
    assert all(rank == -1 for shape, rank in zip(_GPT, ranks, strict=True) if len(shape) == 1)


def test_bytes_go_where_the_energy_is() -> None:
    """A tensor whose difference is a hundred times larger than its twin's gets the higher rank."""
    shapes = ((64, 64), (64, 64))
    model = EnergyModel(shapes)

    for _ in range(5):
        ranks = model.choose_ranks(128 * 10 * 4, Dtype.FP32)
        model.observe(ranks, _geometric(ranks, [100.0, 1.0], 0.8))
    ranks = model.choose_ranks(128 * 10 * 4, Dtype.FP32)

    assert ranks[0] > ranks[1]


def test_steep_spectra_take_fewer_ranks() -> None:
    """Of two tensors with equal energy the one whose spectrum falls slowly is given more ranks."""
    shapes = ((200, 200), (200, 200))
    model = EnergyModel(shapes)

    for _ in range(8):
        ranks = model.choose_ranks(400 * 20 * 4, Dtype.FP32)
        spectra = [_geometric((rank,), [1.0], decay)[0] for rank, decay in zip(ranks, (0.5, 0.95), strict=True)]
        model.observe(ranks, spectra)
    ranks = model.choose_ranks(400 * 20 * 4, Dtype.FP32)

    assert 0 < ranks[0] < ranks[1]


def test_flat_spectra_go_dense() -> None:
    """Where every direction holds as much, the whole matrix costs less per energy than its factors."""
    model = EnergyModel(((40, 40),))
    for _ in range(12):
        model.observe((9,), [(1.0,) * 9])

    assert model.choose_ranks(40 * 40 * 4, Dtype.FP32) == (-1,)
    assert model.choose_ranks(40 * 40 * 4 - 1, Dtype.FP32)[0] > 0


@pytest.mark.parametrize("energies", [[1e6, 1.0, 1e-3, 1e-6], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
def test_nobody_starves(energies: list[float]) -> None:
    """With room for one rank of one tensor per meeting, even the one that hardly differs has its turn, again and again."""
    shapes = ((50, 50),) * 4
    model = EnergyModel(shapes)
    turns = [0] * 4

    for _ in range(2000):
        ranks = model.choose_ranks(100 * 4, Dtype.FP32)
        model.observe(ranks, _geometric(ranks, energies, 0.8))
        for index, rank in enumerate(ranks):
            turns[index] += rank != 0

    assert min(turns) >= 3
    assert sum(turns) == 2000
    assert max(turns) == turns[0] or energies[0] == 0.0


def test_vectors_give_way_when_they_would_lock_a_matrix_out() -> None:
    """Room for the vector or for a rank of the matrix, never both: they take turns."""
    model = EnergyModel(((90,), (50, 50)))
    seen = set()

    for _ in range(50):
        ranks = model.choose_ranks(150 * 4, Dtype.FP32)
        seen.add(ranks)
        model.observe(ranks, _geometric(ranks, [1.0, 1.0], 0.8))

    assert seen == {(-1, 0), (0, 1)}


def test_small_budget_takes_the_best_vector() -> None:
    """When not even the vectors fit, the one with most energy per byte goes."""
    model = EnergyModel(((10,), (10,)))
    model.observe((-1, -1), [(1.0,), (9.0,)])

    assert model.choose_ranks(40, Dtype.FP32) == (0, -1)
    assert model.choose_ranks(39, Dtype.FP32) == (0, 0)


def test_one_monstrous_difference_is_soon_forgotten() -> None:
    """A partner that is absurdly far off in one tensor does not claim the budget for long; NaN teaches nothing."""
    shapes = ((50, 50), (50, 50))
    model = EnergyModel(shapes)
    for _ in range(10):
        model.observe((1, 1), [(1.0,), (1.0,)])

    model.observe((1, 1), [(1e30,), (float("nan"),)])
    turns = [0, 0]
    for _ in range(20):
        ranks = model.choose_ranks(2 * 100 * 4, Dtype.FP32)
        model.observe(ranks, _geometric(ranks, [10.0, 10.0], 0.9))
        turns = [count + rank for count, rank in zip(turns, ranks, strict=True)]

    assert min(turns) >= 10


def test_wrong_lengths_are_refused() -> None:
    """Ranks and spectra belong to the tensors."""
    with pytest.raises(ValueError, match="1 ranks and 1 spectra for 2 tensors"):
        EnergyModel(((4, 4), (4,))).observe((1,), [None])


@given(shapes=_shapes, budget=st.integers(0, 20_000), dtype=st.sampled_from(Dtype))
def test_sparse_counts_fit_and_are_fair(shapes: list[tuple[int, ...]], budget: int, dtype: Dtype) -> None:
    """Inside the budget, and tensors that take part give about the same share, at least one number."""
    ranks = choose_counts(shapes, budget, dtype)

    assert part_bytes(shapes, make_plan(ranks, codec=Codec.SPARSE, dtype=dtype)).largest_direction <= budget
    sizes = [math.prod(shape) for shape in shapes]
    shares = [((rank if rank > 0 else size) / size, 1 / size) for rank, size in zip(ranks, sizes, strict=True) if rank]
    for share, grain in shares:
        for other, other_grain in shares:
            assert share >= other - grain - other_grain


def test_sparse_counts_use_the_budget() -> None:
    """Everything when there is room, else nearly all of the budget; and the last tensors go first when nothing fits."""
    assert choose_counts(_GPT, 10**9, Dtype.INT8) == (-1,) * len(_GPT)
    ranks = choose_counts(_GPT, 32_768, Dtype.BF16)
    assert 0 <= 32_768 - part_bytes(_GPT, make_plan(ranks, codec=Codec.SPARSE, dtype=Dtype.BF16)).largest_direction < 64
    assert all(rank >= 1 for rank in ranks)
    assert choose_counts(_GPT, 8, Dtype.FP32) == (1, 1, 0, 0, 0, 0, 0, 0, 0)


def test_whole_tensors_count_with_their_zeros() -> None:
    """997 numbers are rotated with 27 zeros: where these do not fit a few coordinates less are met, not the whole."""
    exact = part_bytes([(997,)], make_plan((-1,), dtype=Dtype.INT8)).largest_direction

    assert exact == 1 + 2 * 16 + 1024
    assert choose_counts([(997,)], exact, Dtype.INT8) == (-1,)
    assert choose_counts([(997,)], exact - 1, Dtype.INT8) == (996,)


def test_ranges_are_the_rms_that_was_seen() -> None:
    """Energy over numbers, of tensors sent whole or in part; more the longer one waited; unknown until then."""
    model = EnergyModel(((10, 10), (4,), (10, 10)))
    assert not model.knows((-1, 0, 0))

    model.observe((-1, -1, 0), [(400.0,), (36.0,), None])

    assert model.ranges()[:2] == pytest.approx((2.0, 3.0))
    assert model.knows((-1, 1, 0))
    assert not model.knows((0, 0, 1))
    model.observe((0, -1, 0), [None, (36.0,), None])
    assert model.ranges()[:2] == pytest.approx((2.0 * math.sqrt(2), 3.0))


def test_the_energy_of_a_difference_is_that_of_its_parts() -> None:
    """Of whole tensors the sum; what was left out or void counts as the average number; directions count for what they leave, too."""
    model = EnergyModel(((10, 10), (100,), (200,)))

    assert model.estimate((-1, -1, -1), [(4.0,), (2.0,), (2.0,)]) == pytest.approx(8.0)
    assert model.estimate((-1, -1, 0), [(4.0,), (2.0,), None]) == pytest.approx(12.0)
    assert model.estimate((2, -1, -1), [(3.0, 1.0), (2.0,), (2.0,)]) > 8.0
    assert math.isnan(model.estimate((0, -1, 0), [None, None, None]))


def test_a_void_tensor_is_believed_to_differ_more() -> None:
    """Four times in size, and only where something was planned; absurdly often does not overflow."""
    model = EnergyModel(((4,), (4,)))
    model.observe((-1, -1), [(4.0,), (4.0,)])

    model.observe((-1, 0), [None, None])

    waited = math.sqrt(2)
    assert model.ranges() == pytest.approx((4.0 * waited, 1.0 * waited))
    for _ in range(500):
        model.observe((-1, 0), [None, None])
    assert all(0 < value < 1e38 for value in model.ranges())


@pytest.mark.parametrize("dtype", [Dtype.INT8, Dtype.INT4])
@pytest.mark.parametrize("ranks", [(-1,), (8,)])
@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_beliefs_recover(dtype: Dtype, ranks: tuple[int, ...], factor: float) -> None:
    """A difference a hundred times larger than believed is soon met as well as ever, and harms nobody meanwhile; one far smaller as well."""
    plan = make_plan(ranks, dtype=dtype)
    model = EnergyModel(((60, 40),))
    generator = torch.Generator().manual_seed(31)
    shares = []
    for meeting in range(40):
        first, second = decaying_pair(generator, 60, 40, 0.8, 0.001 * (1.0 if meeting < 2 else factor))
        if meeting < 2:
            model.observe((-1,), [(float((first - second).square().sum()),)])
            continue
        outcome = meet([first], [second], plan, bytes([meeting]) * 32, ranges=model.ranges())
        shares.append(captured([first], [second], outcome.initiator))
        model.observe(ranks, outcome.initiator.spectra())

    within = 6 if factor > 1 else 30
    assert min(shares) > -0.3
    usual = {Dtype.INT8: 0.95, Dtype.INT4: 0.92}[dtype] if ranks == (-1,) else 0.75
    assert min(shares[within:]) > usual
    if factor > 1:
        assert shares[0] < 0.3


def test_partners_that_call_everything_void_blind_nobody_for_long() -> None:
    """Voids widen ranges until a difference fits; what it was like then counts, and not how often somebody has said void."""
    model = EnergyModel([(8, 8)])
    model.observe([-1], [(64.0,)])
    for _ in range(10):
        for _ in range(2):
            model.observe([-1], [None])
        assert model.ranges()[0] >= 16
        model.observe([-1], [(64.0,)])

    assert model.ranges()[0] == pytest.approx(1.0)


def test_voids_reach_any_difference() -> None:
    """A difference a thousand times larger than believed is reached after five voids, and believed at once."""
    model = EnergyModel([(8, 8)])
    model.observe([-1], [(64.0,)])
    for _ in range(5):
        model.observe([-1], [None])
    assert model.ranges()[0] >= 1000
    model.observe([-1], [(64e6,)])

    assert model.ranges()[0] >= 500


def test_what_was_learnt_can_be_taken_to_the_next_life() -> None:
    """Ranges, choices and later learning are the same; anything that is not of these tensors is refused."""
    shapes = ((64, 32), (32,), (16, 8))
    before = EnergyModel(shapes)
    before.observe((2, -1, 0), ((3.0, 1.0), (0.5,), None))
    before.observe((2, -1, 1), ((2.0, 1.0), (0.25,), None))

    after = EnergyModel(shapes)
    after.recall(before.export())

    assert after.export() == before.export()
    for model in (before, after):
        model.observe((2, -1, 1), ((1.0, 0.5), (0.25,), (7.0,)))
    assert after.ranges() == before.ranges()
    assert after.choose_ranks(2000, Dtype.BF16) == before.choose_ranks(2000, Dtype.BF16)
    for change in ({"energy": [1.0]}, {"energy": [1.0, -1.0, 1.0]}, {"decay": [1.0, 1.0, math.nan]}, {"more": [1.0]}):
        with pytest.raises(ValueError, match=r"another form|not finite"):
            EnergyModel(shapes).recall({**before.export(), **change})
