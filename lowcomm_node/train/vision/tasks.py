"""The tasks ``vit`` and ``vgg``: the functions that docs/tasks.md asks of every task."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowcomm_node.settings.load import build
from lowcomm_node.train.vision.datasets import load_pictures
from lowcomm_node.train.vision.networks import Vgg, Vit
from lowcomm_node.train.vision.options import PictureOptions, VggOptions, VitOptions
from lowcomm_node.train.vision.pictures import Drawing, scaled

__all__ = ["VGG", "VIT", "PictureTask"]

_Options = TypeVar("_Options", bound=PictureOptions)
_WHERE = "model.config"

MANIFEST: Mapping[str, Mapping[str, object]] = {
    "model": {"context_length": 1},  # tokens are pictures
    "data": {"validation_ratio": 0.2},  # of digits, 363
    "training": {"batch_size": 32, "total_steps": 1000},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureTask(Generic[_Options]):
    """Says what a picture shows."""

    options: type[_Options]
    network: Callable[[_Options], nn.Module]
    manifest: Mapping[str, Mapping[str, object]]
    """What fits the digits."""

    def build(self, options: Mapping[str, object]) -> nn.Module:
        """The network. Raises ConfigError for options that are not allowed."""
        return self.network(build(self.options, options, _WHERE))

    def matrices(self, model: nn.Module) -> Collection[str]:
        """Those between hidden layers."""
        assert isinstance(model, Vit | Vgg), "build makes nothing else"
        return model.matrices()

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy in nats per picture."""
        pictures, classes = batch
        return functional.cross_entropy(model(pictures).float(), classes)

    def judge(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss, and the share of pictures whose likeliest class is the right one."""
        pictures, classes = batch
        logits = model(pictures).float()
        return functional.cross_entropy(logits, classes), (logits.argmax(1) == classes).float().mean()

    def load(
        self, options: Mapping[str, object], paths: Sequence[str], validation_ratio: float
    ) -> tuple[Drawing, tuple[Tensor, Tensor]]:
        """The node's pictures. Raises ConfigError and DataError."""
        chosen = build(self.options, options, _WHERE)
        train, held_out = load_pictures(chosen, paths, validation_ratio)
        pictures, classes = held_out.take(torch.arange(len(held_out)))
        data = Drawing(
            pictures=train,
            most_shift=chosen.side // 8 if chosen.augment else 0,
            is_mirroring=chosen.augment and chosen.dataset != "digits",
        )
        return data, (scaled(pictures), classes)

    def batch(self, data: Drawing, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pictures float32 ``(rows, channels, side, side)`` and classes int64 ``(rows,)``."""
        return data.batch(rows, generator)


VIT = PictureTask(options=VitOptions, network=Vit, manifest=MANIFEST)
VGG = PictureTask(options=VggOptions, network=Vgg, manifest=MANIFEST)
