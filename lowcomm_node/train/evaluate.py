"""How good a model is on held-out text."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["language_model_loss", "validation_loss"]


def language_model_loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Mean cross-entropy in nats per token (0-d float32) of predicting ``batch[:, 1:]`` from ``batch[:, :-1]``.

    The forward pass runs in bfloat16 autocast on CUDA and in float32 on the CPU; the loss is float32 on both.
    """
    device_type = batch.device.type
    with torch.autocast(device_type, dtype=torch.bfloat16, enabled=device_type == "cuda"):
        logits = model(batch[:, :-1])
    return functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())


def validation_loss(model: nn.Module, batches: Sequence[Tensor], micro_batches: int = 1) -> float:
    """Mean loss per token over all batches, in nats; the model's training mode is restored.

    Each batch is looked at in ``micro_batches`` parts, at most one per example, which changes the result by rounding only.
    """
    was_training = model.training
    device = next(model.parameters()).device
    model.eval()
    parts = [part for batch in batches for part in batch.tensor_split(min(micro_batches, len(batch)))]
    try:
        with torch.no_grad():
            total = sum(float(language_model_loss(model, part.to(device))) * part[:, 1:].numel() for part in parts)
    finally:
        model.train(was_training)
    return total / sum(batch[:, 1:].numel() for batch in batches)
