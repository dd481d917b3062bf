"""What a synchronous method asks of the replicas that step together: the mean of a tensor over them, and nothing else."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["ALONE", "Group", "mean_all_"]


class Group(Protocol):
    """Members step in lockstep: all of them make the same calls in the same order, with tensors of the same shapes and types.

    Every member must get the same bits back, for it is by these that replicas stay identical. They do so only on devices of
    one kind with one version of torch: what is computed from the means (a QR, say) may differ in its last bits between kinds.
    """

    @property
    def size(self) -> int:
        """Number of members, this one included."""
        ...

    def mean_(self, tensor: Tensor) -> None:
        """Replace ``tensor``, contiguous, by its mean over the members, in place."""
        ...


class _Alone:
    size = 1

    def mean_(self, tensor: Tensor) -> None:
        """The mean over one member is what it has."""


ALONE: Group = _Alone()
"""The group of a replica that steps on its own."""


@torch.no_grad()
def mean_all_(group: Group, tensors: Sequence[Tensor]) -> None:
    """``group.mean_`` of many tensors of one type and device in one message: over a network it is calls that cost, not bytes."""
    if group.size == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    group.mean_(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
