"""Two small networks for pictures ``(rows, channels, side, side)``; both give logits ``(rows, classes)``.

Neither keeps running statistics: BatchNorm's are buffers, which meetings do not exchange, and are of each node's own data, so the mean
of two nodes' weights would be judged by statistics that are neither's. LayerNorm and GroupNorm look at one example at a time.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowcomm_node.train.vision.options import VggOptions, VitOptions

__all__ = ["Vgg", "Vit"]

_GROUP = 8
"""Channels that GroupNorm takes together."""


class Vit(nn.Module):
    """A transformer on patches, with the mean over patches in place of a class token."""

    def __init__(self, options: VitOptions) -> None:
        super().__init__()
        patch = options.patch_side
        self.embed = nn.Conv2d(options.channels, options.width, patch, stride=patch)
        self.positions = nn.Parameter(0.5 * torch.randn((options.side // patch) ** 2, options.width))
        self.blocks = nn.ModuleList(_Block(options.width, options.heads) for _ in range(options.depth))
        self.norm = nn.LayerNorm(options.width)
        self.head = nn.Linear(options.width, options.num_classes)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.embed(pictures).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x).mean(1))
        return logits

    def matrices(self) -> list[str]:
        """Names of the parameters between hidden layers that are matrices."""
        return [name for name, p in self.named_parameters() if name.startswith("blocks.") and p.ndim == 2]


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.attention_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        # One matrix each, so that what works on matrices sees three and not their mixture.
        self.query, self.key, self.value, self.mix = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.rise, self.fall = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention_norm(x)
        q, k, v = (self._split(layer(y)) for layer in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.mix(mixed.transpose(1, 2).flatten(2))
        out: Tensor = x + self.fall(functional.gelu(self.rise(self.norm(x))))
        return out

    def _split(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(2, (self._heads, -1))
        return heads.transpose(1, 2)


class Vgg(nn.Module):
    """Convolutions with GroupNorm in place of BatchNorm, and one hidden layer."""

    def __init__(self, options: VggOptions) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = options.channels
        for stage in range(options.num_stages):
            width = options.width << stage
            for _ in range(options.depth):
                layers += [
                    nn.Conv2d(channels, width, 3, padding=1, bias=False),
                    nn.GroupNorm(width // _GROUP, width),
                    nn.ReLU(),
                ]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers, nn.Flatten())
        hidden = 2 * channels
        self.hidden = nn.Linear(channels * (options.side >> options.num_stages) ** 2, hidden)
        self.head = nn.Linear(hidden, options.num_classes)

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.head(functional.relu(self.hidden(self.features(pictures))))
        return logits

    def matrices(self) -> list[str]:
        """As of ``Vit``; filters have four dimensions."""
        return ["hidden.weight"]
