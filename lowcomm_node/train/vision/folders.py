"""Folders of pictures, a folder for each class: listed at the start, read from the disk when a batch needs them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lowcomm_node.errors import ConfigError, DataError
from lowcomm_node.train.data.held_out import is_held_out
from lowcomm_node.train.vision.options import PictureOptions
from lowcomm_node.train.vision.pictures import InMemory

__all__ = ["Folders", "load_folders"]

_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".tif", ".tiff"})
_MOST_HELD_OUT = 1024
"""Of the held-out files so many are looked at; they are decoded once and stay in memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Folders:
    """Files with their classes."""

    files: Sequence[tuple[Path, int]]
    side: int

    def __len__(self) -> int:
        return len(self.files)

    def take(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """As ``Pictures.take``."""
        chosen = [self.files[place] for place in places.tolist()]
        pictures = torch.stack([_read(path, self.side) for path, _ in chosen])
        return pictures, torch.tensor([number for _, number in chosen])


def load_folders(options: PictureOptions, paths: Sequence[str], validation_ratio: float) -> tuple[Folders, InMemory]:
    """All pictures under ``paths``, each a folder of the classes' folders; held out by a hash of class and file name.

    A node may lack some of the classes. Raises ConfigError without Pillow; DataError for a path without pictures, or a held-out
    picture that cannot be read.
    """
    try:
        import PIL.Image  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            f'dataset = "folder" needs the package pillow ({error}): pip install "lowcomm-node[vision]"'
        ) from error
    found: dict[str, tuple[Path, int]] = {}
    for path in paths:
        files = _find(Path(path).expanduser(), options.classes)
        if not files:
            raise DataError(
                f"{path}: no pictures in folders named as the run's classes ({', '.join(options.classes)[:80]})"
            )
        found |= files
    if not found:
        raise DataError('dataset = "folder" needs data.paths to name a folder with a folder for each class')
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in found}
    order = sorted(found, key=hashes.__getitem__)
    held_out = [found[name] for name in order if is_held_out(name, validation_ratio)][:_MOST_HELD_OUT]
    train = [found[name] for name in order if not is_held_out(name, validation_ratio)]
    judged = Folders(held_out, options.side)
    if not held_out:  # the caller says so
        return Folders(train, options.side), InMemory(torch.empty(0), torch.empty(0))
    return (
        Folders(train[: options.examples or None], options.side),
        InMemory(*judged.take(torch.arange(len(held_out)))),
    )


def _find(folder: Path, classes: Sequence[str]) -> dict[str, tuple[Path, int]]:
    """By class and name within it, which is what other nodes call the same picture."""
    found: dict[str, tuple[Path, int]] = {}
    for number, name in enumerate(classes):
        inside = folder / name
        for path in inside.rglob("*"):
            if path.suffix.lower() in _ENDINGS:
                found[f"{name}/{path.relative_to(inside).as_posix()}"] = path, number
    return found


def _read(path: Path, side: int) -> Tensor:
    """uint8 ``(3, side, side)``: scaled until the shorter side fits, and the middle of the longer one."""
    from PIL import Image, ImageOps  # noqa: PLC0415 - an extra

    try:
        with Image.open(path) as file:
            file.draft("RGB", (2 * side, 2 * side))  # a large JPEG is decoded at a fraction of its size
            picture: Image.Image = ImageOps.fit(file.convert("RGB"), (side, side), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a picture that can be read: {error}") from error
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(side, side, 3).permute(2, 0, 1)
