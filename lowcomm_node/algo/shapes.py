"""How the codecs see tensors and plans. No torch: the budget needs it too."""

from collections.abc import Sequence
from math import prod
from typing import Protocol

from lowcomm_node.units import Codec, Dtype, Omega, Stream

__all__ = ["Plan", "Shapes", "matrix_shape", "max_paying_rank"]

Shapes = Sequence[Sequence[int]]
"""One shape per tensor, in the order that plans refer to."""


class Plan(Protocol):
    """How one stream is coded in one meeting; ``core.messages.StreamPlan`` is one."""

    @property
    def stream(self) -> Stream: ...
    @property
    def codec(self) -> Codec: ...
    @property
    def dtype(self) -> Dtype: ...
    @property
    def ranks(self) -> tuple[int, ...]:
        """Per tensor: r > 0 low rank (ab) or r coordinates (sparse), 0 left out of this meeting, -1 dense."""
        ...

    @property
    def omega(self) -> Omega:
        """Codec ab: where the test matrix comes from."""
        ...


def matrix_shape(shape: Sequence[int]) -> tuple[int, int] | None:
    """The 2-D view of a tensor: (first dimension, product of the rest); None for vectors and scalars.

    Convolution kernels become (out channels, in channels x kernel), as in PowerSGD (1905.13727).
    """
    if len(shape) < 2:
        return None
    return shape[0], prod(shape[1:])


def max_paying_rank(m: int, n: int) -> int:
    """Largest rank r with 2 r (m + n) < m n: from there on the whole matrix is the better use of bytes; 0 if none."""
    if m * n == 0:
        return 0
    return (m * n - 1) // (2 * (m + n))
