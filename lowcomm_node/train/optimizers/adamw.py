"""AdamW, torch's fused one, on state that is made before the first step."""

from collections.abc import Sequence

import torch
from torch import nn

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
        groups = [
            {"params": [p for p in parameters if decays(p)], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if not decays(p)], "weight_decay": 0.0},
        ]
        betas = (config.beta1, config.beta2)
        self._optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)
        first, second = self._tensors[Stream.EXP_AVG], self._tensors[Stream.EXP_AVG_SQ]
        for parameter, count, exp_avg, exp_avg_sq in zip(parameters, self._counts, first, second, strict=True):
            self._optimizer.state[parameter] = {"step": count, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}

    @property
    def optimizer_steps(self) -> int:
        """t; torch counts for each parameter, on its device."""
        return self._optimizer_steps

    @optimizer_steps.setter
    def optimizer_steps(self, steps: int) -> None:
        self._optimizer_steps = steps
        for count in self._counts:
            count.fill_(float(steps))

    def step(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._optimizer_steps += 1

    def guard(self) -> None:
        config = self._config
        first, second = self._tensors[Stream.EXP_AVG], self._tensors[Stream.EXP_AVG_SQ]
        for exp_avg, exp_avg_sq in zip(first, second, strict=True):
            guard_(exp_avg, exp_avg_sq, self._optimizer_steps, config.beta1, config.beta2)
