"""Which numbers of a tensor a meeting is about: all, or a random subset, another in each meeting (SPARTA-like); its own or, of integers, the rotated tensor's."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from lowcomm_node.algo.correction import Coordinates, Part
from lowcomm_node.algo.rotation import NUMBERS_TOGETHER, Rotation, rotate, rotate_back, together
from lowcomm_node.algo.shapes import Plan, Shapes
from lowcomm_node.algo.sizes import is_integer
from lowcomm_node.units import Codec

__all__ = ["Selection", "coordinates", "select"]


@dataclass(frozen=True, slots=True)
class Selection:
    """The numbers that stand for some alike tensors in one meeting, k of them; both ends draw the same."""

    indices: tuple[int, ...]
    """Where these tensors stand in the plan."""
    shapes: tuple[tuple[int, ...], ...]
    rotations: tuple[Rotation, ...]
    """None at all of floating point."""
    positions: Tensor | None
    """k x count, int64 on the CPU; None for all."""

    @property
    def count(self) -> int:
        """How many numbers are sent of each."""
        return self._total if self.positions is None else self.positions.shape[1]

    def values(self, tensors: Sequence[Tensor]) -> Tensor:
        """The numbers of these tensors, all those of the plan (any device): k x count, fp32 on the CPU."""
        flat = [tensors[index].reshape(1, -1).to(torch.float32) for index in self.indices]
        rows = flat[0] if len(flat) == 1 else torch.cat(flat)
        if self.rotations:
            rows = rotate(self.rotations, rows)
        return (rows if self.positions is None else rows.gather(1, self.positions.to(rows.device))).cpu()

    def parts(self, rows: Sequence[Tensor | None]) -> list[Part | None]:
        """The tensors' corrections, from C in the selected numbers of each; None where it is void."""
        if self.positions is not None:
            rotations = self.rotations or (None,) * len(self.indices)
            return [
                None if C is None else Coordinates(positions, C, self._total, rotation)
                for positions, C, rotation in zip(self.positions, rows, rotations, strict=True)
            ]
        if self.rotations:
            told = [k for k, C in enumerate(rows) if C is not None]
            kept = [C for C in rows if C is not None]
            rows = [None] * len(rows)
            if kept:
                for k, C in zip(told, rotate_back([self.rotations[k] for k in told], torch.stack(kept)), strict=True):
                    rows[k] = C
        return [None if C is None else C.reshape(shape) for C, shape in zip(rows, self.shapes, strict=True)]

    @property
    def _total(self) -> int:
        return self.rotations[0].total if self.rotations else prod(self.shapes[0])


def select(shapes: Shapes, plan: Plan, seed: bytes) -> Iterator[Selection]:
    """What ``plan`` names of the tensors that it sends whole or a subset of, alike ones together."""
    alike: dict[tuple[int, int], list[int]] = {}
    for index, (shape, rank) in enumerate(zip(shapes, plan.ranks, strict=True)):
        if rank < 0 or (rank and plan.codec is not Codec.AB):
            alike.setdefault((prod(shape), rank), []).append(index)
    for (numel, rank), indices in alike.items():
        for some in together(indices, numel):
            yield _selection(shapes, plan, seed, numel, rank, some)


def _selection(shapes: Shapes, plan: Plan, seed: bytes, numel: int, rank: int, indices: Sequence[int]) -> Selection:
    is_rotated = is_integer(plan.dtype)
    rotations = tuple(Rotation(seed, index, numel) for index in indices) if is_rotated else ()
    total = rotations[0].total if is_rotated else numel
    positions = None if rank < 0 else coordinates(seed, indices, total, rank)
    return Selection(tuple(indices), tuple(tuple(shapes[index]) for index in indices), rotations, positions)


def coordinates(seed: bytes, indices: Sequence[int], total: int, count: int) -> Tensor:
    """``count`` of the positions 0 .. total - 1 in rising order for each of the tensors at ``indices`` of a plan: a row each, int64, CPU, the same on every machine.

    The positions are cut into ``count`` stretches, the first total mod count of them one longer than the rest, and one is taken
    from each: the word of SHAKE-256(seed || index as 4 bytes little-endian) that belongs to the stretch (4 bytes, little-endian)
    times the stretch's length, divided by 2^32. So each position has the same chance, as good as exactly, of being in a
    meeting; neither sorting nor memory for the positions left out is needed. Differs from an unconstrained subset in that no
    two positions of one stretch meet at the same time.
    """
    if len(indices) * count > NUMBERS_TOGETHER:
        return _drawn(seed, tuple(indices), total, count)
    return _remembered(seed, tuple(indices), total, count)


def _drawn(seed: bytes, indices: tuple[int, ...], total: int, count: int) -> Tensor:
    digests = [hashlib.shake_256(seed + index.to_bytes(4, "little")).digest(4 * count) for index in indices]
    words = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint32).reshape(-1, count)
    number = torch.arange(count)
    width, longer = divmod(total, count)
    starts = number * width + number.clamp(max=longer)
    lengths = width + (number < longer).to(torch.int64)
    return words.to(torch.int64).mul_(lengths).bitwise_right_shift_(32).add_(starts)


_remembered = lru_cache(maxsize=32)(_drawn)
"""Each end draws them twice in a meeting, and the hash takes longer than most of what is done with them. 32 MiB at most."""
