"""The common test matrix of a low-rank meeting: +-1 entries drawn from a hash, the same on every machine and version.

A Rademacher matrix is as good a range finder as a Gaussian one (Halko, Martinsson, Tropp 2011, 0909.4061) and,
unlike it, needs no floating-point library to agree on, so it can have a golden vector.
"""

import hashlib

import torch
from torch import Tensor

__all__ = ["rademacher"]


def rademacher(seed: bytes, index: int, n: int, r: int) -> Tensor:
    """Omega, n x r fp32 on the CPU, for the tensor at position ``index`` of a plan.

    The bits of SHAKE-256(seed || index as 4 bytes little-endian), least significant bit first, fill the matrix row
    by row; bit 1 is +1 and bit 0 is -1.
    """
    count = n * r
    digest = hashlib.shake_256(seed + index.to_bytes(4, "little")).digest((count + 7) // 8)
    octets = torch.frombuffer(bytearray(digest), dtype=torch.uint8) if digest else torch.zeros(0, dtype=torch.uint8)
    bits = (octets.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.reshape(-1)[:count].to(torch.float32).mul_(2).sub_(1).reshape(n, r)
