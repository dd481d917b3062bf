"""Tensors to bytes and back: little-endian, row-major, no header; sizes are known from the plan.

Hosts are little-endian, as is every platform that torch publishes builds for.
"""

import math
import struct
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from lowcomm_node.algo.quantize import decode_blocks, encode_blocks
from lowcomm_node.algo.sizes import CHECK_BYTES, FLAG_BYTES, RANGE_BYTES, is_integer
from lowcomm_node.units import Dtype

__all__ = [
    "VALID",
    "VOID",
    "Reader",
    "as_fp32",
    "decode",
    "decode_difference",
    "decode_differences",
    "encode",
    "encode_check",
    "encode_difference",
    "encode_differences",
    "encode_range",
    "is_finite",
    "read_check",
    "read_flag",
    "read_range",
]

VALID, VOID = b"\x00", b"\x01"
"""Flag of a tensor whose wrapped integers make sense, and of one whose difference was too large for them."""

_TORCH_DTYPES = {Dtype.FP32: torch.float32, Dtype.BF16: torch.bfloat16}


def encode(tensor: Tensor, dtype: Dtype) -> bytes:
    """The numbers of ``tensor`` (any shape, device and float type) rounded to ``dtype`` (fp32 or bf16), in row-major order."""
    on_cpu = tensor.detach().to(device="cpu", dtype=_TORCH_DTYPES[dtype]).contiguous().reshape(-1)
    return on_cpu.view(torch.uint8).numpy().tobytes()


def decode(payload: bytes | memoryview, shape: Sequence[int], dtype: Dtype) -> Tensor:
    """A new fp32 CPU tensor of ``shape`` from the bytes of ``encode``. The tensor owns its memory.

    Raises ValueError when the payload is not exactly ``prod(shape) * dtype.bits / 8`` bytes long.
    """
    expected = prod(shape) * dtype.bits // 8
    if len(payload) != expected:
        raise ValueError(f"payload of {len(payload)} bytes where {tuple(shape)} in {dtype} takes {expected}")
    if expected == 0:
        return torch.zeros(tuple(shape))
    # One copy: the caller's bytes are read-only, and a view on them would keep the whole message alive.
    numbers = torch.frombuffer(bytearray(payload), dtype=_TORCH_DTYPES[dtype])
    return numbers.to(torch.float32).reshape(tuple(shape))


def encode_difference(tensor: Tensor, dtype: Dtype) -> bytes:
    """Numbers that are small when the replicas are near, in row-major order, in any format: integers have a scale for each block."""
    return encode_differences(tensor.reshape(1, -1), dtype)[0]


def encode_differences(rows: Tensor, dtype: Dtype) -> list[bytes]:
    """``encode_difference`` of each row (k x count)."""
    if is_integer(dtype):
        return encode_blocks(rows.detach().to(device="cpu", dtype=torch.float32), dtype)
    return [encode(row, dtype) for row in rows]


def decode_difference(payload: bytes | memoryview, shape: Sequence[int], dtype: Dtype) -> Tensor:
    """A new fp32 CPU tensor from the bytes of ``encode_difference``. Raises ValueError when the payload has not its exact size."""
    return decode_differences((payload,), prod(shape), dtype).reshape(tuple(shape))


def decode_differences(payloads: Sequence[bytes | memoryview], count: int, dtype: Dtype) -> Tensor:
    """``decode_difference`` of payloads of ``count`` numbers each, a row for each."""
    if is_integer(dtype):
        return decode_blocks(payloads, count, dtype)
    return torch.stack([decode(payload, (count,), dtype) for payload in payloads])


class Reader:
    """Cuts pieces off a payload whose total size was checked first."""

    def __init__(self, payload: bytes | memoryview, expected_bytes: int) -> None:
        """Raises ValueError unless ``payload`` is exactly ``expected_bytes`` long."""
        if len(payload) != expected_bytes:
            raise ValueError(f"payload of {len(payload)} bytes where the plan takes {expected_bytes}")
        self._rest = memoryview(payload)

    def take(self, num_bytes: int) -> memoryview:
        """The next ``num_bytes`` bytes."""
        piece, self._rest = self._rest[:num_bytes], self._rest[num_bytes:]
        return piece


def as_fp32(rms: float) -> float:
    """The number that travels: both ends must compute with it."""
    rounded: float = struct.unpack("<f", struct.pack("<f", rms))[0]
    return rounded


def encode_range(is_finite: bool, rms: float) -> bytes:
    """The expected rms of a difference to own numbers, fp32; NaN when these are not finite, so that the partner refuses them."""
    return struct.pack("<f", rms if is_finite else math.nan)


def read_range(reader: Reader) -> float:
    """The rms of ``encode_range``. Raises ValueError unless it is a positive finite number."""
    rms: float = struct.unpack("<f", reader.take(RANGE_BYTES))[0]
    if not (math.isfinite(rms) and rms > 0):
        raise ValueError(f"expected difference of {rms}, not a positive number")
    return rms


def encode_check(total: int) -> bytes:
    """A ``signed_sum``."""
    return struct.pack("<i", total)


def read_check(reader: Reader) -> int:
    """The sum of ``encode_check``."""
    total: int = struct.unpack("<i", reader.take(CHECK_BYTES))[0]
    return total


def read_flag(reader: Reader) -> bool:
    """Is the tensor void? Raises ValueError for a byte that is neither answer."""
    flag = bytes(reader.take(FLAG_BYTES))
    if flag not in (VALID, VOID):
        raise ValueError(f"flag {flag.hex()} is neither {VALID.hex()} nor {VOID.hex()}")
    return flag == VOID


def is_finite(tensor: Tensor) -> bool:
    """Whether no number of ``tensor`` is NaN or infinite."""
    return bool(torch.isfinite(tensor).all())
