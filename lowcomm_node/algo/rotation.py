"""A random rotation of a tensor's numbers, after which they are all about equally large: few-bit integers then need no room for outliers.

Source: the randomised Hadamard transform in front of a quantiser, as in Suresh, Yu, Kumar, McMahan (2017, 1611.00429, section 3):
z = H s x / sqrt(d), with H a Hadamard matrix and s random signs; each z_k is a signed sum of all x, nearly Gaussian, whatever their
distribution. Differs in that H is not d x d: x is viewed as c x (N / c), zeros behind it where N is no multiple of c, and each
column is transformed on its own. Hence d need not be a power of two; and in that both ends know what is rotated only up to
a difference, which is rotated with it, because the transform is linear.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from lowcomm_node.algo.omega import rademacher, random_signs
from lowcomm_node.algo.sizes import hadamard_order, padded_count

__all__ = ["NUMBERS_TOGETHER", "Rotation", "reference_rotation", "rotate", "rotate_back", "together"]

_DOMAIN = b"rotation"
"""Keeps these signs apart from the others of a meeting: sums under the same signs would not be random."""


NUMBERS_TOGETHER = 1 << 17
"""More would leave the processor's nearer cache (measured: 11 tensors of 24,576 numbers one by one 2.5 ms, 6 at a time 1.3, all 1.6), and
take memory."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Rotation:
    """The rotation of one tensor in one meeting: the same on every machine, another in the next meeting."""

    seed: bytes
    """Of the meeting."""
    index: int
    """The tensor's position in the plan."""
    numel: int
    """N, of the tensor."""

    @property
    def total(self) -> int:
        """How many coefficients there are: N rounded up to a multiple of c."""
        return padded_count(self.numel)

    def forward(self, x: Tensor) -> Tensor:
        """The coefficients (``total``) of ``x`` (N), fp32 both, on the device of ``x``: ``rotate`` for one tensor."""
        return rotate((self,), x.unsqueeze(0)).squeeze(0)

    def inverse(self, coefficients: Tensor) -> Tensor:
        """The x (N) of ``coefficients`` (``total``), fp32, on their device: ``rotate_back`` for one tensor."""
        return rotate_back((self,), coefficients.unsqueeze(0)).squeeze(0)


def together(alike: Sequence[_T], numel: int) -> Iterator[Sequence[_T]]:
    """Tensors of one size, ``numel`` numbers each, in the batches in which they go through a meeting.

    Of small tensors the library's calls cost more than the work, and a model has many alike. What happens to each is what would happen
    to it alone.
    """
    most = max(1, NUMBERS_TOGETHER // max(numel, 1))
    for start in range(0, len(alike), most):
        yield alike[start : start + most]


def rotate(rotations: Sequence[Rotation], X: Tensor) -> Tensor:
    """The coefficients (k x ``total``) of k tensors of one size, X (k x N), fp32 both, on the device of X.

    Entries that are mixed lie N/c apart. Rows as long as those of X, and exact to the rounding of fp32.
    """
    first = rotations[0]
    signed = X * _signs(rotations, X)
    if first.total > first.numel:
        signed = torch.nn.functional.pad(signed, (0, first.total - first.numel))
    return _transform_(signed, hadamard_order(first.numel))


def rotate_back(rotations: Sequence[Rotation], coefficients: Tensor) -> Tensor:
    """The X (k x N) of ``coefficients`` (k x ``total``), fp32, on their device. What they hold of the zeros behind a row of X is dropped."""
    numel = rotations[0].numel
    signed = _transform_(coefficients.clone(), hadamard_order(numel))[:, :numel]
    return signed.mul_(_signs(rotations, signed))


def reference_rotation(seed: bytes, index: int, numel: int) -> Tensor:
    """The matrix (``total`` x N, fp64) of ``Rotation.forward``: entry (k n + a, j n + b) is (-1)^popcount(k & j) s_{j n + b} / sqrt(c) if a = b, else 0.

    c is the Hadamard matrix's order and n the number of columns.
    """
    order = hadamard_order(numel)
    columns = padded_count(numel) // order
    hadamard = torch.tensor([[(-1.0) ** (k & j).bit_count() for j in range(order)] for k in range(order)])
    signs = rademacher(seed + _DOMAIN, index, numel, 1).reshape(-1).double()
    matrix: Tensor = (
        torch.kron(hadamard.double() / order**0.5, torch.eye(columns, dtype=torch.float64))[:, :numel] * signs
    )
    return matrix


def _signs(rotations: Sequence[Rotation], like: Tensor) -> Tensor:
    first = rotations[0]
    indices = [rotation.index for rotation in rotations]
    return random_signs(first.seed + _DOMAIN, indices, first.numel).to(like)


def _transform_(x: Tensor, order: int) -> Tensor:
    """H x / sqrt(c) along the first axis of each row of x viewed as c x n, by butterflies; overwrites ``x`` (contiguous, k x c n).

    Additions and not products of matrices, which some devices round to ten bits.
    """
    other = torch.empty_like(x)
    num_blocks = len(x)
    for _ in range(order.bit_length() - 1):
        (upper, lower), (sums, gaps) = (y.view(num_blocks, 2, -1).unbind(1) for y in (x, other))
        torch.add(upper, lower, out=sums)
        torch.sub(upper, lower, out=gaps)
        x, other = other, x
        num_blocks *= 2
    return x.mul_(order**-0.5)
