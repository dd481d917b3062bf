"""AB-training in a swarm (after arXiv 2405.01067): what one frozen factor allows, with W whole on every node.

Symbols and shapes: W is the tall view of a tensor, M x N with M >= N (``factors.tall``); U (M x R) and V (N x R) are the leading
singular vectors of one node's W, the same on all nodes of an epoch; F is the frozen one: V for who trains A, U for who trains B.

    A:   W = W0 + dA V^T     coordinates  W V    (M x R)     projection  dW V V^T
    B:   W = W0 + U dB       coordinates  U^T W  (R x N)     projection  U U^T dW

F has orthonormal columns, so coordinates are those of W's projection on the span and have its norm; the mean of two nodes'
coordinates is that of their W within the span, exactly; and what the span leaves out stays on each node as it is.

Differs from the paper: there A = U sqrt(S) and B = sqrt(S) V^T are all that is left of W; here the frozen factor has no sqrt(S),
W keeps what was cut off, and any inner optimizer runs on W, whose *change* is then projected.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowcomm_node.algo.factors import reference_cut, signed_cut
from lowcomm_node.units import Factor

__all__ = [
    "SplitVectors",
    "add_expanded_",
    "confine_",
    "coordinates",
    "energy_kept",
    "orthonormality_error",
    "reference_confined",
    "reference_coordinates",
    "reference_vectors",
    "split_vectors",
]


@dataclass(frozen=True, slots=True)
class SplitVectors:
    """U (M x R) and V (N x R) of one tensor, with orthonormal columns."""

    U: Tensor
    V: Tensor

    @property
    def rank(self) -> int:
        """R."""
        return self.U.shape[1]

    def frozen(self, trained: Factor) -> Tensor:
        """F of who trains this factor."""
        return self.V if trained is Factor.A else self.U


def reference_vectors(W: Tensor, cutoff: float, budget_ratio: float) -> SplitVectors:
    """``split_vectors`` in fp64, as the equations say."""
    U, _, Vt = reference_cut(W, cutoff, budget_ratio)
    return SplitVectors(U, Vt.T)


def split_vectors(W: Tensor, cutoff: float, budget_ratio: float) -> SplitVectors:
    """The leading singular vectors of W (M x N): those above ``cutoff`` times the largest value, at most ``budget_ratio`` of N, at least one.

    New, contiguous tensors in W's type and place; the largest entry of each column of U is positive.
    """
    U, _, Vt = signed_cut(W, cutoff, budget_ratio)
    return SplitVectors(U.contiguous(), Vt.T.contiguous())


def reference_coordinates(W: Tensor, F: Tensor, trained: Factor) -> Tensor:
    """``coordinates`` in fp64, by entries: <w_i, f_r> of rows of W, or of its columns."""
    vectors = W.double() if trained is Factor.A else W.double().T
    table = torch.stack([torch.stack([(vector * f).sum() for f in F.double().T]) for vector in vectors])
    return table if trained is Factor.A else table.T


@torch.no_grad()
def coordinates(W: Tensor, F: Tensor, trained: Factor) -> Tensor:
    """What a meeting sends of W (M x N): W V (M x R), or U^T W (R x N); new and contiguous."""
    return (W @ F if trained is Factor.A else F.T @ W).contiguous()


@torch.no_grad()
def add_expanded_(W: Tensor, C: Tensor, F: Tensor, trained: Factor, weight: float) -> None:
    """W += weight C V^T, or weight U C: a correction C, M x R or R x N, in the coordinates of F, in place."""
    if trained is Factor.A:
        W.addmm_(C, F.T, alpha=weight)
    else:
        W.addmm_(F, C, alpha=weight)


def reference_confined(W: Tensor, W0: Tensor, F: Tensor, trained: Factor) -> Tensor:
    """W0 + (W - W0) V V^T, or W0 + U U^T (W - W0), in fp64 with the projection written out."""
    P = F.double() @ F.double().T
    dW = W.double() - W0.double()
    return W0.double() + (dW @ P if trained is Factor.A else P @ dW)


@torch.no_grad()
def confine_(W: Tensor, W0: Tensor, F: Tensor, trained: Factor) -> None:
    """Take back what a step has changed outside of the span: W was W0 (both M x N, the same type) before it. In place."""
    if F.shape[0] == F.shape[1]:
        return  # the span is everything
    dW = W - W0
    if trained is Factor.A:
        W.copy_(torch.addmm(W0, dW @ F, F.T))
    else:
        W.copy_(torch.addmm(W0, F, F.T @ dW))


@torch.no_grad()
def energy_kept(W: Tensor, F: Tensor, trained: Factor) -> tuple[float, float]:
    """|W|^2 within the span, and in all."""
    within = coordinates(W, F, trained)
    return float(within.double().square().sum()), float(W.double().square().sum())


@torch.no_grad()
def orthonormality_error(F: Tensor) -> float:
    """Largest entry of F^T F - I; NaN and infinity where F is not finite."""
    gram = F.T @ F
    return float((gram - torch.eye(F.shape[1], dtype=F.dtype, device=F.device)).abs().max())
