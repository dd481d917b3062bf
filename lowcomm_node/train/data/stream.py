"""A reproducible sequence of batches for each node, and fixed validation windows for all."""

import hashlib
from typing import Protocol

from torch import Tensor

from lowcomm_node.train.data.tokens import Tokens
from lowcomm_node.units import PeerId, RunId

__all__ = ["Source", "Stream", "first_batch_at", "validation_batches"]

_BATCHES_PER_STEP = 1 << 20
"""More than a node takes while the run goes on by a step, however fast it is; and below 2^53 for the longest run."""


class Source(Protocol):
    """What a stream draws from: tokens that stay as they are, or a pool that grows (``pool.Pool``)."""

    def at(self, index: int) -> Tokens:
        """What batch ``index`` is drawn from, the same whenever it is asked."""

    def __len__(self) -> int: ...


class Stream:
    """One node's endless sequence of training batches.

    Batch ``k`` depends on nothing but (run id, peer id, k) and the tokens, so resuming needs only ``k``.
    Windows are drawn with SHAKE-256, which is the same on every machine and library version.
    """

    def __init__(self, source: Source, batch_size: int, context_length: int, run_id: RunId, peer_id: PeerId) -> None:
        self._source = source
        self._batch_size = batch_size
        self._length = context_length + 1
        self._name = f"lowcomm/v1/batch|{run_id}|{peer_id}|".encode()

    def batch(self, index: int) -> Tensor:
        """int64 ``(batch_size, context_length + 1)``: inputs are ``[:, :-1]``, targets ``[:, 1:]``.

        Raises DataError for a token that the model does not know.
        """
        tokens = self._source.at(index)
        num_windows = tokens.num_windows(self._length)
        digest = hashlib.shake_256(self._name + str(index).encode()).digest(8 * self._batch_size)
        numbers = [
            int.from_bytes(digest[8 * row : 8 * row + 8], "little") % num_windows for row in range(self._batch_size)
        ]
        return tokens.windows(numbers, self._length)


def first_batch_at(progress_steps: float) -> int:
    """Index of the first batch of a node that begins with a donor's state.

    It may have trained in this run before, and lost what it knew of that: from batch 0 it would train on the same text again,
    after each return.
    """
    return int(progress_steps) * _BATCHES_PER_STEP


def validation_batches(tokens: Tokens, batch_size: int, context_length: int, num_batches: int) -> tuple[Tensor, ...]:
    """The same evenly spaced windows for every node that holds out the same text.

    int64 ``(rows, context_length + 1)`` each; fewer rows or batches when the text is short, so that no window is
    counted twice. Raises DataError for a token that the model does not know.
    """
    length = context_length + 1
    num_windows = max(1, min(batch_size * num_batches, (len(tokens) - 1) // context_length))
    last = tokens.num_windows(length) - 1
    numbers = [row * last // max(1, num_windows - 1) for row in range(num_windows)]
    return tuple(
        tokens.windows(numbers[first : first + batch_size], length) for first in range(0, num_windows, batch_size)
    )
