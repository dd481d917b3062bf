"""Test matrices of a low-rank meeting: drawn from a hash, the same on every machine and version, or brought by the initiator.

A Rademacher matrix is as good a range finder as a Gaussian one (Halko, Martinsson, Tropp 2011, 0909.4061) and,
unlike it, needs no floating-point library to agree on, so it can have a golden vector.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["balanced", "main_directions", "pad_basis", "rademacher", "random_signs"]

_BIT = 1 << torch.arange(8, dtype=torch.int64)
_SIGNS_OF_BYTE = (
    (((torch.arange(256).unsqueeze(1) & _BIT) != 0).to(torch.int8) * 2 - 1).contiguous().view(torch.int64).reshape(256)
)
"""Eight signs as int8 for each byte, in one 64-bit number: looked up, they cost a fifth of what shifting bits out costs."""


def random_signs(seed: bytes, indices: Sequence[int], count: int) -> Tensor:
    """``count`` signs, int8 on the CPU, for each of the tensors at these positions of a plan, one row each.

    The bits of SHAKE-256(seed || index as 4 bytes little-endian), least significant bit first; bit 1 is +1 and bit 0 is -1. Not to be written to.
    """
    draw = _drawn if len(indices) * count > _REMEMBERED_SIGNS else _remembered
    return draw(seed, tuple(indices), count)


def _drawn(seed: bytes, indices: tuple[int, ...], count: int) -> Tensor:
    num_bytes = (count + 7) // 8
    digests = [hashlib.shake_256(seed + index.to_bytes(4, "little")).digest(num_bytes) for index in indices]
    if not count:
        return torch.zeros(len(digests), 0, dtype=torch.int8)
    octets = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).to(torch.int32)
    return _SIGNS_OF_BYTE[octets].view(torch.int8).reshape(len(digests), -1)[:, :count]


_REMEMBERED_SIGNS = 1 << 17
_remembered = lru_cache(maxsize=64)(_drawn)
"""Each end of a meeting needs them twice. 8 MiB at most."""


def rademacher(seed: bytes, index: int, n: int, r: int) -> Tensor:
    """Omega, n x r fp32 on the CPU, for the tensor at position ``index`` of a plan: its ``random_signs``, row by row."""
    return random_signs(seed, (index,), n * r).to(torch.float32).reshape(n, r)


def balanced(basis: Tensor, gains: Tensor, size: float) -> Tensor:
    """Orthonormal columns, n x c, made as long as it takes for D to send each to about |D|, as it does a column of signs.

    ``gains``: |X v_k| of each column for an X that is like D, and ``size`` is |X|. No column becomes longer than one of signs. Of columns
    that D sends to much the same length none drowns in the rounding of the others.
    """
    limit = basis.shape[0] ** 0.5
    return basis * (size / gains).nan_to_num(nan=limit, posinf=limit).clamp(1.0, limit)


def pad_basis(basis: Tensor | None, seed: bytes, index: int, n: int, rank: int) -> Tensor:
    """A test matrix of ``rank`` columns to be sent (n x rank fp32, CPU): those of ``basis``, then seeded signs."""
    found = torch.zeros(n, 0) if basis is None else basis[:, :rank].to(device="cpu", dtype=torch.float32)
    return torch.cat([found, rademacher(seed, index, n, rank - found.shape[1])], 1)


@torch.no_grad()
def main_directions(displacements: Sequence[Tensor], ranks: Sequence[int], seed: bytes) -> tuple[Tensor | None, ...]:
    """Per tensor the main right directions of an own displacement X (m x n): orthogonal, ``balanced``, n x rank fp32 on the CPU; None where rank <= 0.

    One subspace step from a seeded start, orth(X^T (X Omega)) (0909.4061, algorithm 4.3 with q = 0 on X^T): what a node has moved along
    since its last meeting is much of what its next partner differs in. Directions that X does not contain come out arbitrary.
    """
    bases: list[Tensor | None] = []
    for index, (displacement, rank) in enumerate(zip(displacements, ranks, strict=True)):
        if rank <= 0:
            bases.append(None)
            continue
        X = displacement.reshape(displacement.shape[0], -1).to(torch.float32)
        image = X.T @ (X @ rademacher(seed, index, X.shape[1], rank).to(X.device))
        basis = torch.linalg.qr(image.cpu())[0]
        gains = (X @ basis.to(X.device)).norm(dim=0).cpu()
        bases.append(balanced(basis, gains, float(X.norm())))
    return tuple(bases)
