"""The choice of ranks: inside the budget, where the energy is, and nobody waits for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.algo.budget import EnergyModel
from lowcomm_node.algo.exchange import part_bytes
from lowcomm_node.algo.shapes import matrix_shape, max_paying_rank
from lowcomm_node.units import Dtype
from tests.algo.swarm_of_tensors import make_plan

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
    seed=st.lists(st.floats(0, 1e30), min_size=8, max_size=8),
)
def test_never_over_budget(shapes: list[tuple[int, ...]], budgets: list[int], dtype: Dtype, seed: list[float]) -> None:
    """Whatever was learnt, the busier end's payload fits, and the plan is one that can be carried out."""
    model = EnergyModel(shapes)
    for budget in budgets:
        ranks = model.choose_ranks(budget, dtype.itemsize)

        assert part_bytes(shapes, make_plan(ranks, dtype=dtype)).largest_direction <= budget
        for shape, rank in zip(shapes, ranks, strict=True):
            matrix = matrix_shape(shape)
            assert rank <= (0 if matrix is None else max_paying_rank(*matrix))
        model.observe(ranks, _geometric(ranks, seed[: len(shapes)], 0.7))


def test_deterministic() -> None:
    """The same history gives the same ranks."""
    first, second = EnergyModel(_GPT), EnergyModel(_GPT)

    for budget in (5000, 9000, 30_000):
        ranks = first.choose_ranks(budget, 2)
        assert second.choose_ranks(budget, 2) == ranks
        for model in (first, second):
            model.observe(ranks, _geometric(ranks, [1.0] * len(_GPT), 0.8))


def test_everything_dense_when_there_is_room() -> None:
    """A budget for the whole model is spent on the whole model."""
    assert EnergyModel(_GPT).choose_ranks(10**9, 4) == (-1,) * len(_GPT)


def test_budget_is_used() -> None:
    """What is left over would not have bought another rank of anything."""
    ranks = EnergyModel(_GPT).choose_ranks(32_768, 2)

    spent = part_bytes(_GPT, make_plan(ranks, dtype=Dtype.BF16)).largest_direction
    assert 32_768 - spent < 2 * (96 + 96)
    assert all(rank == -1 for shape, rank in zip(_GPT, ranks, strict=True) if len(shape) == 1)


def test_bytes_go_where_the_energy_is() -> None:
    """A tensor whose difference is a hundred times larger than its twin's gets the higher rank."""
    shapes = ((64, 64), (64, 64))
    model = EnergyModel(shapes)

    for _ in range(5):
        ranks = model.choose_ranks(128 * 10 * 4, 4)
        model.observe(ranks, _geometric(ranks, [100.0, 1.0], 0.8))
    ranks = model.choose_ranks(128 * 10 * 4, 4)

    assert ranks[0] > ranks[1]


def test_steep_spectra_take_fewer_ranks() -> None:
    """Of two tensors with equal energy the one whose spectrum falls slowly is given more ranks."""
    shapes = ((200, 200), (200, 200))
    model = EnergyModel(shapes)

    for _ in range(8):
        ranks = model.choose_ranks(400 * 20 * 4, 4)
        spectra = [_geometric((rank,), [1.0], decay)[0] for rank, decay in zip(ranks, (0.5, 0.95), strict=True)]
        model.observe(ranks, spectra)
    ranks = model.choose_ranks(400 * 20 * 4, 4)

    assert 0 < ranks[0] < ranks[1]


def test_flat_spectra_go_dense() -> None:
    """Where every direction holds as much, the whole matrix costs less per energy than its factors."""
    model = EnergyModel(((40, 40),))
    for _ in range(12):
        model.observe((9,), [(1.0,) * 9])

    assert model.choose_ranks(40 * 40 * 4, 4) == (-1,)
    assert model.choose_ranks(40 * 40 * 4 - 1, 4)[0] > 0


@pytest.mark.parametrize("energies", [[1e6, 1.0, 1e-3, 1e-6], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
def test_nobody_starves(energies: list[float]) -> None:
    """With room for one rank of one tensor per meeting, even the one that hardly differs has its turn, again and again."""
    shapes = ((50, 50),) * 4
    model = EnergyModel(shapes)
    turns = [0] * 4

    for _ in range(2000):
        ranks = model.choose_ranks(100 * 4, 4)
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
        ranks = model.choose_ranks(150 * 4, 4)
        seen.add(ranks)
        model.observe(ranks, _geometric(ranks, [1.0, 1.0], 0.8))

    assert seen == {(-1, 0), (0, 1)}


def test_small_budget_takes_the_best_vector() -> None:
    """When not even the vectors fit, the one with most energy per byte goes."""
    model = EnergyModel(((10,), (10,)))
    model.observe((-1, -1), [(1.0,), (9.0,)])

    assert model.choose_ranks(40, 4) == (0, -1)
    assert model.choose_ranks(39, 4) == (0, 0)


def test_one_monstrous_difference_is_soon_forgotten() -> None:
    """A partner that is absurdly far off in one tensor does not claim the budget for long; NaN teaches nothing."""
    shapes = ((50, 50), (50, 50))
    model = EnergyModel(shapes)
    for _ in range(10):
        model.observe((1, 1), [(1.0,), (1.0,)])

    model.observe((1, 1), [(1e30,), (float("nan"),)])
    turns = [0, 0]
    for _ in range(20):
        ranks = model.choose_ranks(2 * 100 * 4, 4)
        model.observe(ranks, _geometric(ranks, [10.0, 10.0], 0.9))
        turns = [count + rank for count, rank in zip(turns, ranks, strict=True)]

    assert min(turns) >= 10


def test_wrong_lengths_are_refused() -> None:
    """Ranks and spectra belong to the tensors."""
    with pytest.raises(ValueError, match="1 ranks and 1 spectra for 2 tensors"):
        EnergyModel(((4, 4), (4,))).observe((1,), [None])
