"""Pictures with their classes, and drawing batches of them: shifted and mirrored at random, by the batch's generator alone."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Drawing", "InMemory", "Pictures", "scaled"]


class Pictures(Protocol):
    """A data set."""

    def __len__(self) -> int: ...

    def take(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures uint8 ``(rows, channels, side, side)`` and classes int64 ``(rows,)``. Raises DataError for one that is damaged."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class InMemory:
    """All of them at hand."""

    pictures: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.classes)

    def take(self, places: Tensor) -> tuple[Tensor, Tensor]:
        return self.pictures[places], self.classes[places]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """What a node trains on, and how."""

    pictures: Pictures
    most_shift: int
    """Pixels; 0 leaves them where they are."""
    is_mirroring: bool

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``rows`` of them, each equally likely."""
        pictures, classes = self.pictures.take(torch.randint(len(self.pictures), (rows,), generator=generator))
        if self.most_shift:
            pictures = _shifted(pictures, self.most_shift, generator)
        if self.is_mirroring:
            is_mirrored = torch.randint(2, (rows, 1, 1, 1), generator=generator).bool()
            pictures = torch.where(is_mirrored, pictures.flip(3), pictures)
        return scaled(pictures), classes


def scaled(pictures: Tensor) -> Tensor:
    """uint8 as float32 from -1 to 1."""
    return pictures.float() / 127.5 - 1


def _shifted(pictures: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Each by up to ``most`` pixels along either side; what comes in is black."""
    rows, side = len(pictures), pictures.shape[2]
    around = functional.pad(pictures, (most,) * 4)
    down, across = torch.randint(2 * most + 1, (2, rows, 1), generator=generator) + torch.arange(side)
    return around[torch.arange(rows).view(-1, 1, 1), :, down.unsqueeze(2), across.unsqueeze(1)].permute(0, 3, 1, 2)
