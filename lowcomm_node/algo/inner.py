"""Inner optimizer steps: each paper's equations in fp64, and fast forms of those that torch does not have.

Symbols: x parameter, g gradient, t the number of this update (1 is the first), u and v first and second moment, m a normalised
momentum, b a momentum, ``^`` bias-corrected, w a weight. The fast forms work in place on lists of fp32 tensors of any device, with
one learning rate and one weight decay per tensor. Weight decay is decoupled everywhere: x <- (1 - lr * wd) x before the update.
AdamW, SGD and Muon have torch's own implementation as fast form.
"""
# ruff: noqa: SLF001 - torch has no public name for operations on lists of tensors

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "adopt_step_",
    "lion_step_",
    "mtdao_step_",
    "reference_adamw_step",
    "reference_adopt_step",
    "reference_lion_step",
    "reference_mtdao_step",
    "reference_muon_step",
    "reference_sgd_step",
]

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5
_NEWTON_SCHULZ_EPS = 1e-7
"""As in torch.optim.Muon, which has them from Keller Jordan's Muon."""


def reference_adamw_step(
    x: Tensor, g: Tensor, u: Tensor, v: Tensor, t: int, *, lr: float, beta1: float, beta2: float, eps: float, wd: float
) -> tuple[Tensor, Tensor, Tensor]:
    """AdamW (1711.05101, Algorithm 2) in fp64; returns (x, u, v)."""
    x, g, u, v = x.double(), g.double(), u.double(), v.double()
    u = beta1 * u + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    u_hat = u / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    x = (1 - lr * wd) * x - lr * u_hat / (v_hat.sqrt() + eps)
    return x, u, v


