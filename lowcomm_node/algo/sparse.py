"""Which coordinates of a tensor a sparse meeting is about: a random subset, another in each meeting (SPARTA-like)."""

import hashlib

import torch
from torch import Tensor

__all__ = ["coordinates"]


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
