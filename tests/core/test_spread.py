"""core.spread: how far members lie apart, from sketches of different moments."""

import itertools
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.algo.consensus import count_sketch, spread
from lowcomm_node.core.spread import MOST_SKETCHES, MarkedSketch, kept, spread_of
from lowcomm_node.wire.vitals import fold


def _told(value: float, *marks: int) -> tuple[MarkedSketch, ...]:
    return tuple(MarkedSketch(mark, (value,) + (0.0,) * 15) for mark in marks)


def test_it_is_the_spread_of_the_algorithms() -> None:
    """The same formula without tensors; and near the true spread of replicas, as a sketch can be."""
    generator = torch.Generator().manual_seed(0)
    replicas = [torch.randn(4000, generator=generator) * 0.1 + 1.0 for _ in range(12)]
    folded = [fold(count_sketch([replica]).tolist()) for replica in replicas]

    estimate = spread_of([(MarkedSketch(1, sums),) for sums in folded], 4000)

    of_sketches = spread([{"x": torch.tensor(sums)} for sums in folded]) * math.sqrt(16 / 4000)
    assert estimate == pytest.approx(of_sketches, rel=1e-4)
    assert math.isclose(estimate, spread([{"x": replica} for replica in replicas]), rel_tol=0.35)


def test_only_sketches_of_one_mark_are_compared() -> None:
    """How far a node has come is no spread: the newest mark that half of them have, or else the one that most have."""
    alike = spread_of([_told(1.0, 3), _told(2.0, 3)], 100)
    assert alike == pytest.approx(0.5 / 10)
    assert spread_of([_told(1000.0, 4), _told(1.0, 3), _told(2.0, 3)], 100) == pytest.approx(
        alike * math.sqrt(2 * 2 / 3)
    )
    assert spread_of([_told(1.0, 4), _told(2.0, 4), _told(7.0, 3), _told(70.0, 3)], 100) == pytest.approx(
        alike * math.sqrt(2 * 3 / 4)
    )
    # Seven members: at the newest mark two, at a coarse one all. Six at a mark are more than half, so it need not be that old.
    two = [_told(50.0, 35, 32), _told(51.0, 35, 32)]
    at_all = spread_of([*two, *(_told(0.0, 40 + i, 32) for i in range(5))], 100)
    assert at_all == pytest.approx(statistics.pstdev([50.0, 51.0, 0.0, 0.0, 0.0, 0.0, 0.0]) / 10)
    six = [_told(float(i % 2), 35, 32) for i in range(6)]
    assert spread_of([*six, _told(1000.0, 36, 32)], 100) == pytest.approx(alike * math.sqrt(6 / 5 * 6 / 7))


def test_nothing_in_common_is_nothing_known() -> None:
    """A single member, members at different marks, members that tell none."""
    assert spread_of([], 100) == spread_of([(), ()], 100) == spread_of([_told(1.0, 3), ()], 100) == 0.0
    assert spread_of([_told(1.0, 4), _told(1.0, 3)], 100) == 0.0
    assert spread_of([_told(1.0, 3), _told(9.0, 3)], 0) == 0.0


def test_one_mark_counts_once_for_a_member() -> None:
    """Whatever it tells: twice the same mark is the newer of the two, and no second member."""
    assert spread_of([_told(1.0, 3) + _told(5.0, 3), ()], 100) == 0.0
    assert spread_of([_told(1.0, 3) + _told(5.0, 3), _told(2.0, 3)], 100) == pytest.approx(0.05)


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=60))
def test_the_newest_of_each_grid_is_kept(marks: list[int]) -> None:
    """Few, newest first, each as it was when it was made last; marks may be skipped, and a node may fall back behind one."""
    sketches: tuple[MarkedSketch, ...] = ()
    for made, mark in enumerate(marks):
        sketches = kept(sketches, MarkedSketch(mark, (float(made),)))

    last = {
        grid: max((made for made, mark in enumerate(marks) if mark % grid == 0), default=-1) for grid in (1, 16, 256)
    }
    expected = sorted({made for made in last.values() if made >= 0}, reverse=True)
    assert [sketch.sums[0] for sketch in sketches] == expected
    assert [sketch.mark for sketch in sketches] == [marks[made] for made in expected]
    assert len(sketches) <= MOST_SKETCHES


@pytest.mark.parametrize("marks_per_second", [0.001, 0.1, 1.0, 5.0, 50.0])
def test_it_is_known_at_any_pace(marks_per_second: float) -> None:
    """News of others is up to five seconds old. From the 256th mark on, at nine of ten looks all members have one in common.

    A swarm whose marks followed one another faster than its records told once of no spread at all.
    """
    ages = [5.0 * i / 7 for i in range(8)]
    known = 0
    looks = [(300 + 37.7 * i) / marks_per_second for i in range(100)]
    for now in looks:
        told = []
        for member, age in enumerate(ages):
            newest = int((now - age) * marks_per_second)
            sketches: tuple[MarkedSketch, ...] = ()
            for mark in range(max(0, newest - 600), newest + 1):
                sketches = kept(sketches, *_told(float(member % 2), mark))
            told.append(sketches)
        known += spread_of(told, 1) > 0.4
    assert known >= 90


@given(
    st.lists(st.floats(-10, 10), min_size=3, max_size=6, unique=True).flatmap(
        lambda values: st.tuples(st.just(values), st.integers(2, len(values)))
    )
)
def test_the_square_is_unbiased_whoever_has_passed_the_mark(drawn: tuple[list[float], int]) -> None:
    """On average over all choices of n of N members the squared estimate is the squared spread of all N: exactly, not nearly."""
    values, at_mark = drawn
    truth = spread([{"x": torch.tensor([value], dtype=torch.float64)} for value in values]) ** 2
    squares = []
    for chosen in itertools.combinations(range(len(values)), at_mark):
        # Who has not passed the mark yet stands at one of its own, so that no two of those are alike.
        told = [_told(value, 1000 if index in chosen else index) for index, value in enumerate(values)]
        squares.append(spread_of(told, 1) ** 2)

    assert sum(squares) / len(squares) == pytest.approx(truth, rel=1e-6, abs=1e-12)


def test_the_square_is_unbiased_over_the_hash() -> None:
    """From folded sketches of 300 hashes: the mean of the squares is the true one within five standard errors."""
    generator = torch.Generator().manual_seed(3)
    replicas = [torch.randn(500, generator=generator) * 0.1 + 1.0 for _ in range(5)]
    truth = spread([{"x": replica} for replica in replicas]) ** 2
    trials = 300
    squares = []
    for seed in range(trials):
        folded = [fold(count_sketch([replica], seed=seed).tolist()) for replica in replicas]
        squares.append(spread_of([(MarkedSketch(1, sums),) for sums in folded], 500) ** 2)

    ratios = torch.tensor(squares, dtype=torch.float64) / truth
    assert abs(float(ratios.mean()) - 1) < 5 * float(ratios.std()) / math.sqrt(trials)
    assert float(ratios.std()) < 2 * math.sqrt(2 / 16 / 4)
