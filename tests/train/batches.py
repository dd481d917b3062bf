"""Batches of language models, which are one tensor each."""

from torch import Tensor

from lowcomm_node.train.batches import Batch

__all__ = ["one_tensor"]


def one_tensor(batch: Batch) -> Tensor:
    """The tensor that the batch is."""
    assert isinstance(batch, Tensor)
    return batch
