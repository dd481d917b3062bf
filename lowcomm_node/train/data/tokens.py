"""Token ids, in memory or mapped from files, and the windows that are cut out of them."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from lowcomm_node.errors import DataError

__all__ = ["Tokens"]


class Tokens:
    """Token ids in one or several parts. A window never reaches from one part into the next.

    Nobody needs to have looked at all of a file: a window that holds an id the model has no embedding for is a DataError.
    """

    def __init__(self, *parts: Tensor, vocab_size: int = 256, names: Sequence[str] = ()) -> None:
        """``parts`` are 1-D tensors of unsigned integers; ``names`` say of each where it comes from, for error texts."""
        self._parts = parts
        self._names = names
        self._vocab_size = vocab_size
        self._is_checked = [torch.iinfo(part.dtype).max >= vocab_size for part in parts]
        self._ends: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The parts themselves."""
        return self._parts

    def at(self, index: int) -> "Tokens":  # noqa: ARG002 - a pool's differ from batch to batch
        """What batch ``index`` is drawn from."""
        return self

    def num_windows(self, length: int) -> int:
        """Windows of ``length`` tokens that can be cut out, overlapping ones included."""
        return self._ends_of(length)[-1] if self._parts else 0

    def windows(self, numbers: Sequence[int], length: int) -> Tensor:
        """int64 ``(len(numbers), length)``: windows by number, from 0 to ``num_windows(length)`` - 1.

        Raises DataError for an id of ``vocab_size`` or more.
        """
        ends = self._ends_of(length)
        batch = torch.empty(len(numbers), length, dtype=torch.int64)
        for row, number in zip(batch, numbers, strict=True):
            part = bisect_right(ends, number)
            start = number - (ends[part - 1] if part else 0)
            row.copy_(self._parts[part][start : start + length])
            if self._is_checked[part] and (largest := int(row.max())) >= self._vocab_size:
                raise DataError(self._too_large(part, largest))
        return batch

    def check_beginnings(self, count: int = 4096) -> None:
        """Look at the first tokens of each part. Raises DataError for an id of ``vocab_size`` or more."""
        for index, part in enumerate(self._parts):
            if self._is_checked[index] and (largest := int(part[:count].long().max())) >= self._vocab_size:
                raise DataError(self._too_large(index, largest))

    def _too_large(self, part: int, largest: int) -> str:
        name = self._names[part] if self._names else "the text"
        return (
            f"{name}: holds token {largest}, but model.vocab_size = {self._vocab_size}; it was made with another tokenizer "
            "than the run's, or is no file of tokens"
        )

    def _ends_of(self, length: int) -> list[int]:
        if length not in self._ends:
            self._ends[length] = list(accumulate(max(0, len(part) - length + 1) for part in self._parts))
        return self._ends[length]
