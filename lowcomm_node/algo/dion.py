"""Dion (arXiv 2504.05295): momentum with orthonormalised low-rank updates, for one replica or for several that step together.

Symbols and shapes: X parameter and G gradient, m x n (rows are fan-out); M momentum, of X's shape; r the rank; mu = 1 - beta what
a step leaves of the captured part of the momentum. With m >= n, Q is the n x r basis, P is m x r and R is n x r; a matrix with
m < n is worked on as its transpose, so that P lies on the long side and Q on the short one, and only the factor sqrt(m/n)
knows the difference. In all, the rank is r and Q is min(m, n) x r.

    B = M + G
    P = orth(B Q)                                  # P^T P = I
    R = B^T P
    M <- B - (1 - mu) P R^T                        # error feedback: only what was used decays
    Q <- R with unit columns
    X <- (1 - lr wd) X - lr sqrt(m/n) P Q^T        # the new Q

Replicas i of a group hold the same X and Q, and each its own M_i and G_i. They average B_i Q before it is orthonormalised, and
R_i = B_i^T P: (m + n) r numbers a step in place of the m n of G. The mean of M_i then follows the equations above with the
mean gradient, and X sees nothing else of M.

Differs from the paper: orthonormal factors come from Householder QR with a positive diagonal, where the authors' code has
randomised Cholesky QR, which never regains the columns that it loses while B lacks rank; a column of R that is zero to
rounding (null) takes no part in the update, and a random direction takes its place in Q; Q has no epsilon in its
normalisation, so steps do not depend on the scale of gradients; all of that is decided on averages, never on one replica's own.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lowcomm_node.algo.group import ALONE, Group
from lowcomm_node.algo.shapes import matrix_shape

__all__ = ["dion_rounds", "dion_step_", "distributed_dion_step_", "rank_of", "reference_dion_step", "seeded_basis"]

_NULL_COLUMN = 64.0
"""A column of R is null below this many rounding errors of the longest one.

Rounding was measured to leave 1 to 60 of them in matrices of exact rank k < r (up to 512 x 256). A direction that is taken
for alive by mistake is one of noise, as in the authors' code; one that is taken for null by mistake is never learned.
"""


def rank_of(shape: Sequence[int], fraction: float, multiple: int = 1) -> int:
    """r for a tensor of ``shape``: ``fraction`` of the short side of its matrix view, rounded up to a multiple, at most that side.

    Raises ValueError for a vector, a scalar or an empty tensor.
    """
    short = min(matrix_shape(shape) or (0,))
    if short == 0:
        raise ValueError(f"a tensor of shape {tuple(shape)} is no matrix and has no rank")
    # 0.07 * 100 is a little more than 7, and the rank meant is 7.
    return min(short, multiple * math.ceil(fraction * short / multiple - 1e-9))


def seeded_basis(seed: bytes, n: int, r: int) -> Tensor:
    """Q to start from: n x r fp32 on the CPU, unit columns of independent numbers, the same on every machine.

    Entries are SHAKE-256(seed || n || r), both as 8 bytes little-endian, read as signed 16-bit little-endian integers row by row,
    then divided by the root of their column's sum of squares, which is exact. Differs from the paper, whose Q has normal
    numbers of no common origin; the first P does not depend on the length of Q's columns.
    """
    source = seed + n.to_bytes(8, "little") + r.to_bytes(8, "little")
    octets = bytearray(hashlib.shake_256(source).digest(2 * n * r))
    entries = torch.frombuffer(octets, dtype=torch.int16).reshape(n, r).to(torch.int64)
    lengths = entries.square().sum(0).clamp(min=1).double().sqrt()
    return (entries.double() / lengths).to(torch.float32)


@torch.no_grad()
def reference_dion_step(
    X: Tensor, M: Tensor, Q: Tensor, G: Tensor, *, lr: float, mu: float, weight_decay: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One step in fp64, line by line; returns the new X, M and Q. B Q must have full rank.

    orth takes Q's columns in order and keeps their side: P = Y L^-T with Y^T Y = L L^T, the QR of positive diagonal.
    """
    m, n = X.shape
    X, M, Q, G = X.double(), M.double(), Q.double(), G.double()
    if m < n:
        X, M, G = X.T, M.T, G.T

    B = M + G
    Y = B @ Q
    P = torch.linalg.solve_triangular(torch.linalg.cholesky(Y.T @ Y), Y.T, upper=False).T
    R = B.T @ P
    M = B - (1 - mu) * P @ R.T
    Q = R / R.norm(dim=0)
    X = (1 - lr * weight_decay) * X - lr * math.sqrt(m / n) * P @ Q.T
    return (X.T, M.T, Q) if m < n else (X, M, Q)


@torch.no_grad()
def dion_step_(
    X: Tensor,
    M: Tensor,
    Q: Tensor,
    G: Tensor,
    *,
    lr: float,
    mu: float,
    weight_decay: float,
    seed: bytes,
    group: Group = ALONE,
) -> None:
    """One step of one replica, in place on X, M and Q; in a group, every member calls it in turn with its own four tensors.

    Types, ``seed`` and errors are those of ``dion_rounds``.
    """
    for part in dion_rounds(X, [M], Q, [G], lr=lr, mu=mu, weight_decay=weight_decay, seed=seed):
        group.mean_(part)


