"""Which numbers of a tensor a meeting is about: all, or a random subset, another in each meeting (SPARTA-like); its own or, of integers, the rotated tensor's."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from lowcomm_node.algo.correction import Coordinates, Part
from lowcomm_node.algo.rotation import Rotation
from lowcomm_node.algo.shapes import Plan
from lowcomm_node.algo.sizes import is_integer

__all__ = ["Selection", "coordinates", "select"]


@dataclass(frozen=True, slots=True)
class Selection:
    """The numbers that stand for one tensor in one meeting; both ends draw the same."""

    shape: tuple[int, ...]
    rotation: Rotation | None
    """None of floating point."""
    positions: Tensor | None
    """None for all."""

    @property
    def count(self) -> int:
        """How many numbers are sent."""
        return self._total if self.positions is None else self.positions.numel()

    def values(self, tensor: Tensor) -> Tensor:
        """The numbers of ``tensor`` (any device): fp32, flat, on the CPU."""
        flat = tensor.reshape(-1).to(torch.float32)
        rotated = flat if self.rotation is None else self.rotation.forward(flat)
        return (rotated if self.positions is None else rotated[self.positions.to(rotated.device)]).cpu()

    def part(self, C: Tensor | None) -> Part | None:
        """The tensor's correction, from C in the selected numbers; None where it is void."""
        if C is None:
            return None
        if self.positions is not None:
            return Coordinates(self.positions, C, self._total, self.rotation)
        return (C if self.rotation is None else self.rotation.inverse(C)).reshape(self.shape)

    @property
    def _total(self) -> int:
        return prod(self.shape) if self.rotation is None else self.rotation.total


def select(shape: Sequence[int], plan: Plan, seed: bytes, index: int) -> Selection:
    """What ``plan`` names of the tensor at position ``index``, which has ``shape`` and takes part."""
    rotation = Rotation(seed, index, prod(shape)) if is_integer(plan.dtype) else None
    total, rank = prod(shape) if rotation is None else rotation.total, plan.ranks[index]
    return Selection(tuple(shape), rotation, None if rank < 0 else coordinates(seed, index, total, rank))


def coordinates(seed: bytes, index: int, total: int, count: int) -> Tensor:
    """``count`` of the positions 0 .. total - 1 in rising order (int64, CPU), the same on every machine.

    The positions are cut into ``count`` stretches, the first total mod count of them one longer than the rest, and one is taken
    from each: the word of SHAKE-256(seed || index as 4 bytes little-endian) that belongs to the stretch (4 bytes, little-endian)
    times the stretch's length, divided by 2^32. So each position has the same chance, as good as exactly, of being in a
    meeting; neither sorting nor memory for the positions left out is needed. Differs from an unconstrained subset in that no
    two positions of one stretch meet at the same time.
    """
    digest = hashlib.shake_256(seed + index.to_bytes(4, "little")).digest(4 * count)
    words = torch.frombuffer(bytearray(digest), dtype=torch.int32).to(torch.int64) & 0xFFFFFFFF
    number = torch.arange(count)
    width, longer = divmod(total, count)
    starts = number * width + number.clamp(max=longer)
    return starts + (words * (width + (number < longer).to(torch.int64)) >> 32)
