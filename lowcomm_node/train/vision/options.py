"""The options of the tasks ``vit`` and ``vgg``, the table [model.config] of a manifest; docs/tasks.md explains them."""

from dataclasses import dataclass
from typing import Annotated

from lowcomm_node.settings.rules import Between, OneOf, fail

__all__ = ["PictureOptions", "VggOptions", "VitOptions"]

_SIDES = {"digits": 8, "cifar10": 32}
_TEN_CLASSES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureOptions:
    """Which pictures, and how many classes of them there are."""

    dataset: Annotated[str, OneOf("digits", "cifar10", "folder")] = "digits"
    """digits: handwritten ones, 8 x 8 and grey, from scikit-learn's wheel; cifar10: its binary version, in a folder that each node
    names in data.paths; folder: a folder for each class with pictures in it, as ImageNet has them."""
    size: Annotated[int, Between(0, 512)] = 0
    """folder: side to which pictures are scaled and cut, in pixels. 0: 64, or what the data set has."""
    classes: tuple[str, ...] = ()
    """folder: names of the classes' folders. Their order numbers the classes, on every node alike; other folders are passed over."""
    examples: Annotated[int, Between(0, 1_000_000_000)] = 0
    """Most pictures that are trained on, for studies of small data; 0 is all."""
    augment: bool = False
    """Pictures are shifted at random by up to an eighth of their side, and mirrored where they are no digits."""

    def check(self) -> None:
        is_folder = self.dataset == "folder"
        if is_folder and len(set(self.classes)) < max(2, len(self.classes)):
            fail("classes", list(self.classes), 'the names of at least two folders, each once, with dataset = "folder"')
        if not is_folder and self.classes:
            fail("classes", list(self.classes), 'nothing but with dataset = "folder"')
        if not is_folder and self.size not in (0, self.side):
            fail("size", self.size, f'{self.side} with dataset = "{self.dataset}"')

    @property
    def side(self) -> int:
        """Of a picture, in pixels."""
        return _SIDES.get(self.dataset) or self.size or 64

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colours."""
        return 1 if self.dataset == "digits" else 3

    @property
    def num_classes(self) -> int:
        """Answers that there are."""
        return len(self.classes) or _TEN_CLASSES


@dataclass(frozen=True, slots=True, kw_only=True)
class VitOptions(PictureOptions):
    """A transformer on patches (2010.11929)."""

    patch: Annotated[int, Between(0, 512)] = 0
    """Side of a patch in pixels; must divide the picture's. 0 makes 4 x 4 patches of digits, 8 x 8 of others."""
    width: Annotated[int, Between(8, 4096)] = 64
    """Of the residual stream."""
    depth: Annotated[int, Between(1, 256)] = 4
    """Blocks."""
    heads: Annotated[int, Between(1, 256)] = 4
    """Attention heads; must divide the width."""

    def check(self) -> None:
        PictureOptions.check(self)
        if self.side % self.patch_side:
            fail("patch", self.patch_side, f"a divisor of the picture's side, {self.side}")
        if self.width % self.heads:
            fail("heads", self.heads, f"a divisor of width = {self.width}")

    @property
    def patch_side(self) -> int:
        """In pixels."""
        return self.patch or max(1, self.side // (4 if self.dataset == "digits" else 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class VggOptions(PictureOptions):
    """Stages of 3 x 3 convolutions, each followed by halving the side (1409.1556)."""

    stages: Annotated[int, Between(0, 8)] = 0
    """How often the side is halved, which it must allow. 0: until it is 2 (digits) or 4."""
    width: Annotated[int, Between(8, 4096)] = 32
    """Channels of the first stage, a multiple of 8; twice as many in each that follows."""
    depth: Annotated[int, Between(1, 8)] = 2
    """Convolutions of a stage."""

    def check(self) -> None:
        PictureOptions.check(self)
        if self.side % 2**self.num_stages:
            fail("stages", self.num_stages, f"halvings that a side of {self.side} allows")
        if self.width % 8:
            fail("width", self.width, "a multiple of 8: channels are normalised in groups of them")

    @property
    def num_stages(self) -> int:
        """At least one."""
        smallest = 2 if self.dataset == "digits" else 4
        return self.stages or max(1, (self.side // smallest).bit_length() - 1)
