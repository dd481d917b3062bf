"""NoLoCo's outer step (arXiv 2506.10911v1): the published pair form, and the local form that nodes run.

Symbols: theta fast weights, phi slow weights, D = theta - phi, delta outer momentum, a momentum (paper alpha),
b outer learning rate (paper beta), g mixing strength (paper gamma), c what meetings have added since the last outer step.
Differs from the paper in the sign of the b term: its Eq. 2 prints a minus, which ascends; Eq. 32 has the plus used here.
"""

import torch
from torch import Tensor

__all__ = ["outer_step_", "reference_pair_step", "stability_bound"]

_State = tuple[Tensor, Tensor, Tensor]


def reference_pair_step(
    theta_i: Tensor,
    phi_i: Tensor,
    delta_i: Tensor,
    theta_j: Tensor,
    phi_j: Tensor,
    delta_j: Tensor,
    *,
    a: float,
    b: float,
    g: float,
) -> tuple[_State, _State]:
    """Eq. 1-3 for a pair, line by line in fp64; returns (theta, phi, delta) of i and of j after the step.

    delta_i <- a delta_i + b (D_i + D_j)/2 - g (phi_i - phi_j)/2
    phi_i   <- phi_i + delta_i
    theta_i <- phi_i
    """
    theta_i, phi_i, delta_i = theta_i.double(), phi_i.double(), delta_i.double()
    theta_j, phi_j, delta_j = theta_j.double(), phi_j.double(), delta_j.double()
    mean_displacement = ((theta_i - phi_i) + (theta_j - phi_j)) / 2
    half_gap = (phi_i - phi_j) / 2

    new_delta_i = a * delta_i + b * mean_displacement - g * half_gap
    new_delta_j = a * delta_j + b * mean_displacement + g * half_gap
    new_phi_i = phi_i + new_delta_i
    new_phi_j = phi_j + new_delta_j
    return (new_phi_i.clone(), new_phi_i, new_delta_i), (new_phi_j.clone(), new_phi_j, new_delta_j)


@torch.no_grad()
def outer_step_(theta: Tensor, phi: Tensor, delta: Tensor, mixed: Tensor | None, *, momentum: float, lr: float) -> None:
    """One node's outer step on one tensor, in place; nobody else is asked.

    All tensors have one shape; phi, delta and mixed are fp32. A meeting's correction was added to theta AND phi at once,
    so D = theta - phi is the node's own displacement alone. ``mixed`` is c, or None when corrections stay outside
    the momentum (mixing = "direct"):

        direct:    delta <- a delta + b D          phi <- phi + delta        theta <- phi
        momentum:  delta <- a delta + b D + c      phi <- phi + delta - c    theta <- phi    c <- 0

    phi takes ``delta - c`` because c is in phi already. With one dense meeting exactly at the outer step (c = g/2
    times the gap of the fast weights) and g = b, the momentum form is the pair form above, whose two gaps
    b (D_j - D_i)/2 + g (phi_j - phi_i)/2 are then b (theta_j - theta_i)/2. A node that met nobody takes the solo step.
    """
    displacement = theta.sub_(phi)  # theta is overwritten below, so it lends its memory to D
    delta.mul_(momentum).add_(displacement, alpha=lr)
    if mixed is not None:
        delta.add_(mixed)
        phi.sub_(mixed)
        mixed.zero_()
    phi.add_(delta)
    theta.copy_(phi)


def stability_bound(momentum: float, group: int = 2) -> float:
    """Largest g (excluded) for which mixing through the momentum keeps replicas together, in random groups of ``group``.

    Mean-square stability of the disagreement on a flat loss: g < 2 n (1 - a^2) / (n + a (2 - n)); for pairs 2 (1 - a^2).
    Differs from the paper in that its Eq. 74 lets pairs diverge, e.g. a = 0.9 with g = 0.7.
    """
    return 2 * group * (1 - momentum**2) / (group + momentum * (2 - group))
