"""DiLoCo's outer step as published (2311.08105, Algorithm 1), for processes that exchange by all-reduce.

Symbols: theta fast weights, phi what they were after the last outer step, D = phi - mean of theta over all (the outer gradient).
The laboratory's own (``lockstep``) has a heavy ball in place of Nesterov's momentum.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lowcomm_node.algo.group import Group, mean_all_

__all__ = ["OUTER_LR", "OUTER_MOMENTUM", "DilocoOuter"]

OUTER_LR, OUTER_MOMENTUM = 0.7, 0.9
"""As its authors recommend, with Nesterov's momentum."""


class DilocoOuter:
    """phi and its momentum of one member. All members hold the same bits, for they see the same means."""

    def __init__(
        self, theta: Sequence[Tensor], group: Group, *, lr: float = OUTER_LR, momentum: float = OUTER_MOMENTUM
    ) -> None:
        """``theta``: the live weights, fp32, the same at all members now. With ``momentum`` 0 and ``lr`` 1 a step is the average."""
        self._theta, self._group = theta, group
        self._phi = [nn.Parameter(tensor.detach().clone()) for tensor in theta]
        self._optimizer = torch.optim.SGD(self._phi, lr=lr, momentum=momentum, nesterov=momentum > 0)

    @torch.no_grad()
    def step(self) -> None:
        """One message of all weights, in fp32; afterwards theta = phi at all members. Raises TrainerError when one is gone."""
        means = [tensor.clone() for tensor in self._theta]
        mean_all_(self._group, means)
        for phi, mean in zip(self._phi, means, strict=True):
            phi.grad = phi - mean
        self._optimizer.step()
        for theta, phi in zip(self._theta, self._phi, strict=True):
            theta.copy_(phi)
