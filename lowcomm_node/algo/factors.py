"""AB-training (arXiv 2405.01067): a matrix as the product of two factors, of which one is trained.

Symbols and shapes: W is the tall view of a tensor, M x N with M >= N (kernels as matrices, wide matrices transposed); A is M x R,
B is R x N, R the rank; G is the gradient of W; ``0`` marks what a split gave, d what training has added to it.

    split       W = U S V^T;  A = U sqrt(S), B = sqrt(S) V^T, of the singular values above cutoff * sigma_max
    training    dL/dA = G B^T  with B frozen,  or  dL/dB = A^T G  with A frozen
    join        W = mean(A) mean(B), with a weight for each node's copy of each factor

Half of the nodes have trained A and half B; all copies counted ("with-stale"), W is W0 + (dA B0 + A0 dB)/2 + dA dB/4, the mean of
both updates; only the trained ones ("only-learned"), W0 + dA B0 + A0 dB + dA dB, their sum.

Factors have a gauge, (A T)(T^-1 B) = A B: copies may be averaged only if they come from one split of one W. Nodes that
split for themselves need the same W to the last bit and the same kind of machine.

Differs from the authors' code: columns of U have a sign (the largest entry is positive), so that A and B are a function of W
wherever singular values differ; at least one singular value is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcomm_node.algo.shapes import matrix_shape
from lowcomm_node.units import Factor

__all__ = [
    "Factors",
    "factor_gradient",
    "fit",
    "join",
    "largest_rank",
    "reference_cut",
    "reference_epoch",
    "reference_split",
    "set_product_",
    "signed_cut",
    "split",
    "tall",
]


@dataclass(frozen=True, slots=True)
class Factors:
    """A (M x R) and B (R x N) of one tensor."""

    A: Tensor
    B: Tensor

    @property
    def rank(self) -> int:
        """R."""
        return self.A.shape[1]

    def of(self, factor: Factor) -> Tensor:
        """One of the two."""
        return self.A if factor is Factor.A else self.B


def tall(tensor: Tensor) -> Tensor:
    """The M x N view of a tensor, M >= N, sharing its memory. Raises ValueError for a vector or scalar."""
    shape = matrix_shape(tensor.shape)
    if shape is None:
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} is no matrix and has no factors")
    matrix = tensor.view(shape)
    return matrix if shape[0] >= shape[1] else matrix.T


def largest_rank(whole: int, budget_ratio: float) -> int:
    """What a budget leaves of the whole rank N, at least 1; a share of it in (0, 1], where 1 is no limit."""
    return max(1, int(budget_ratio * whole + 1e-9))  # 0.29 * 100 is 28.999999999999996


@torch.no_grad()
def reference_cut(W: Tensor, cutoff: float, budget_ratio: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """U (M x R), S (R) and V^T (R x N) of W (M x N) in fp64, one singular value after the other."""
    U, S, Vt = torch.linalg.svd(W.double(), full_matrices=False)
    for column in range(len(S)):
        if U[:, column].abs().max() != U[:, column].max():
            U[:, column], Vt[column] = -U[:, column], -Vt[column]
    R = sum(1 for sigma in S if cutoff == 0 or sigma > cutoff * S[0]) or 1
    while R > 1 and budget_ratio * len(S) + 1e-9 < R:
        R -= 1
    return U[:, :R], S[:R], Vt[:R]


@torch.no_grad()
def signed_cut(W: Tensor, cutoff: float, budget_ratio: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """The fast form of ``reference_cut``, in W's own type and place."""
    U, S, Vt = torch.linalg.svd(W, full_matrices=False)
    R = max(1, int((S / S[0] > cutoff).sum())) if cutoff > 0 else len(S)
    R = min(R, largest_rank(len(S), budget_ratio))
    U, S, Vt = U[:, :R], S[:R], Vt[:R]
    signs = torch.where(U.gather(0, U.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0)[0]
    return U * signs, S, Vt * signs[:, None]


@torch.no_grad()
def reference_split(W: Tensor, cutoff: float, budget_ratio: float = 1.0) -> Factors:
    """A and B of W (M x N) in fp64, as the equations say."""
    U, S, Vt = reference_cut(W, cutoff, budget_ratio)
    root = torch.diag(S.sqrt())
    return Factors(U @ root, root @ Vt)


@torch.no_grad()
def split(W: Tensor, cutoff: float, budget_ratio: float = 1.0) -> Factors:
    """The fast form of ``reference_split``, in W's own type and place; new, contiguous tensors.

    ``cutoff`` in [0, 1): of the largest singular value; 0 cuts nothing, so that R = N unless ``budget_ratio`` leaves less.
    """
    U, S, Vt = signed_cut(W, cutoff, budget_ratio)
    root = S.sqrt()
    # LAPACK's own order of memory would be the factors', and fused optimizers take gradients to lie as their parameters do.
    return Factors((U * root).contiguous(), (Vt * root[:, None]).contiguous())


@torch.no_grad()
def set_product_(tensor: Tensor, factors: Factors) -> None:
    """Make the tensor what its factors say: its tall view becomes A B."""
    tall(tensor).copy_(factors.A @ factors.B)


@torch.no_grad()
def factor_gradient(G: Tensor, factors: Factors, trained: Factor) -> Tensor:
    """Gradient of the trained factor, the other one frozen, from that of the product (M x N)."""
    return G @ factors.B.T if trained is Factor.A else factors.A.T @ G


@torch.no_grad()
def join(copies: Sequence[Factors], weights: Mapping[Factor, Sequence[float]]) -> Factors:
    """The weighted means of the copies of each factor of one tensor; new tensors. Copies have to come from one split.

    Raises ValueError when a factor has not a weight for each copy.
    """
    means = []
    for factor in (Factor.A, Factor.B):
        mean = torch.zeros_like(copies[0].of(factor))
        for own, weight in zip(copies, weights[factor], strict=True):
            if weight:
                mean.add_(own.of(factor), alpha=weight)
        means.append(mean)
    return Factors(*means)


@torch.no_grad()
def fit(moment: Tensor, shape: Sequence[int]) -> Tensor:
    """A factor's moment for its next rank: cut off, or filled up with zeros, at the end of each dimension; a new tensor."""
    fitted = moment.new_zeros(tuple(shape))
    common = tuple(slice(min(old, new)) for old, new in zip(moment.shape, shape, strict=True))
    fitted[common] = moment[common]
    return fitted


@torch.no_grad()
def reference_epoch(
    W: Tensor, gradients: Sequence[Sequence[Tensor]], trained: Sequence[Factor], *, lr: float, cutoff: float, join: str
) -> Tensor:
    """Split, steepest descent in factors and join in fp64, line by line; returns W (M x N).

    Per node its gradients (M x N) of W, one a step, and what it trains; ``join``: "with-stale" or "only-learned".
    """
    start = reference_split(W, cutoff)
    As, Bs = [], []
    for own, factor in zip(gradients, trained, strict=True):
        A, B = start.A, start.B
        for G in own:
            if factor is Factor.A:
                A = A - lr * G.double() @ start.B.T
            else:
                B = B - lr * start.A.T @ G.double()
        As.append(A)
        Bs.append(B)
    if join == "only-learned":
        As = [A for A, factor in zip(As, trained, strict=True) if factor is Factor.A]
        Bs = [B for B, factor in zip(Bs, trained, strict=True) if factor is Factor.B]
    return torch.stack(As).mean(0) @ torch.stack(Bs).mean(0)
