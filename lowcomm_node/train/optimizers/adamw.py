"""AdamW, torch's fused one, on state that is made before the first step.

Called as a function: torch's optimizer objects import its compiler, which nothing here uses. That is a second of a
trainer's start and 70 MiB of its memory.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim.adamw import adamw

from lowcomm_node.algo.moments import guard_
from lowcomm_node.settings.manifest import OptimizerConfig
from lowcomm_node.settings.streams import StateStream
from lowcomm_node.train.optimizers.base import ZeroStateOptimizer, decays
from lowcomm_node.units import Stream

__all__ = ["AdamW"]


class AdamW(ZeroStateOptimizer):
    """Decoupled weight decay on matrices only."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        positions: Sequence[int],
        streams: tuple[StateStream, ...],
        config: OptimizerConfig,
    ) -> None:
        self._counts = [torch.zeros((), device=parameter.device) for parameter in parameters]
        super().__init__(parameters, positions, streams)
        self._config = config

    @property
    def optimizer_steps(self) -> int:
        """t; torch counts for each parameter, on its device."""
        return self._optimizer_steps

    @optimizer_steps.setter
    def optimizer_steps(self, steps: int) -> None:
        self._optimizer_steps = steps
        for count in self._counts:
            count.fill_(float(steps))

    @torch.no_grad()
    def step(self, lr: float) -> None:
        moving = [index for index, parameter in enumerate(self._parameters) if parameter.grad is not None]
        matrices = [index for index in moving if decays(self._parameters[index])]
        self._move(matrices, lr, self._config.weight_decay)
        self._move([index for index in moving if index not in matrices], lr, 0.0)
        self._optimizer_steps += 1

    def _move(self, moving: list[int], lr: float, weight_decay: float) -> None:
        config, parameters = self._config, [self._parameters[index] for index in moving]
        first, second = self._tensors[Stream.EXP_AVG], self._tensors[Stream.EXP_AVG_SQ]
        adamw(
            list(parameters),
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [first[index] for index in moving],
            [second[index] for index in moving],
            [],
            [self._counts[index] for index in moving],
            fused=True,
            amsgrad=False,
            beta1=config.beta1,
            beta2=config.beta2,
            lr=lr,
            weight_decay=weight_decay,
            eps=config.eps,
            maximize=False,
        )

    def guard(self) -> None:
        config = self._config
        first, second = self._tensors[Stream.EXP_AVG], self._tensors[Stream.EXP_AVG_SQ]
        for exp_avg, exp_avg_sq in zip(first, second, strict=True):
            guard_(exp_avg, exp_avg_sq, self._optimizer_steps, config.beta1, config.beta2)