def reference_mtdao_step(
    x: Tensor,
    g: Tensor,
    u: Tensor,
    v: Tensor,
    t: int,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    wd: float,
    w: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """MT-DAO (2510.05361) with one slow momentum, in fp64; returns (x, u, v).

    x <- (1 - lr wd) x - lr ((1 - w) g + w u^) / (sqrt(v^) + eps)

    Differs from the paper in the bias correction of u, without which the momentum's share would be missing for its first
    1 / (1 - beta1) steps.
    """
    x, g, u, v = x.double(), g.double(), u.double(), v.double()
    u = beta1 * u + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    u_hat = u / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    x = (1 - lr * wd) * x - lr * ((1 - w) * g + w * u_hat) / (v_hat.sqrt() + eps)
    return x, u, v


@torch.no_grad()
def mtdao_step_(
    xs: list[Tensor],
    gs: list[Tensor],
    us: list[Tensor],
    vs: list[Tensor],
    t: int,
    *,
    lr: Sequence[float],
    beta1: float,
    beta2: float,
    eps: float,
    wd: Sequence[float],
    w: float,
) -> None:
    """The fast form of ``reference_mtdao_step``; moves xs, us and vs."""
    torch._foreach_lerp_(us, gs, 1 - beta1)
    torch._foreach_mul_(vs, beta2)
    torch._foreach_addcmul_(vs, gs, gs, 1 - beta2)
    denominators = torch._foreach_sqrt(vs)
    torch._foreach_mul_(denominators, (1 - beta2**t) ** -0.5)
    torch._foreach_add_(denominators, eps)
    updates = torch._foreach_mul(us, w / (1 - beta1**t))
    torch._foreach_add_(updates, gs, alpha=1 - w)
    _shrink_(xs, lr, wd)
    torch._foreach_addcdiv_(xs, updates, denominators, [-rate for rate in lr])


def reference_adopt_step(
    x: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, *, lr: float, beta1: float, beta2: float, eps: float, wd: float
) -> tuple[Tensor, Tensor, Tensor]:
    """ADOPT (2411.02853v3, Algorithm 2, with its clipping) in fp64; returns (x, m, v).

    The first update only sets v = g g. Later ones divide by the second moment of the steps before:
    m <- beta1 m + (1 - beta1) clip(g / max(sqrt(v), eps), c), c = (t - 1)^(1/4), then x, and v at last.
    """
    x, g, m, v = x.double(), g.double(), m.double(), v.double()
    if t == 1:
        return x, m, g * g
    c = (t - 1) ** 0.25
    normed = (g / v.sqrt().clamp(min=eps)).clamp(-c, c)
    m = beta1 * m + (1 - beta1) * normed
    x = (1 - lr * wd) * x - lr * m
    v = beta2 * v + (1 - beta2) * g * g
    return x, m, v


@torch.no_grad()
def adopt_step_(
    xs: list[Tensor],
    gs: list[Tensor],
    ms: list[Tensor],
    vs: list[Tensor],
    t: int,
    *,
    lr: Sequence[float],
    beta1: float,
    beta2: float,
    eps: float,
    wd: Sequence[float],
) -> None:
    """The fast form of ``reference_adopt_step``; moves xs, ms and vs."""
    if t == 1:
        torch._foreach_copy_(vs, torch._foreach_mul(gs, gs))
        return
    bound = (t - 1) ** 0.25
    normed = torch._foreach_sqrt(vs)
    torch._foreach_clamp_min_(normed, eps)
    normed = torch._foreach_div(gs, normed)
    torch._foreach_clamp_min_(normed, -bound)
    torch._foreach_clamp_max_(normed, bound)
    torch._foreach_lerp_(ms, normed, 1 - beta1)
    _shrink_(xs, lr, wd)
    torch._foreach_add_(xs, torch._foreach_mul(ms, [-rate for rate in lr]))
    torch._foreach_mul_(vs, beta2)
    torch._foreach_addcmul_(vs, gs, gs, 1 - beta2)


def reference_lion_step(
    x: Tensor, g: Tensor, m: Tensor, *, lr: float, beta1: float, beta2: float, wd: float
) -> tuple[Tensor, Tensor]:
    """Lion (2302.06675, Program 1) in fp64; returns (x, m)."""
    x, g, m = x.double(), g.double(), m.double()
    x = (1 - lr * wd) * x - lr * torch.sign(beta1 * m + (1 - beta1) * g)
    m = beta2 * m + (1 - beta2) * g
    return x, m


@torch.no_grad()
def lion_step_(
    xs: list[Tensor],
    gs: list[Tensor],
    ms: list[Tensor],
    *,
    lr: Sequence[float],
    beta1: float,
    beta2: float,
    wd: Sequence[float],
) -> None:
    """The fast form of ``reference_lion_step``; moves xs and ms."""
    updates = torch._foreach_lerp(ms, gs, 1 - beta1)
    torch._foreach_sign_(updates)
    torch._foreach_mul_(updates, [-rate for rate in lr])
    _shrink_(xs, lr, wd)
    torch._foreach_add_(xs, updates)
    torch._foreach_lerp_(ms, gs, 1 - beta2)


def reference_sgd_step(
    x: Tensor, g: Tensor, b: Tensor, *, lr: float, momentum: float, wd: float
) -> tuple[Tensor, Tensor]:
    """SGD with heavy-ball momentum in fp64, b a sum and no average, as in torch; returns (x, b)."""
    x, g, b = x.double(), g.double(), b.double()
    b = momentum * b + g
    x = (1 - lr * wd) * x - lr * b
    return x, b


def reference_muon_step(
    x: Tensor, g: Tensor, b: Tensor, *, lr: float, momentum: float, wd: float
) -> tuple[Tensor, Tensor]:
    """Muon with Nesterov momentum in fp64, its update scaled to AdamW's usual rms (2502.16982, Eq. 4); returns (x, b).

    x is m x n. The Newton-Schulz iteration is meant to be inexact: singular values end between about 0.7 and 1.2.
    Differs from torch.optim.Muon in that torch iterates in bf16.
    """
    x, g, b = x.double(), g.double(), b.double()
    b = momentum * b + (1 - momentum) * g
    update = momentum * b + (1 - momentum) * g
    m, n = x.shape
    x = (1 - lr * wd) * x - lr * 0.2 * math.sqrt(max(m, n)) * _newton_schulz(update)
    return x, b


def _newton_schulz(update: Tensor) -> Tensor:
    """An approximation of the nearest matrix with orthonormal rows (or columns, if there are more rows)."""
    a, b, c = _NEWTON_SCHULZ
    z: Tensor = update.T if update.shape[0] > update.shape[1] else update
    z = z / torch.linalg.matrix_norm(z).clamp(min=_NEWTON_SCHULZ_EPS)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = z @ z.T
        z = a * z + (b * gram + c * gram @ gram) @ z
    return z.T if update.shape[0] > update.shape[1] else z


def _shrink_(xs: list[Tensor], lr: Sequence[float], wd: Sequence[float]) -> None:
    torch._foreach_mul_(xs, [1 - rate * decay for rate, decay in zip(lr, wd, strict=True)])
