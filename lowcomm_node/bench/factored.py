"""A replica that trains whole, or one factor of each of its matrices (AB-training, arXiv 2405.01067).

The model's own parameters stay W: between two steps they are A B, and the factor's gradient follows from theirs. So any
model can be trained so, with any inner optimizer whose step does not ask which parameter is a matrix.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lowcomm_node.algo.factors import Factors, factor_gradient, fit, set_product_, split, tall
from lowcomm_node.core.progress import learning_rate_at
from lowcomm_node.settings.manifest import Manifest, OuterConfig
from lowcomm_node.train.batches import Batch, num_rows
from lowcomm_node.train.factored import factored_positions
from lowcomm_node.train.optimizers.base import InnerOptimizer
from lowcomm_node.train.optimizers.build import build_optimizer
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import Factor, Stream

__all__ = ["FactoredReplica"]

_CPU = torch.device("cpu")


class FactoredReplica:
    """The replica of one group, which trains the same factor whenever its matrices are split.

    Moments are kept: those of whole tensors while factors are trained, those of the factor until the next split, where they are
    cut or filled up with zeros to its rank.
    """

    def __init__(self, manifest: Manifest, trained: Factor, least_side: int) -> None:
        self._manifest = manifest
        self.trained = trained
        self.replica = Replica(replace(manifest, outer=OuterConfig(every_steps=0)), _CPU)
        self._parameters = list(self.replica.model.parameters())
        self.positions = factored_positions(self.replica.model, manifest, least_side)
        """Of the tensors that are split."""
        self.whole = tuple(index for index in range(len(self._parameters)) if index not in self.positions)
        """Of all others."""
        self.factors: list[Factors] = []
        """One per position while factors are trained; nothing while everything is whole."""
        self._own = nn.ParameterList()
        self._optimizer: InnerOptimizer | None = None
        """Of the trained factors; kept for its moments while everything is whole."""

    def train_step(self, batch: Batch, ramp: float) -> None:
        """One inner step at ``ramp`` times the schedule's learning rate. As ``Replica.train_step`` does, it skips what is not finite."""
        replica, training = self.replica, self._manifest.training
        lr = ramp * learning_rate_at(replica.progress_steps, training, self._manifest.optimizer.lr)
        replica.model.zero_grad(set_to_none=True)
        loss = replica.loss(replica.model, batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._with_gradients(), training.grad_clip)
        if math.isfinite(float(loss.detach())) and math.isfinite(float(norm)):
            replica.optimizer.step(lr)
            if self.factors and self._optimizer is not None:
                self._optimizer.step(lr)
                self._rebuild()
        else:
            replica.nonfinite_steps += 1
        replica.steps += 1
        replica.data_cursor += 1
        replica.progress_steps += 1.0
        replica.tokens += num_rows(batch) * self._manifest.model.context_length

    def split(self, cutoff: float, budget_ratio: float = 1.0) -> list[Factors]:
        """Factors of all tensors that are split, for this replica and all that are equal to it."""
        return [split(tall(self.replica.theta[position]), cutoff, budget_ratio) for position in self.positions]

    def take_factors(self, factors: Sequence[Factors]) -> None:
        """From now on train one factor of each; what was cut off is gone from the weights."""
        self._own = nn.ParameterList(nn.Parameter(own.of(self.trained).clone()) for own in factors)
        learned = [parameter.data for parameter in self._own]
        self.factors = [
            Factors(own, given.B) if self.trained is Factor.A else Factors(given.A, own)
            for own, given in zip(learned, factors, strict=True)
        ]
        before = self._optimizer
        self._optimizer = build_optimizer(self._own, self._manifest)
        if before is not None:
            for stream in self._optimizer.members:
                for new, old in zip(self._optimizer.tensors(stream), before.tensors(stream), strict=True):
                    new.copy_(fit(old, new.shape))
            self._optimizer.optimizer_steps = before.optimizer_steps
        self._rebuild()

    def take_joined(self, joined: Sequence[Factors]) -> None:
        """From now on train whole, from the product of these."""
        self.factors = list(joined)
        self._rebuild()
        self.factors = []

    def whole_tensors(self) -> list[Tensor]:
        """Live: the weights of what is never split, and the optimizer's state of them."""
        theta = [self.replica.theta[position] for position in self.whole]
        return theta + [tensor for stream in self._streams for tensor in self._of_whole(stream)]

    def take_over(self, other: "FactoredReplica") -> None:
        """Become equal to a replica that trains whole, moments of factors and of what is split apart. Own counts stay."""
        for own, foreign in zip(self.replica.theta, other.replica.theta, strict=True):
            own.copy_(foreign)
        for own, foreign in zip(self.whole_tensors(), other.whole_tensors(), strict=True):
            own.copy_(foreign)
        mine, theirs = self.replica, other.replica
        mine.optimizer.optimizer_steps = theirs.optimizer_steps
        mine.steps, mine.data_cursor, mine.progress_steps = theirs.steps, theirs.data_cursor, theirs.progress_steps

    @property
    def _streams(self) -> tuple[Stream, ...]:
        return tuple(self.replica.optimizer.members)

    def _of_whole(self, stream: Stream) -> list[Tensor]:
        members = self.replica.optimizer.members[stream]
        pairs = zip(members, self.replica.tensors(stream), strict=True)
        return [tensor for position, tensor in pairs if position in self.whole]

    def _with_gradients(self) -> list[nn.Parameter]:
        """What is trained now, each with its gradient; what is split has none of its own."""
        for parameter in self._parameters:
            if parameter.grad is None:  # an expert that no example was sent to
                parameter.grad = torch.zeros_like(parameter)
        if not self.factors:
            return self._parameters
        for own, factors, position in zip(self._own, self.factors, self.positions, strict=True):
            gradient = self._parameters[position].grad
            assert gradient is not None, "made above"
            own.grad = factor_gradient(tall(gradient), factors, self.trained)
            self._parameters[position].grad = None
        return [*(self._parameters[position] for position in self.whole), *self._own]

    def _rebuild(self) -> None:
        for position, factors in zip(self.positions, self.factors, strict=True):
            set_product_(self.replica.theta[position], factors)
