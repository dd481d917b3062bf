"""One node's copy of everything that is trained: weights, AdamW moments, outer state; and the inner and outer step.

Symbols as in ALGORITHMS: theta fast weights (what the model trains on), phi slow weights (anchor of the last outer
step), delta outer momentum, u and v first and second moment, t optimizer steps.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcomm_node.algo.moments import bias_correction, guard_
from lowcomm_node.algo.noloco import outer_step_
from lowcomm_node.core.progress import learning_rate_at
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.evaluate import language_model_loss
from lowcomm_node.train.model import build_model, parameter_shapes
from lowcomm_node.train.state_file import Counters, TrainingState
from lowcomm_node.units import Stream

__all__ = ["Replica", "StepResult"]


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one inner step did."""

    loss: float
    gradient_norm: float
    """Before clipping."""
    learning_rate: float
    is_finite: bool
    """False: loss or gradient was not finite, and the update was skipped."""


class Replica:
    """Weights, moments and outer state of one node, with the steps that change them.

    All state is float32 on ``device``. Meetings change it between two steps (payloads.apply_corrections).
    """

    def __init__(self, manifest: Manifest, device: torch.device) -> None:
        self._manifest = manifest
        self.device = device
        self.model = build_model(manifest).to(device)
        self.names = [name for name, _ in self.model.named_parameters()]
        self.shapes = parameter_shapes(self.model)
        self._parameters = list(self.model.parameters())
        self.theta = [parameter.data for parameter in self._parameters]
        self.phi = [theta.clone() for theta in self.theta]
        self.delta = [torch.zeros_like(theta) for theta in self.theta]
        self.has_mixed = manifest.outer.mixing == "momentum"
        self.mixed = [torch.zeros_like(theta) for theta in self.theta] if self.has_mixed else []
        self._optimizer = _build_adamw(self._parameters, manifest)
        self.exp_avg = [self._optimizer.state[parameter]["exp_avg"] for parameter in self._parameters]
        self.exp_avg_sq = [self._optimizer.state[parameter]["exp_avg_sq"] for parameter in self._parameters]
        self.progress_steps = 0.0
        self.steps = 0
        self.optimizer_steps = 0
        self.tokens = 0
        self.data_cursor = 0
        self.outer_steps = 0
        self.nonfinite_steps = 0

    def train_step(self, batch: Tensor) -> StepResult:
        """One inner step (AdamW) on int64 ``batch`` (B, T + 1), and the outer step when it is due.

        A loss or gradient that is not finite is counted and skipped: weights and moments stay, the step and its
        data count as taken.
        """
        training, optimizer = self._manifest.training, self._manifest.optimizer
        learning_rate = learning_rate_at(self.progress_steps, training, optimizer.lr)
        self._optimizer.zero_grad(set_to_none=True)
        loss = language_model_loss(self.model, batch.to(self.device, non_blocking=True))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, training.grad_clip)
        loss_value, norm_value = torch.stack((loss.detach(), norm)).tolist()
        is_finite = math.isfinite(loss_value) and math.isfinite(norm_value)
        if is_finite:
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate
            self._optimizer.step()
            self.optimizer_steps += 1
        else:
            self.nonfinite_steps += 1
        self.steps += 1
        self.data_cursor += 1
        self.progress_steps += 1.0
        self.tokens += batch[:, 1:].numel()
        every_steps = self._manifest.outer.every_steps
        if every_steps and self.steps % every_steps == 0:
            self._outer_step()
        return StepResult(loss_value, norm_value, learning_rate, is_finite)

    def is_ready(self, stream: Stream) -> bool:
        """Is there something to exchange? Moments mean nothing before the first optimizer step."""
        return stream is Stream.PARAMS or self.optimizer_steps > 0

    def views(self, stream: Stream) -> list[Tensor]:
        """The stream in the coordinates that meetings average, one float32 tensor per parameter; read-only.

        params: theta. Moments are bias-corrected, u / (1 - beta1^t) and v / (1 - beta2^t), so that nodes of
        different age compare (DES-LOC 2505.22549); the counts t themselves are not averaged.
        """
        if stream is Stream.PARAMS:
            return self.theta
        tensors = self.exp_avg if stream is Stream.EXP_AVG else self.exp_avg_sq
        scale = 1 / self.bias_correction(stream)
        return [tensor * scale for tensor in tensors]

    def bias_correction(self, stream: Stream) -> float:
        """1 - beta^t of a moment; 1 for params. Only for streams that are ready."""
        if stream is Stream.PARAMS:
            return 1.0
        config = self._manifest.optimizer
        beta = config.beta1 if stream is Stream.EXP_AVG else config.beta2
        return bias_correction(beta, self.optimizer_steps)

    def guard_moments(self) -> None:
        """Clamp |u| <= sqrt(v), bias-corrected: foreign first moments must not meet an own second moment of nothing."""
        config = self._manifest.optimizer
        for exp_avg, exp_avg_sq in zip(self.exp_avg, self.exp_avg_sq, strict=True):
            guard_(exp_avg, exp_avg_sq, self.optimizer_steps, config.beta1, config.beta2)

    def state(self) -> TrainingState:
        """Everything that ``load`` needs; shares memory with the replica, so write it out before the next step."""
        groups = {
            "params": self.theta,
            "slow": self.phi,
            "outer_momentum": self.delta,
            "exp_avg": self.exp_avg,
            "exp_avg_sq": self.exp_avg_sq,
        }
        if self.has_mixed:
            groups["mixed"] = self.mixed
        tensors = {
            f"{group}/{name}": tensor.contiguous()
            for group, tensors in groups.items()
            for name, tensor in zip(self.names, tensors, strict=True)
        }
        counters = Counters(
            progress_steps=self.progress_steps,
            steps=self.steps,
            optimizer_steps=self.optimizer_steps,
            tokens=self.tokens,
            data_cursor=self.data_cursor,
        )
        return TrainingState(tensors=tensors, counters=counters)

    def load(self, state: TrainingState, *, is_own: bool) -> None:
        """Take over a verified state. A donor's brings weights, moments, outer state and progress; own counts stay 0."""
        own = self.state().tensors
        for key, tensor in state.tensors.items():
            own[key].copy_(tensor)
        counters = state.counters
        self.progress_steps = counters.progress_steps
        self.optimizer_steps = counters.optimizer_steps
        for parameter in self._parameters:
            self._optimizer.state[parameter]["step"].fill_(float(counters.optimizer_steps))
        self.steps = counters.steps if is_own else 0
        self.tokens = counters.tokens if is_own else 0
        self.data_cursor = counters.data_cursor if is_own else 0

    def _outer_step(self) -> None:
        outer = self._manifest.outer
        for index, theta in enumerate(self.theta):
            mixed = self.mixed[index] if self.has_mixed else None
            outer_step_(theta, self.phi[index], self.delta[index], mixed, momentum=outer.momentum, lr=outer.lr)
        self.outer_steps += 1


def _build_adamw(parameters: list[torch.nn.Parameter], manifest: Manifest) -> torch.optim.AdamW:
    """AdamW with decay on matrices only, its state made at once so that the moments exist before the first step."""
    config = manifest.optimizer
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter.data),
            "exp_avg_sq": torch.zeros_like(parameter.data),
        }
    return optimizer
