"""core.micro_batches: as few parts as memory allows, whatever it does."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.core.micro_batches import MicroBatches, fitting_parts, more_micro_batches


@pytest.mark.parametrize(
    ("now", "batch_size", "more"), [(1, 1, None), (1, 2, 2), (4, 6, 6), (6, 6, None), (9, 6, None)]
)
def test_more_micro_batches(now: int, batch_size: int, more: int | None) -> None:
    """Twice as many, at most one per example."""
    assert more_micro_batches(now, batch_size) == more


@given(example=st.integers(1, 10**9), batch_size=st.integers(1, 512), room=st.integers(0, 10**11))
def test_expected_parts_fit_and_half_as_many_would_not(example: int, batch_size: int, room: int) -> None:
    """The least number by doubling; one example at a time where nothing fits."""
    parts = fitting_parts(example, batch_size, room)

    def takes(parts: int) -> int:
        return example * -(-batch_size // parts)

    assert takes(parts) <= room or parts == batch_size
    if parts > 1:
        smaller = next(p for p in (2**n for n in range(20)) if more_micro_batches(p, batch_size) == parts)
        assert takes(smaller) > room


@given(batch_size=st.integers(1, 64), fits=st.lists(st.integers(1, 64), min_size=1, max_size=20))
def test_whatever_memory_does_a_batch_is_taken_when_one_example_fits(batch_size: int, fits: list[int]) -> None:
    """Examples that fit change all the time: steps succeed, with never more parts than examples."""
    parts = MicroBatches(1, may_shrink=True)
    for room in fits:
        for _ in range(120):
            while -(-batch_size // parts.parts) > room:
                assert parts.fell_short(batch_size)
            assert 1 <= parts.parts <= batch_size
            parts.fitted()


def test_memory_that_comes_back_is_used_again() -> None:
    """From 8 parts to the 2 of the start, and no further."""
    parts = MicroBatches(2, may_shrink=True)
    assert [parts.fell_short(16) and parts.parts for _ in range(2)] == [4, 8]

    seen = []
    for _ in range(1000):
        seen.append(parts.parts)
        parts.fitted()

    assert [seen[0], *(b for a, b in pairwise(seen) if a != b)] == [8, 4, 2]


def test_memory_that_stays_away_is_tried_ever_more_rarely() -> None:
    """Each try costs a step: in ten thousand steps there are six."""
    parts = MicroBatches(1, may_shrink=True)
    parts.fell_short(8)
    tries = 0
    for _ in range(10_000):
        if parts.parts == 1:
            tries += 1
            assert parts.fell_short(8)
            assert parts.parts == 2
        parts.fitted()

    assert tries == 6


def test_where_a_full_memory_ends_the_process_nothing_is_tried() -> None:
    """On a CPU the kernel gives no error to catch."""
    parts = MicroBatches(1, may_shrink=False)
    parts.fell_short(8)
    for _ in range(1000):
        parts.fitted()

    assert parts.parts == 2


def test_the_smallest_part_is_one_example() -> None:
    """Then memory that runs out is somebody else's to judge."""
    parts = MicroBatches(1, may_shrink=True)

    assert not parts.fell_short(1)
    assert parts.fell_short(2)
    assert not parts.fell_short(2)
