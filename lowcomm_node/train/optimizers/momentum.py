"""SGD with momentum and Muon, torch's own, on state that is made before the first step."""

from collections.abc import Sequence

import torch
from torch import nn

from lowcomm_node.settings.manifest import OptimizerConfig
from lowcomm_node.settings.streams import StateStream
from lowcomm_node.train.optimizers.base import ZeroStateOptimizer, decays
from lowcomm_node.units import Stream

__all__ = ["Muon", "Sgd"]


class _MomentumOptimizer(ZeroStateOptimizer):
    """Around a torch optimizer that keeps one ``momentum_buffer`` per parameter."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        positions: Sequence[int],
        streams: tuple[StateStream, ...],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        super().__init__(parameters, positions, streams)
        self._optimizer = optimizer
        for parameter, momentum in zip(parameters, self._tensors[Stream.MOMENTUM], strict=True):
            optimizer.state[parameter]["momentum_buffer"] = momentum

    def step(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self.optimizer_steps += 1


class Sgd(_MomentumOptimizer):
    """Heavy ball with decoupled weight decay on matrices; torch's own decay would go through the momentum."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        positions: Sequence[int],
        streams: tuple[StateStream, ...],
        config: OptimizerConfig,
    ) -> None:
        optimizer = torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum, fused=True)
        super().__init__(parameters, positions, streams, optimizer)
        self._weight_decay = config.weight_decay

    def step(self, lr: float) -> None:
        moving = [parameter.data for parameter in self._parameters if parameter.grad is not None and decays(parameter)]
        torch._foreach_mul_(moving, 1 - lr * self._weight_decay)
        super().step(lr)


class Muon(_MomentumOptimizer):
    """Nesterov momentum, orthonormalised by Newton-Schulz in bf16, scaled to AdamW's rms so that one learning rate fits both."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        positions: Sequence[int],
        streams: tuple[StateStream, ...],
        config: OptimizerConfig,
    ) -> None:
        optimizer = torch.optim.Muon(
            parameters,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            nesterov=True,
            adjust_lr_fn="match_rms_adamw",
        )
        super().__init__(parameters, positions, streams, optimizer)
