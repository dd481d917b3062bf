"""C, the estimate of M_i - M_j on which both ends of a meeting agree, as it is held and applied.

Shapes: m x n the matrix view of a tensor, r the rank on the wire. Everything is fp32 but r x r matrices, which are fp64.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lowcomm_node.algo.omega import balanced
from lowcomm_node.algo.rotation import Rotation, rotate_back, together
from lowcomm_node.algo.wireformat import is_finite

__all__ = ["Coordinates", "Correction", "Factors", "Part", "make_factors", "right_factors", "whiten"]

_FP32_MAX: float = torch.finfo(torch.float32).max
_RIDGE = 1e-8
"""Far below what rounding leaves of a factor, far above what fp64 leaves of a Gram matrix."""


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


@dataclass(frozen=True, slots=True)
class Coordinates:
    """C of one tensor at some positions, and 0 elsewhere; of the tensor itself or, when there is a rotation, of the rotated one."""

    index: Tensor
    """Positions in row-major order, or among the coefficients; each at most once; int64 on the CPU."""
    values: Tensor
    """fp32 on the CPU."""
    total: int
    """How many numbers the tensor, or the rotated one, has."""
    rotation: Rotation | None = None


Part = Tensor | Factors | Coordinates
"""C of one tensor: written out (fp32, the tensor's shape), as factors, or at some coordinates."""


def make_factors(a: Tensor, b: Tensor) -> Factors:
    """The factors with their Gram matrices; a is m x r, b is n x r, fp32 on the CPU."""
    wide_a, wide_b = a.double(), b.double()
    return Factors(a, b, wide_a.T @ wide_a, wide_b.T @ wide_b)


def whiten(a: Tensor) -> Tensor:
    """Q = a L^-T with L L^T = a^T a + lambda I: nearly orthonormal columns that span what those of ``a`` (m x r, fp32, CPU) span.

    For an image Z = D^T Q of D, Q Z^T = a (a^T a + lambda I)^-1 a^T D is the projection of D on span(a), and since no column of Q is
    longer than 1, an error of Z, such as rounding, is not amplified, however alike the columns of ``a`` are.
    lambda = 1e-8 trace(a^T a) / r; directions that ``a`` hardly contains come out short instead of arbitrary. fp64 inside; a
    Cholesky factor, unlike a QR or SVD, has no sign that two machines could choose differently, and is smooth in its input.
    a = 0 gives 0, and numbers that are not finite give NaN.
    """
    wide = a.double()
    gram = wide.T @ wide
    trace = gram.diagonal().sum()
    if trace == 0:
        return torch.zeros_like(a)
    ridge = _RIDGE * trace / a.shape[1]
    factor, info = torch.linalg.cholesky_ex(gram + ridge * torch.eye(a.shape[1], dtype=torch.float64))
    if info or not is_finite(trace):
        return torch.full_like(a, torch.nan)
    Q: Tensor = torch.linalg.solve_triangular(factor, wide.T, upper=False).T
    return Q.to(torch.float32).contiguous()


@dataclass(frozen=True, slots=True)
class Correction:
    """C of one stream. The initiator applies it with a negative weight, the answerer with the same positive one."""

    parts: tuple[Part | None, ...]
    """Per tensor; None where it was left out, or where its difference was too large for the format (void)."""
    _energies: tuple[float, ...] = field(init=False)
    """|C|^2 per tensor, 0 of None."""

    def __post_init__(self) -> None:
        energies = tuple([0.0 if part is None else _energy(part) for part in self.parts])
        object.__setattr__(self, "_energies", energies)

    def add_to_(self, tensors: Sequence[Tensor], weight: float | Sequence[float]) -> None:
        """tensors[k] += weight * C_k in place, with one weight for all tensors or one each; as ``add_to_all_``."""
        self.add_to_all_((tensors,), weight)

    @torch.no_grad()
    def add_to_all_(self, replicas: Sequence[Sequence[Tensor]], weight: float | Sequence[float]) -> None:
        """The same C on several lists of tensors that lie on one device: what a part has to be computed for is computed once.

        The tensors may lie on any device; those of more than two dimensions that take factors must be contiguous.
        Raises ValueError when the number of tensors or weights is not that of C.
        """
        weights = [weight] * len(self.parts) if isinstance(weight, int | float) else list(weight)
        for tensors in replicas:
            if not len(tensors) == len(weights) == len(self.parts):
                raise ValueError(
                    f"{len(tensors)} tensors and {len(weights)} weights for a correction of {len(self.parts)}"
                )
        for index, part in enumerate(self.parts):
            if part is not None and not _is_rotated(part):
                for tensors in replicas:
                    _add_(tensors[index], part, weights[index])
        for indices, rows in self._rotated_back(replicas[0]):
            for tensors in replicas:
                for index, row in zip(indices, rows, strict=True):
                    tensor = tensors[index]
                    tensor.add_(row.reshape(tensor.shape).to(tensor), alpha=weights[index])

    def _rotated_back(self, tensors: Sequence[Tensor]) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Of rotated parts: C written out (k x N) for alike tensors, and where these stand; on their device."""
        alike: dict[tuple[int, torch.device], list[tuple[int, Coordinates, Rotation]]] = {}
        for index, (tensor, part) in enumerate(zip(tensors, self.parts, strict=True)):
            if isinstance(part, Coordinates) and part.rotation is not None:
                alike.setdefault((tensor.numel(), tensor.device), []).append((index, part, part.rotation))
        for (numel, device), found in alike.items():
            for some in together(found, numel):
                indices, parts, rotations = zip(*some, strict=True)
                coefficients = torch.zeros(len(parts), rotations[0].total, device=device)
                for row, part in zip(coefficients, parts, strict=True):
                    row.index_copy_(0, part.index.to(device), part.values.to(row))
                yield indices, rotate_back(rotations, coefficients)

    def norm(self) -> float:
        """|C|, the Frobenius norm over all tensors; of factors through |C|^2 = tr((a^T a)(b^T b))."""
        return math.sqrt(sum(self._energies))

    def is_finite(self) -> bool:
        """Whether applying C cannot bring a NaN or an infinity into finite tensors through C's own numbers."""
        known = zip(self.parts, self._energies, strict=True)
        return all(_is_part_finite(part, energy) for part, energy in known if part is not None)

    def spectra(self) -> tuple[tuple[float, ...] | None, ...]:
        """What the meeting says of the difference's energy; this is what ``EnergyModel.observe`` takes.

        Per tensor the squared singular values of C, largest first, from an r x r problem; one number, |C|^2, of a tensor sent
        whole; |C|^2 / share of one of which only a share of the coordinates met; None of one left out or void.
        """
        known = zip(self.parts, self._energies, strict=True)
        return tuple(None if part is None else _spectrum(part, energy) for part, energy in known)


def right_factors(correction: Correction) -> tuple[Tensor | None, ...]:
    """Per tensor the row space of C as a test matrix (n x r fp32, CPU): orthogonal columns, main direction first, ``balanced``.

    None where C has no factors.
    """
    bases: list[Tensor | None] = []
    for part in correction.parts:
        if not isinstance(part, Factors):
            bases.append(None)
            continue
        # The columns of a are nearly orthonormal (``whiten``), so that C has the singular values of b.
        basis, values, _ = torch.linalg.svd(part.b, full_matrices=False)
        bases.append(balanced(basis, values, float(values.norm())))
    return tuple(bases)


def _is_rotated(part: Part) -> bool:
    return isinstance(part, Coordinates) and part.rotation is not None


def _add_(tensor: Tensor, part: Part, weight: float) -> None:
    if isinstance(part, Tensor):
        tensor.add_(part.to(tensor), alpha=weight)
    elif isinstance(part, Factors):
        matrix = tensor if tensor.ndim == 2 else tensor.view(tensor.shape[0], -1)
        matrix.addmm_(part.a.to(tensor), part.b.to(tensor).T, alpha=weight)
    else:
        index, values = part.index.to(tensor.device), part.values.to(tensor)
        if tensor.is_contiguous():
            tensor.view(-1).index_add_(0, index, values, alpha=weight)
        else:
            tensor[torch.unravel_index(index, tensor.shape)] += weight * values


def _energy(part: Part) -> float:
    if isinstance(part, Factors):
        # The trace of a product of two symmetric matrices is the sum of their elementwise product.
        return max(float((part.gram_a * part.gram_b).sum()), 0.0)
    values = part.values if isinstance(part, Coordinates) else part
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2


def _is_part_finite(part: Part, energy: float) -> bool:
    if isinstance(part, Tensor):
        return math.isfinite(energy)  # squares of fp32 numbers do not overflow in fp64
    if isinstance(part, Coordinates):
        # No sum of coefficients under signs is longer than |C| sqrt(c).
        return math.isfinite(energy) and (part.rotation is None or energy * part.total < _FP32_MAX**2)
    if not (is_finite(part.a) and is_finite(part.b)):
        return False
    # |a| |b| bounds every partial sum of a b^T, so the product cannot overflow on the way to a finite C either.
    bound = math.sqrt(float(part.gram_a.diagonal().sum() * part.gram_b.diagonal().sum()))
    return bound < _FP32_MAX


def _spectrum(part: Part, energy: float) -> tuple[float, ...]:
    if isinstance(part, Coordinates):
        return (energy * part.total / part.index.numel(),)
    if isinstance(part, Tensor):
        return (energy,)
    # C^T C has the eigenvalues of G_a^(1/2) G_b G_a^(1/2), which is symmetric.
    values, vectors = torch.linalg.eigh(part.gram_a)
    root = vectors * values.clamp(min=0).sqrt()
    squared = torch.linalg.eigvalsh(root.T @ part.gram_b @ root)
    return tuple(float(value) for value in squared.clamp(min=0).flip(0))
