"""Few-bit integers for two kinds of numbers: differences, and weights of which only the difference is wanted.

*Differences* (``encode_blocks``): 64 numbers in a row share one scale and are rounded to the nearest of [-7, 7] or [-127, 127] scales.
Nearest and not stochastic: half the error energy, and the bias that stochastic rounding would avoid does no harm here, since
what was rounded away stays in the difference of the two nodes and is met again. A scale for each block, because a few
rows of an embedding (frequent tokens) differ ten times more than the rest.

*Weights* (``lattice``, ``wrap``): modulo quantisation (Moniqua, 2002.11787). x is rounded to the integer Q = round(x / step) and
only its low bits travel. The partner, who is near, reads the difference off: Q_i - Q_j = wrap(q_i - q_j) as long as it lies in
[-2^(bits - 1), 2^(bits - 1)). The resolution is that of the difference, 10 to 300 times finer than one relative to the weights. Differs
from the paper in that both ends work on one lattice with exact integers, in rounding to nearest, and in a checksum over the
integers that tells when differences did not fit (``is_wrapped``).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lowcomm_node.algo.sizes import BLOCK, difference_bytes, integer_bytes
from lowcomm_node.units import Dtype

__all__ = [
    "contradicts",
    "decode_blocks",
    "encode_blocks",
    "is_wrapped",
    "lattice",
    "pack",
    "pack_rows",
    "reference_blocks",
    "reference_wrapped_difference",
    "shrink",
    "signed_sum",
    "signed_sums",
    "unpack",
    "unpack_rows",
    "wrap",
]

_WRAPPED_SHARE = 0.25
_LATTICE_LIMIT = 2.0**52
"""Beyond it fp64 no longer resolves neighbouring integers. No weight is near it; the clamp keeps absurd ones defined."""


def encode_blocks(numbers: Tensor, dtype: Dtype) -> list[bytes]:
    """For each row of ``numbers`` (k x count, fp32, on the CPU) the bf16 scales of its blocks, then their integers.

    A scale is the block's largest absolute value over 7 or 127, rounded up so that this value still fits. A NaN or an infinity makes
    the whole block decode to NaN.
    """
    levels, (num_rows, count) = _levels(dtype), numbers.shape
    blocks = torch.nn.functional.pad(numbers, (0, -count % BLOCK)).reshape(num_rows, -1, BLOCK)
    scales = _round_up(blocks.abs().amax(2) / levels)
    divisors = scales.double().where(scales > 0, 1.0)
    ratios = blocks.double().div_(divisors.unsqueeze(2)).reshape(num_rows, -1)[:, :count]
    integers = ratios.nan_to_num_(nan=0.0).round_().clamp_(-levels, levels).to(torch.int8)
    heads = scales.view(torch.uint8).numpy()
    return [head.tobytes() + packed for head, packed in zip(heads, pack_rows(integers, dtype.bits), strict=True)]


def decode_blocks(payloads: Sequence[bytes | memoryview], count: int, dtype: Dtype) -> Tensor:
    """The fp32 numbers of ``encode_blocks``, a row of ``count`` for each payload. Raises ValueError when one has not their exact size."""
    expected = difference_bytes(count, dtype)
    for payload in payloads:
        if len(payload) != expected:
            raise ValueError(f"payload of {len(payload)} bytes where {count} numbers in {dtype} take {expected}")
    if count == 0:
        return torch.zeros(len(payloads), 0)
    head = expected - integer_bytes(count, dtype.bits)
    scales = _tensor_of([payload[:head] for payload in payloads], torch.bfloat16).float()
    integers = _narrow_rows([payload[head:] for payload in payloads], count, dtype.bits)
    return integers.float().mul_(scales.unsqueeze(2).expand(-1, -1, BLOCK).reshape(len(payloads), -1)[:, :count])


def lattice(x: Tensor, step: float | Tensor) -> Tensor:
    """round(x / step), half to even, as int64 on the CPU; divided in fp64, which is exact enough for any fp32 x. NaN gives 0.

    ``step``: one for all, or fp64 that fits the shape of x.
    """
    ratios = x.detach().to(device="cpu", dtype=torch.float64) / step
    return ratios.nan_to_num_(nan=0.0).clamp_(-_LATTICE_LIMIT, _LATTICE_LIMIT).round_().to(torch.int64)


def wrap(integers: Tensor, bits: int) -> Tensor:
    """The representative in [-2^(bits - 1), 2^(bits - 1)) of each integer modulo 2^bits."""
    half = 1 << (bits - 1)
    return ((integers + half) & ((1 << bits) - 1)) - half


def pack(integers: Tensor, bits: int) -> bytes:
    """The low ``bits`` (4, 8 or 16) bits of each integer, in row-major order: two to a byte, low nibble first; little-endian."""
    return pack_rows(integers.reshape(1, -1), bits)[0]


def pack_rows(integers: Tensor, bits: int) -> list[bytes]:
    """``pack`` of each row (k x count)."""
    if bits == 4:
        low = integers.to(torch.uint8) & 0xF
        pairs = torch.nn.functional.pad(low, (0, low.shape[1] % 2)).reshape(len(low), -1, 2)
        narrow = pairs[:, :, 0] | pairs[:, :, 1] << 4
    else:  # narrower types keep the low bits
        narrow = integers.to(torch.int8 if bits == 8 else torch.int16).contiguous()
    return [row.tobytes() for row in narrow.numpy()]


def unpack(payload: bytes | memoryview, count: int, bits: int) -> Tensor:
    """``count`` integers in [-2^(bits - 1), 2^(bits - 1)), int64. Raises ValueError when the payload has not their exact size."""
    return unpack_rows((payload,), count, bits).reshape(-1)


def unpack_rows(payloads: Sequence[bytes | memoryview], count: int, bits: int) -> Tensor:
    """``unpack`` of each payload, k x count, int64. Raises ValueError when one has not the exact size."""
    return _narrow_rows(payloads, count, bits).to(torch.int64)


def _narrow_rows(payloads: Sequence[bytes | memoryview], count: int, bits: int) -> Tensor:
    """``unpack_rows`` in the narrowest integers that hold them."""
    for payload in payloads:
        if len(payload) != integer_bytes(count, bits):
            raise ValueError(
                f"payload of {len(payload)} bytes where {count} integers of {bits} bits take another number"
            )
    if count == 0:
        return torch.zeros(len(payloads), 0, dtype=torch.int8)
    narrow = _tensor_of(payloads, torch.int16 if bits == 16 else torch.int8)
    if bits == 4:
        # A shift of a negative number copies its sign; of the lower half the sign has to be brought up first.
        return torch.stack((narrow << 4 >> 4, narrow >> 4), 2).reshape(len(payloads), -1)[:, :count]
    return narrow


def signed_sums(integers: Tensor, signs: Tensor) -> Tensor:
    """Per row the sum of the integers under signs of +-1 of the same shape (k x count), modulo 2^32, in [-2^31, 2^31)."""
    return wrap((integers * signs).sum(1), 32)


def signed_sum(integers: Tensor, signs: Tensor) -> int:
    """``signed_sums`` of all integers together."""
    return int(signed_sums(integers.reshape(1, -1), signs.reshape(1, -1).to(torch.int64)))


def is_wrapped(own: Tensor, difference: Tensor, signs: Tensor, check: int) -> bool:
    """Do ``difference`` = own - theirs, as told from the low bits, and the partner's sum of its integers contradict each other badly?

    Each number that wrapped is off by a multiple of 2^bits. Under random signs the square of the gap between the sums is on
    average the energy of these errors, exactly: without them the sums are equal integers. Badly is more than a quarter of the
    energy of the difference itself.
    """
    return contradicts(signed_sum(own - difference, signs), check, float(difference.double().square().sum()))


def contradicts(total: int, check: int, energy: float) -> bool:
    """``is_wrapped`` where the signed sum of own - difference, and the energy of the difference, are known."""
    gap = (total - check + (1 << 31)) % (1 << 32) - (1 << 31)
    return gap * gap > _WRAPPED_SHARE * energy


def shrink(difference: Tensor, noise: float | Tensor, dim: int | None = None) -> Tensor:
    """``difference`` (fp64), or each of its slices along ``dim``, times 1 - noise / energy, at least 0: Wiener's filter.

    ``noise`` is the energy that rounding alone would have. With steps that fit the difference this is hardly less than 1; with steps
    far too large it keeps noise from being taken for a difference.
    """
    energy = difference.square().sum() if dim is None else difference.square().sum(dim, keepdim=True)
    return difference * (1 - noise / energy).nan_to_num(neginf=0.0).clamp(min=0.0)


def reference_blocks(numbers: Tensor, levels: int) -> Tensor:
    """The plain form of a difference sent as integers, fp64, but for the rounding of scales to bf16."""
    blocks = numbers.double().split(BLOCK)
    return torch.cat([torch.round(block / (scale := block.abs().max() / levels)) * scale for block in blocks])


def reference_wrapped_difference(x: Tensor, y: Tensor, step: float, bits: int) -> Tensor:
    """The plain form of x - y told by wrapped integers, fp64: step ((round(x/step) - round(y/step) + h) mod 2h - h)."""
    half = 2.0 ** (bits - 1)
    difference = torch.round(x.double() / step) - torch.round(y.double() / step)
    wrapped: Tensor = step * (torch.remainder(difference + half, 2 * half) - half)
    return wrapped


def _levels(dtype: Dtype) -> int:
    return (1 << (dtype.bits - 1)) - 1


def _tensor_of(payloads: Sequence[bytes | memoryview], dtype: torch.dtype) -> Tensor:
    """The numbers in payloads of one length, a row each, in memory of its own."""
    return torch.frombuffer(bytearray(b"".join(payloads)), dtype=dtype).reshape(len(payloads), -1)


def _round_up(values: Tensor) -> Tensor:
    """The smallest bf16 not below each non-negative fp32 value. NaN stays NaN."""
    nearest = values.to(torch.bfloat16)
    above = torch.nextafter(nearest, torch.full_like(nearest, torch.inf))
    return torch.where(nearest.float() < values, above, nearest)
