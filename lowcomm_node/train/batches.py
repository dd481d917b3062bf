"""A batch: one tensor, or several, whose first dimension is the example.

That of a language model is int64 ``(rows, context_length + 1)``: inputs are ``[:, :-1]``, targets ``[:, 1:]``.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Batch", "BatchSource", "joined", "num_rows", "parts_of", "slice_of", "to_device"]

Batch = Tensor | tuple[Tensor, ...]


class BatchSource(Protocol):
    """A node's endless sequence of training batches."""

    def batch(self, index: int) -> Any:  # noqa: ANN401 - which kind of ``Batch``, the run's data and loss agree about
        """Batch ``index``, always the same one."""
        ...


def num_rows(batch: Batch) -> int:
    """Examples in the batch."""
    return len(batch if isinstance(batch, Tensor) else batch[0])


def slice_of(batch: Batch, first: int, end: int) -> Batch:
    """The examples from ``first`` to before ``end``."""
    return batch[first:end] if isinstance(batch, Tensor) else tuple(tensor[first:end] for tensor in batch)


def parts_of(batch: Batch, count: int) -> Sequence[Batch]:
    """The batch in ``count`` parts that differ by at most one example; at most one part per example."""
    count = min(count, num_rows(batch))
    if isinstance(batch, Tensor):
        return batch.tensor_split(count)
    return list(zip(*(tensor.tensor_split(count) for tensor in batch), strict=True))


def joined(batches: Sequence[Batch]) -> Batch:
    """Batches of one kind as one."""
    if isinstance(batches[0], Tensor):
        return torch.cat([batch for batch in batches if isinstance(batch, Tensor)])
    return tuple(torch.cat(tensors) for tensors in zip(*batches, strict=True))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch where the model is."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    return tuple(tensor.to(device, non_blocking=True) for tensor in batch)
