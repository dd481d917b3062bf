"""SGD with momentum and Muon, torch's own, on state that is made before the first step.

Called as functions, for the reason that adamw.py gives.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, DEFAULT_NS_STEPS, EPS, muon
from torch.optim.sgd import sgd

from lowcomm_node.settings.manifest import OptimizerConfig
from lowcomm_node.settings.streams import StateStream
from lowcomm_node.train.optimizers.base import ZeroStateOptimizer
from lowcomm_node.units import Stream

__all__ = ["Muon", "Sgd"]


class _MomentumOptimizer(ZeroStateOptimizer):
    """Around a function of torch that keeps one momentum per parameter."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        positions: Sequence[int],
        streams: tuple[StateStream, ...],
        config: OptimizerConfig,
    ) -> None:
        super().__init__(parameters, positions, streams)
        self._config = config

    @torch.no_grad()
    def step(self, lr: float) -> None:
        momenta = zip(self._parameters, self._tensors[Stream.MOMENTUM], strict=True)
        moving = [(p, p.grad, momentum) for p, momentum in momenta if p.grad is not None]
        self._update([p for p, _, _ in moving], [gradient for _, gradient, _ in moving], [m for _, _, m in moving], lr)
        self.optimizer_steps += 1

    @abstractmethod
    def _update(self, xs: list[Tensor], gs: list[Tensor], ms: list[Tensor], lr: float) -> None:
        """Move ``xs`` and ``ms``."""


class Sgd(_MomentumOptimizer):
    """Heavy ball with decoupled weight decay on matrices; torch's own decay would go through the momentum."""

    def _update(self, xs: list[Tensor], gs: list[Tensor], ms: list[Tensor], lr: float) -> None:
        torch._foreach_mul_([x for x in xs if x.ndim >= 2], 1 - lr * self._config.weight_decay)
        sgd(
            xs, gs, [*ms], fused=True, momentum=self._config.momentum, lr=lr,
            weight_decay=0.0, dampening=0.0, nesterov=False, maximize=False,
        )  # fmt: skip


class Muon(_MomentumOptimizer):
    """Nesterov momentum, orthonormalised by Newton-Schulz in bf16, scaled to AdamW's rms so that one learning rate fits both."""

    def _update(self, xs: list[Tensor], gs: list[Tensor], ms: list[Tensor], lr: float) -> None:
        muon(
            xs, gs, ms, lr=lr, weight_decay=self._config.weight_decay, momentum=self._config.momentum, nesterov=True,
            ns_coefficients=(DEFAULT_A, DEFAULT_B, DEFAULT_C), ns_steps=DEFAULT_NS_STEPS, eps=EPS,
            adjust_lr_fn="match_rms_adamw", has_complex=False,
        )  # fmt: skip
