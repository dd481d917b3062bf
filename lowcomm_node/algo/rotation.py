"""A random rotation of a tensor's numbers, after which they are all about equally large: few-bit integers then need no room for outliers.

Source: the randomised Hadamard transform in front of a quantiser, as in Suresh, Yu, Kumar, McMahan (2017, 1611.00429, section 3):
z = H s x / sqrt(d), with H a Hadamard matrix and s random signs; each z_k is a signed sum of all x, nearly Gaussian, whatever their
distribution. Differs in that H is not d x d: x is viewed as c x (N / c), zeros behind it where N is no multiple of c, and each
column is transformed on its own. Hence d need not be a power of two; and in that both ends know what is rotated only up to
a difference, which is rotated with it, because the transform is linear.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowcomm_node.algo.omega import rademacher
from lowcomm_node.algo.sizes import hadamard_order, padded_count

__all__ = ["Rotation", "reference_rotation"]

_DOMAIN = b"rotation"
"""Keeps these signs apart from the others of a meeting: sums under the same signs would not be random."""


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
        """The coefficients (``total``) of ``x`` (N), fp32 both, on the device of ``x``.

        Entries that are mixed lie N/c apart. As long as x, and exact to the rounding of fp32.
        """
        signed = torch.nn.functional.pad(x * self._signs(x), (0, self.total - self.numel))
        return _transform_(signed, hadamard_order(self.numel))

    def inverse(self, coefficients: Tensor) -> Tensor:
        """The x (N) of ``coefficients`` (``total``), fp32, on their device. What they hold of the zeros behind x is dropped."""
        signed = _transform_(coefficients.clone(), hadamard_order(self.numel))[: self.numel]
        return signed * self._signs(signed)

    def _signs(self, like: Tensor) -> Tensor:
        return rademacher(self.seed + _DOMAIN, self.index, self.numel, 1).reshape(-1).to(like.device)


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


def _transform_(x: Tensor, order: int) -> Tensor:
    """H x / sqrt(c) along the first axis of x viewed as c x n, by butterflies; overwrites ``x`` (contiguous, flat).

    Additions and not products of matrices, which some devices round to ten bits.
    """
    other = torch.empty_like(x)
    half = 1
    while half < order:
        pairs, sums = x.view(half, 2, -1), other.view(half, 2, -1)
        torch.add(pairs[:, 0], pairs[:, 1], out=sums[:, 0])
        torch.sub(pairs[:, 0], pairs[:, 1], out=sums[:, 1])
        x, other = other, x
        half *= 2
    return x.mul_(order**-0.5)