@torch.no_grad()
def distributed_dion_step_(
    X: Tensor,
    Ms: Sequence[Tensor],
    Q: Tensor,
    Gs: Sequence[Tensor],
    *,
    lr: float,
    mu: float,
    weight_decay: float,
    seed: bytes,
) -> None:
    """One step of a whole group in one process: the X and Q that its replicas share, and per replica M and G; in place.

    Types, ``seed`` and errors are those of ``dion_rounds``.
    """
    for _ in dion_rounds(X, Ms, Q, Gs, lr=lr, mu=mu, weight_decay=weight_decay, seed=seed):
        pass


@torch.no_grad()
def dion_rounds(
    X: Tensor,
    Ms: Sequence[Tensor],
    Q: Tensor,
    Gs: Sequence[Tensor],
    *,
    lr: float,
    mu: float,
    weight_decay: float,
    seed: bytes,
) -> Iterator[Tensor]:
    """One step in place on X, Ms and Q, halted twice: at the mean of B_i Q, then at that of R_i, over the replicas at hand.

    Whoever drives it averages the tensor it is given, in place, over the replicas elsewhere, and then goes on; driven to the
    end without that, it is the step of the replicas at hand. Stopped earlier, it leaves G added to M, X and Q as they were.

    X is m x n, as are ``Ms`` and ``Gs``, one each per replica; Q is min(m, n) x r. Each may have a floating type of its own;
    arithmetic is in fp64 when X is, and in fp32 otherwise. All lie on one device. ``seed`` fills null columns of Q: another
    one for every step and matrix, the same for every replica. ``weight_decay`` is multiplied by the bare ``lr``.
    Gradients must be finite: one that is not would spoil all replicas.

    Raises ValueError when shapes do not fit.
    """
    m, n = _check_shapes(X, Ms, Q, Gs)
    if m < n:
        X, Ms, Gs = X.T, [M.T for M in Ms], [G.T for G in Gs]
    dtype = torch.float64 if X.dtype == torch.float64 else torch.float32
    Bs = [(M if M.dtype == dtype else M.to(dtype)).add_(G) for M, G in zip(Ms, Gs, strict=True)]

    Y = _mean_product(Bs, Q.to(dtype))
    yield Y
    P = _orthonormal(Y)
    R = _mean_product([B.T for B in Bs], P)
    yield R

    for M, B in zip(Ms, Bs, strict=True):
        B.addmm_(P, R.T, alpha=mu - 1)
        if B is not M:
            M.copy_(B)
    columns, is_alive = _unit_columns(R)
    _add_product_(X, P, columns, beta=1 - lr * weight_decay, alpha=-lr * math.sqrt(m / n))
    num_alive = int(is_alive.sum())
    if num_alive == Q.shape[1]:
        Q.copy_(columns)
    elif num_alive:  # with none alive there is nothing to learn from this step, and Q stays
        Q.copy_(torch.where(is_alive, columns, seeded_basis(seed, *Q.shape).to(columns)))


def _check_shapes(X: Tensor, Ms: Sequence[Tensor], Q: Tensor, Gs: Sequence[Tensor]) -> tuple[int, int]:
    if X.ndim != 2 or not X.numel():
        raise ValueError(f"Dion updates matrices; this tensor has shape {tuple(X.shape)}")
    if not Ms or len(Ms) != len(Gs):
        raise ValueError(f"{len(Ms)} momenta and {len(Gs)} gradients where every replica has one of each")
    if any(tensor.shape != X.shape for tensor in (*Ms, *Gs)):
        raise ValueError(f"a momentum or gradient has not the parameter's shape {tuple(X.shape)}")
    m, n = X.shape
    if Q.ndim != 2 or Q.shape[0] != min(m, n) or not 0 < Q.shape[1] <= min(m, n):
        raise ValueError(f"a basis of shape {tuple(Q.shape)} for a matrix of shape {(m, n)}")
    return m, n


def _mean_product(matrices: Sequence[Tensor], right: Tensor) -> Tensor:
    """The mean of ``matrix @ right`` over the matrices, contiguous."""
    total = matrices[0] @ right
    for matrix in matrices[1:]:
        total.addmm_(matrix, right)
    return total.div_(len(matrices)) if len(matrices) > 1 else total


def _orthonormal(Y: Tensor) -> Tensor:
    """P of Y = P T, P^T P = I, T upper triangular with a diagonal >= 0; where Y lacks rank, P is completed."""
    P: Tensor
    P, T = torch.linalg.qr(Y)
    return P.mul_(torch.where(T.diagonal() < 0, -1.0, 1.0))


def _unit_columns(R: Tensor) -> tuple[Tensor, Tensor]:
    """R with unit columns, null ones being zero, and which are not null (r booleans)."""
    scaled = R / R.abs().amax().clamp(min=torch.finfo(R.dtype).tiny)  # or squares of small numbers would vanish
    lengths = torch.linalg.vector_norm(scaled, dim=0)
    is_alive = lengths > _NULL_COLUMN * torch.finfo(R.dtype).eps * lengths.amax()
    return torch.where(is_alive, scaled / lengths, 0.0), is_alive


def _add_product_(target: Tensor, left: Tensor, right: Tensor, *, beta: float, alpha: float) -> None:
    """target <- beta target + alpha left right^T, computed in the type of the factors."""
    if target.dtype == left.dtype:
        target.addmm_(left, right.T, beta=beta, alpha=alpha)
    else:
        target.copy_(torch.addmm(target.to(left.dtype), left, right.T, beta=beta, alpha=alpha))
