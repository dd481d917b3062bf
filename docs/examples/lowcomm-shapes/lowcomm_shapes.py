"""A task for lowcomm-node: is there a square or a cross in a noisy grey picture? The five functions that docs/tasks.md explains.

Its pictures are drawn here, so that the example needs no files; a real task would read them from ``paths`` in ``load``.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["batch", "build", "load", "loss", "matrices"]

_HELD_OUT_SEED = 1


def build(options: Mapping[str, object]) -> nn.Module:
    """A small network on pictures of ``size`` by ``size``; the swarm sees to it that every node draws the same weights."""
    size, width = int(str(options.get("size", 16))), int(str(options.get("width", 32)))
    return nn.Sequential(
        nn.Conv2d(1, width // 4, 3, padding=1),
        nn.GELU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(width // 4 * (size // 2) ** 2, width),
        nn.GELU(),
        nn.Linear(width, 2),
    )


def matrices(model: nn.Module) -> Sequence[str]:
    """The one matrix between hidden layers: not the filters, which have four dimensions, and not what makes the answer."""
    del model
    return ["4.weight"]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy in nats a picture."""
    pictures, answers = batch
    return functional.cross_entropy(model(pictures).float(), answers)


def load(
    options: Mapping[str, object], paths: Sequence[str], validation_ratio: float
) -> tuple[Sequence[int], tuple[Tensor, Tensor]]:
    """What this node trains on, and what no node trains on."""
    del paths
    size, examples = int(str(options.get("size", 16))), int(str(options.get("examples", 10_000)))
    held_out = max(1, int(examples * validation_ratio))
    return [size] * (examples - held_out), _draw(size, held_out, torch.Generator().manual_seed(_HELD_OUT_SEED))


def batch(data: Sequence[int], rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``rows`` new pictures, by the generator alone."""
    return _draw(data[0], rows, generator)


def _draw(size: int, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures ``(rows, 1, size, size)`` and answers ``(rows,)``: 1 for a cross."""
    answers = torch.randint(2, (rows,), generator=generator)
    radius = size * (0.25 + 0.1 * torch.rand(rows, 1, 1, generator=generator))
    centre = size * (0.35 + 0.3 * torch.rand(2, rows, 1, 1, generator=generator))
    line = torch.arange(size) + 0.5
    across, down = (line.view(1, 1, -1) - centre[0]).abs(), (line.view(1, -1, 1) - centre[1]).abs()
    square, cross = torch.maximum(across, down) < radius, torch.minimum(across, down) < radius / 3
    inside = (square & (cross | (answers.view(-1, 1, 1) == 0))).float()
    noise = 0.2 * torch.randn(rows, size, size, generator=generator)
    return (inside + noise).unsqueeze(1), answers
