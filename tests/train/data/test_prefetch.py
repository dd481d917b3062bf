"""Batches made ahead by a thread."""

import threading

import pytest
import torch
from torch import Tensor

from lowcomm_node.train.data.prefetch import Prefetch
from tests.train.batches import one_tensor

_PATIENCE_S = 60.0


class Numbers:
    """Batch k holds k, and is made only when ``allowed``."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.fails_at: int | None = None
        self.allowed = threading.Event()
        self.allowed.set()
        self.is_full = threading.Event()
        self.full_at = 10**9

    def batch(self, index: int) -> Tensor:
        assert self.allowed.wait(_PATIENCE_S)
        self.made.append(index)
        if len(self.made) >= self.full_at:
            self.is_full.set()
        if index == self.fails_at:
            raise ValueError(f"batch {index}")
        return torch.tensor(index)


def test_each_batch_is_its_own() -> None:
    """In order, after jumps forward and back, and when one is asked for again: batch k is always batch k."""
    batches = Prefetch(Numbers())
    wanted = [0, 1, 2, 3, 4, 5, 900, 901, 902, 3, 4, 3, 3, 8, 7, *range(20, 60), 64, 65]

    assert [int(one_tensor(batches.batch(index))) for index in wanted] == wanted

    batches.close()


def test_a_few_are_made_ahead_and_no_more() -> None:
    """The thread works while nobody asks, up to its depth, in the strides of a node with several devices."""
    numbers = Numbers()
    numbers.full_at = 4
    batches = Prefetch(numbers, stride=2, depth=3)

    assert int(one_tensor(batches.batch(10))) == 10
    assert numbers.is_full.wait(_PATIENCE_S)
    batches.close()

    assert numbers.made == [10, 12, 14, 16]


def test_failures_come_out_where_the_batch_is_asked_for() -> None:
    """Not before, and what comes after can still be had."""
    numbers = Numbers()
    numbers.fails_at = 2
    batches = Prefetch(numbers)

    assert [int(one_tensor(batches.batch(index))) for index in (0, 1)] == [0, 1]
    with pytest.raises(ValueError, match="batch 2"):
        batches.batch(2)
    assert int(one_tensor(batches.batch(3))) == 3

    batches.close()


def test_close_leaves_no_thread() -> None:
    """In the middle of a batch, when full, and when nothing was ever asked for."""
    busy, unused = Numbers(), Prefetch(Numbers())
    batches = Prefetch(busy)
    batches.batch(0)
    busy.allowed.clear()
    closing = threading.Thread(target=batches.close)
    closing.start()
    busy.allowed.set()

    closing.join(_PATIENCE_S)
    unused.close()

    assert [thread.name for thread in threading.enumerate() if thread.name == "prefetch"] == []
