"""Dion for the hidden matrices of a model, in the form that meetings, state files and the trainer know."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lowcomm_node.algo.dion import dion_rounds, rank_of, seeded_basis
from lowcomm_node.algo.group import ALONE, Group, mean_all_
from lowcomm_node.settings.manifest import OptimizerConfig
from lowcomm_node.settings.streams import state_streams
from lowcomm_node.train.optimizers.base import InnerOptimizer
from lowcomm_node.units import Stream

__all__ = ["DionOptimizer"]

_STATE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class DionOptimizer(InnerOptimizer):
    """``algo.dion`` over a list of matrices, with state in ``config.state_dtype`` on the devices of the parameters.

    Momentum has the shape of its parameter, the basis (short side, r). Every node draws the same first bases from ``seed``.
    In a ``group`` of several replicas all of them call ``step`` together; their parameters and bases start and stay alike, each
    has a momentum of its own, and a parameter without gradient counts as one with a gradient of zero.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        positions: tuple[int, ...],
        names: Sequence[str],
        config: OptimizerConfig,
        seed: bytes,
        *,
        group: Group = ALONE,
        flatten: bool = False,
    ) -> None:
        """Zero momentum and seeded bases, for ``parameters`` at ``positions`` of ``model.parameters()``, called ``names``.

        ``flatten`` views a tensor of more than two dimensions, such as a convolution's kernel, as (out, rest). Raises ValueError,
        naming the tensor, for one that is no matrix and not viewed as one.
        """
        for name, parameter in zip(names, parameters, strict=True):
            if parameter.ndim < 2 or (parameter.ndim > 2 and not flatten):
                raise ValueError(f"{name}: Dion updates matrices, and this one has shape {tuple(parameter.shape)}")
        kept = (Stream.MOMENTUM, Stream.BASIS)
        self.streams = tuple(stream for stream in state_streams(config) if stream.name in kept)
        self.members = dict.fromkeys(kept, positions)
        self.local_streams = (Stream.MOMENTUM,) if group.size > 1 else ()
        self.optimizer_steps = 0
        self._parameters = list(parameters)
        self._positions = positions
        self._config = config
        self._seed = seed
        self._group = group
        dtype = _STATE_DTYPES[config.state_dtype]
        self._momenta = [torch.zeros(parameter.shape, dtype=dtype, device=parameter.device) for parameter in parameters]
        self._bases = [
            seeded_basis(
                self._seed_of(index),
                min(_matrix(parameter).shape),
                rank_of(parameter.shape, config.rank_fraction, config.rank_multiple),
            ).to(device=parameter.device, dtype=dtype)
            for index, parameter in enumerate(parameters)
        ]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        self.optimizer_steps += 1
        is_alone = self._group.size == 1
        rounds = [
            self._rounds(index, lr)
            for index, parameter in enumerate(self._parameters)
            if parameter.grad is not None or not is_alone
        ]
        # Alone, one matrix after another, so that what a step holds beside its state is freed soonest. In a group all of them
        # at once: two messages a step, however many matrices. ``strict`` makes zip drive every one to its end.
        for batch in [[one] for one in rounds] if is_alone else [rounds]:
            for parts in zip(*batch, strict=True):
                mean_all_(self._group, parts)

    def tensors(self, stream: Stream) -> list[Tensor]:
        return {Stream.MOMENTUM: self._momenta, Stream.BASIS: self._bases}[stream]

    def _rounds(self, index: int, lr: float) -> Iterator[Tensor]:
        parameter = self._parameters[index]
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        return dion_rounds(
            _matrix(parameter),
            [_matrix(self._momenta[index])],
            self._bases[index],
            [gradient.flatten(1)],
            lr=lr,
            mu=self._config.momentum,
            weight_decay=self._config.weight_decay,
            seed=self._seed_of(index),
        )

    def _seed_of(self, index: int) -> bytes:
        """Another one for every matrix and step; that of step 0 draws the first basis."""
        return self._seed + self._positions[index].to_bytes(8, "little") + self.optimizer_steps.to_bytes(8, "little")


def _matrix(tensor: Tensor) -> Tensor:
    """The (out, rest) view of a tensor; never a copy, since it is written to."""
    return tensor if tensor.ndim == 2 else tensor.view(tensor.shape[0], -1)
