"""Tensors to bytes and back: little-endian fp32 or bf16, row-major, no header; sizes are known from the plan.

Hosts are little-endian, as is every platform that torch publishes builds for.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from lowcomm_node.units import Dtype

__all__ = ["decode", "encode", "is_finite"]

_TORCH_DTYPES = {Dtype.FP32: torch.float32, Dtype.BF16: torch.bfloat16}


def encode(tensor: Tensor, dtype: Dtype) -> bytes:
    """The numbers of ``tensor`` (any shape, device and float type) rounded to ``dtype``, in row-major order."""
    on_cpu = tensor.detach().to(device="cpu", dtype=_TORCH_DTYPES[dtype]).contiguous().reshape(-1)
    return on_cpu.view(torch.uint8).numpy().tobytes()


def decode(payload: bytes | memoryview, shape: Sequence[int], dtype: Dtype) -> Tensor:
    """A new fp32 CPU tensor of ``shape`` from the bytes of ``encode``. The tensor owns its memory.

    Raises ValueError when the payload is not exactly ``prod(shape) * dtype.bits // 8`` bytes long.
    """
    expected = prod(shape) * dtype.bits // 8
    if len(payload) != expected:
        raise ValueError(f"payload of {len(payload)} bytes where {tuple(shape)} in {dtype} takes {expected}")
    if expected == 0:
        return torch.zeros(tuple(shape))
    # One copy: the caller's bytes are read-only, and a view on them would keep the whole message alive.
    numbers = torch.frombuffer(bytearray(payload), dtype=_TORCH_DTYPES[dtype])
    return numbers.to(torch.float32).reshape(tuple(shape))


def is_finite(tensor: Tensor) -> bool:
    """Whether no number of ``tensor`` is NaN or infinite."""
    return bool(torch.isfinite(tensor).all())
