"""Inner optimizers whose fast form is our own (``algo.inner``), over all tensors at once: ADOPT, MT-DAO and Lion."""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from lowcomm_node.algo.inner import adopt_step_, lion_step_, mtdao_step_
from lowcomm_node.algo.moments import guard_
from lowcomm_node.settings.manifest import OptimizerConfig
from lowcomm_node.settings.streams import StateStream
from lowcomm_node.train.optimizers.base import ZeroStateOptimizer, decays
from lowcomm_node.units import Stream

__all__ = ["Adopt", "Lion", "MtDao"]


class _ForeachOptimizer(ZeroStateOptimizer):
    """Decoupled weight decay on matrices only; ``lr_scales`` are factors of the learning rate, one per parameter."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        positions: Sequence[int],
        streams: tuple[StateStream, ...],
        config: OptimizerConfig,
        lr_scales: Sequence[float] | None = None,
    ) -> None:
        super().__init__(parameters, positions, streams)
        self._config = config
        self._lr_scales = lr_scales or [1.0] * len(parameters)
        self._weight_decays = [config.weight_decay if decays(parameter) else 0.0 for parameter in parameters]

    def step(self, lr: float) -> None:
        self.optimizer_steps += 1
        moving = [index for index, parameter in enumerate(self._parameters) if parameter.grad is not None]
        parameters = [self._parameters[index] for index in moving]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        states = [[self._tensors[stream.name][index] for index in moving] for stream in self.streams]
        rates = [lr * self._lr_scales[index] for index in moving]
        self._update([p.data for p in parameters], gradients, states, rates, [self._weight_decays[k] for k in moving])

    @abstractmethod
    def _update(
        self, xs: list[Tensor], gs: list[Tensor], states: list[list[Tensor]], lr: list[float], wd: list[float]
    ) -> None:
        """Move ``xs`` and ``states`` (a list per stream, in the order of ``streams``)."""


class Adopt(_ForeachOptimizer):
    """ADOPT. It needs no guard: its momentum is normalised before it is averaged."""

    def _update(
        self, xs: list[Tensor], gs: list[Tensor], states: list[list[Tensor]], lr: list[float], wd: list[float]
    ) -> None:
        config, (ms, vs) = self._config, states
        adopt_step_(
            xs, gs, ms, vs, self.optimizer_steps,
            lr=lr, beta1=config.beta1, beta2=config.beta2, eps=config.eps, wd=wd,
        )  # fmt: skip


class MtDao(_ForeachOptimizer):
    """MT-DAO with one slow momentum."""

    def _update(
        self, xs: list[Tensor], gs: list[Tensor], states: list[list[Tensor]], lr: list[float], wd: list[float]
    ) -> None:
        config, (us, vs) = self._config, states
        mtdao_step_(
            xs, gs, us, vs, self.optimizer_steps,
            lr=lr, beta1=config.beta1, beta2=config.beta2, eps=config.eps, wd=wd, w=config.momentum_share,
        )  # fmt: skip

    def guard(self) -> None:
        config = self._config
        first, second = self._tensors[Stream.EXP_AVG], self._tensors[Stream.EXP_AVG_SQ]
        for exp_avg, exp_avg_sq in zip(first, second, strict=True):
            guard_(exp_avg, exp_avg_sq, self.optimizer_steps, config.beta1, config.beta2)


class Lion(_ForeachOptimizer):
    """Lion, for what Muon and Dion leave over."""

    def _update(
        self, xs: list[Tensor], gs: list[Tensor], states: list[list[Tensor]], lr: list[float], wd: list[float]
    ) -> None:
        config = self._config
        lion_step_(xs, gs, states[0], lr=lr, beta1=config.beta1, beta2=config.beta2, wd=wd)
