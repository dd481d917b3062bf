"""How good a model is: its loss on a batch, as this node computes it, and on held-out examples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.batches import Batch, num_rows, parts_of, to_device
from lowcomm_node.train.tasks import find_task

__all__ = ["Loss", "language_model_loss", "loss_of", "validation_loss"]

LossFunction = Callable[[nn.Module, Any], Tensor]
"""Mean loss of the examples of a batch, 0-d."""


@dataclass(frozen=True, slots=True)
class Loss:
    """The run's loss, computed on this node in the precision of its device. Weights and gradients are float32 in either."""

    function: LossFunction
    is_autocast: bool = False
    """Matrix products in bfloat16; the loss itself, sums and norms stay float32."""

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        if not self.is_autocast:
            return self.function(model, batch)
        device = batch.device if isinstance(batch, Tensor) else batch[0].device
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return self.function(model, batch)


def loss_of(manifest: Manifest, *, is_autocast: bool = False) -> Loss:
    """The loss that the run trains by. Raises ConfigError for a task that is not installed."""
    is_task = manifest.model.kind == "task"
    return Loss(find_task(manifest.model.task).loss if is_task else language_model_loss, is_autocast)


def language_model_loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Mean cross-entropy in nats per token (0-d float32) of predicting ``batch[:, 1:]`` from ``batch[:, :-1]``."""
    output = model(batch[:, :-1])
    logits: Tensor = getattr(output, "logits", output)  # models of transformers wrap them
    return functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())


def validation_loss(
    model: nn.Module, batches: Sequence[Batch], micro_batches: int = 1, loss: LossFunction = language_model_loss
) -> float:
    """Mean loss over all batches' examples, in nats; the model's training mode is restored.

    Each batch is looked at in ``micro_batches`` parts, at most one per example, which changes the result by rounding only.
    """
    was_training = model.training
    device = next(model.parameters()).device
    model.eval()
    parts = [part for batch in batches for part in parts_of(batch, micro_batches)]
    try:
        with torch.no_grad():
            total = sum(float(loss(model, to_device(part, device))) * num_rows(part) for part in parts)
    finally:
        model.train(was_training)
    return total / sum(map(num_rows, batches))
