"""How good a model is: its loss on a batch, as this node computes it; its loss and accuracy on held-out examples."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.batches import Batch, num_rows, parts_of, to_device
from lowcomm_node.train.tasks import Judge, find_task, judge_of

__all__ = ["Look", "Loss", "language_model_loss", "look_at", "loss_of", "validation_loss"]

LossFunction = Callable[[nn.Module, Any], Tensor]
"""Mean loss of the examples of a batch, 0-d."""


@dataclass(frozen=True, slots=True)
class Loss:
    """The run's loss, computed on this node in the precision of its device. Weights and gradients are float32 in either."""

    function: LossFunction
    is_autocast: bool = False
    """Matrix products in bfloat16; the loss itself, sums and norms stay float32."""
    judging: Judge | None = None
    """Where the run's answers are right or wrong: the loss, and the share of those that are right."""

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        with self._precision(batch):
            return self.function(model, batch)

    def judge(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The loss, and the share of examples that are answered right, both 0-d; None where that has no meaning."""
        if self.judging is None:
            return self(model, batch), None
        with self._precision(batch):
            return self.judging(model, batch)

    def _precision(self, batch: Batch) -> AbstractContextManager[object]:
        if not self.is_autocast:
            return nullcontext()
        device = batch.device if isinstance(batch, Tensor) else batch[0].device
        return torch.autocast(device.type, dtype=torch.bfloat16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What held-out examples say of a model."""

    loss: float
    """Mean over them, in nats."""
    accuracy: float = math.nan
    """Share that is answered right; NaN where the run's task does not say."""


def loss_of(manifest: Manifest, *, is_autocast: bool = False) -> Loss:
    """The loss that the run trains by. Raises ConfigError for a task that is not installed."""
    if manifest.model.kind != "task":
        return Loss(language_model_loss, is_autocast)
    task = find_task(manifest.model.task)
    return Loss(task.loss, is_autocast, judge_of(task))


def language_model_loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Mean cross-entropy in nats per token (0-d float32) of predicting ``batch[:, 1:]`` from ``batch[:, :-1]``."""
    output = model(batch[:, :-1])
    logits: Tensor = getattr(output, "logits", output)  # models of transformers wrap them
    return functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())


def look_at(model: nn.Module, batches: Sequence[Batch], loss: Loss, micro_batches: int = 1) -> Look:
    """Means over all batches' examples; the model's training mode is restored.

    Each batch is looked at in ``micro_batches`` parts, at most one per example, which changes the result by rounding only.
    """
    was_training = model.training
    device = next(model.parameters()).device
    model.eval()
    parts = [part for batch in batches for part in parts_of(batch, micro_batches)]
    total, right = 0.0, list[float]()
    try:
        with torch.no_grad():
            for part in parts:
                mean, share = loss.judge(model, to_device(part, device))
                total += float(mean) * num_rows(part)
                if share is not None:
                    right.append(float(share) * num_rows(part))
    finally:
        model.train(was_training)
    count = sum(map(num_rows, batches))
    return Look(loss=total / count, accuracy=sum(right) / count if right else math.nan)


def validation_loss(
    model: nn.Module, batches: Sequence[Batch], micro_batches: int = 1, loss: LossFunction = language_model_loss
) -> float:
    """The loss of ``look_at``, by any function."""
    return look_at(model, batches, loss if isinstance(loss, Loss) else Loss(loss), micro_batches).loss
