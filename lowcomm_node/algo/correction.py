"""C, the estimate of M_i - M_j on which both ends of a meeting agree, as it is held and applied.

Shapes: m x n the matrix view of a tensor, r the rank on the wire. Everything is fp32 but r x r matrices, which are fp64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcomm_node.algo.wireformat import is_finite

__all__ = ["Correction", "Factors", "solve_factors"]

_FP32_MAX: float = torch.finfo(torch.float32).max


@dataclass(frozen=True, slots=True)
class Factors:
    """C = a b^T of one tensor, never multiplied out; both factors are fp32 on the CPU."""

    a: Tensor
    """m x r."""
    b: Tensor
    """n x r."""
    gram_a: Tensor
    """a^T a, r x r fp64."""
    gram_b: Tensor
    """b^T b, r x r fp64."""


def solve_factors(a: Tensor, image: Tensor, ridge: float) -> Factors:
    """The factors of the projection of D on span(a), given its image D^T a: b = image (a^T a + lambda I)^-1.

    a is m x r, image n x r, both fp32 on the CPU; lambda = ridge * trace(a^T a) / r. The solve is in fp64, and smooth in
    its input: two machines whose Gram matrices differ in the last bit get nearly the same b, which a cut-off on small
    directions would not promise. The ridge decides how far a direction that ``a`` hardly contains may amplify rounding noise.
    a = 0 (equal replicas) gives b = 0; input that is not finite gives a b that is not finite.
    """
    wide_a = a.double()
    gram_a = wide_a.T @ wide_a
    trace = gram_a.diagonal().sum()
    if not is_finite(trace) or not is_finite(image):
        return Factors(a, torch.full_like(image, torch.nan), gram_a, gram_a)
    if trace == 0:
        return Factors(a, torch.zeros_like(image), gram_a, gram_a)
    rank = a.shape[1]
    regular = gram_a + ridge * trace / rank * torch.eye(rank, dtype=torch.float64)
    b = torch.linalg.solve(regular, image.double().T).T.to(torch.float32).contiguous()
    wide_b = b.double()
    return Factors(a, b, gram_a, wide_b.T @ wide_b)


@dataclass(frozen=True, slots=True)
class Correction:
    """C of one stream. The initiator applies it with a negative weight, the answerer with the same positive one."""

    parts: tuple[Tensor | Factors | None, ...]
    """Per tensor: the whole C (fp32, the tensor's shape), its factors, or None where the tensor was left out."""

    @torch.no_grad()
    def add_to_(self, tensors: Sequence[Tensor], weight: float | Sequence[float]) -> None:
        """tensors[k] += weight * C_k in place, with one weight for all tensors or one each.

        The tensors may lie on any device; those of more than two dimensions that take factors must be contiguous.
        Raises ValueError when the number of tensors or weights is not that of C.
        """
        weights = [weight] * len(self.parts) if isinstance(weight, int | float) else list(weight)
        if not len(tensors) == len(weights) == len(self.parts):
            raise ValueError(f"{len(tensors)} tensors and {len(weights)} weights for a correction of {len(self.parts)}")
        for tensor, part, own_weight in zip(tensors, self.parts, weights, strict=True):
            if part is None:
                continue
            if isinstance(part, Tensor):
                tensor.add_(part.to(tensor), alpha=own_weight)
                continue
            matrix = tensor if tensor.ndim == 2 else tensor.view(tensor.shape[0], -1)
            matrix.addmm_(part.a.to(tensor), part.b.to(tensor).T, alpha=own_weight)

    def norm(self) -> float:
        """|C|, the Frobenius norm over all tensors; of factors through |C|^2 = tr((a^T a)(b^T b))."""
        return math.sqrt(sum(_energy(part) for part in self.parts if part is not None))

    def is_finite(self) -> bool:
        """Whether applying C cannot bring a NaN or an infinity into finite tensors through C's own numbers."""
        return all(_is_part_finite(part) for part in self.parts if part is not None)

    def spectra(self) -> tuple[tuple[float, ...] | None, ...]:
        """Per tensor the squared singular values of C, largest first, from an r x r problem.

        A tensor sent whole gives one number, its |C|^2; one left out gives None. This is what ``EnergyModel.observe`` takes.
        """
        return tuple(None if part is None else _spectrum(part) for part in self.parts)


def _energy(part: Tensor | Factors) -> float:
    if isinstance(part, Tensor):
        return float(torch.linalg.vector_norm(part, dtype=torch.float64)) ** 2
    # The trace of a product of two symmetric matrices is the sum of their elementwise product.
    return max(float((part.gram_a * part.gram_b).sum()), 0.0)


def _is_part_finite(part: Tensor | Factors) -> bool:
    if isinstance(part, Tensor):
        return is_finite(part)
    if not (is_finite(part.a) and is_finite(part.b)):
        return False
    # |a| |b| bounds every partial sum of a b^T, so the product cannot overflow on the way to a finite C either.
    bound = math.sqrt(float(part.gram_a.diagonal().sum() * part.gram_b.diagonal().sum()))
    return bound < _FP32_MAX


def _spectrum(part: Tensor | Factors) -> tuple[float, ...]:
    if isinstance(part, Tensor):
        return (_energy(part),)
    # C^T C has the eigenvalues of G_a^(1/2) G_b G_a^(1/2), which is symmetric.
    values, vectors = torch.linalg.eigh(part.gram_a)
    root = vectors * values.clamp(min=0).sqrt()
    squared = torch.linalg.eigvalsh(root.T @ part.gram_b @ root)
    return tuple(float(value) for value in squared.clamp(min=0).flip(0))
