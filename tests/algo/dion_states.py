"""What the tests of Dion's step share: the state of one matrix, gradients, and how far tensors lie apart."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcomm_node.algo import dion
from lowcomm_node.algo.dion import dion_rounds, dion_step_, seeded_basis

LR, MU, WEIGHT_DECAY = 0.02, 0.95, 0.1


@dataclass
class State:
    """X, M and Q of one matrix."""

    X: Tensor
    M: Tensor
    Q: Tensor

    def clone(self) -> "State":
        return State(self.X.clone(), self.M.clone(), self.Q.clone())

    def step(self, G: Tensor, *, lr: float = LR, weight_decay: float = WEIGHT_DECAY, seed: bytes = b"null") -> None:
        dion_step_(self.X, self.M, self.Q, G, lr=lr, mu=MU, weight_decay=weight_decay, seed=seed)

    def factors(self, G: Tensor) -> tuple[Tensor, Tensor]:
        """P and R of the step that this takes."""
        rounds = dion_rounds(self.X, [self.M], self.Q, [G], lr=LR, mu=MU, weight_decay=WEIGHT_DECAY, seed=b"")
        P = dion._orthonormal(next(rounds))
        R = next(rounds).clone()
        assert list(rounds) == []
        return P, R

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.X, self.M, self.Q


def start(shape: tuple[int, int], r: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> State:
    X = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    return State(X, torch.zeros_like(X), seeded_basis(b"start", min(shape), r).to(dtype))


def gradients(shape: tuple[int, int], count: int, dtype: torch.dtype = torch.float64, seed: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def update(before: Tensor, after: Tensor) -> Tensor:
    """P Q^T as it was applied, without weight decay."""
    m, n = before.shape
    return (before - after).double() / (LR * math.sqrt(m / n))
