"""Numbers that stand for a tensor, all of them or a subset: how one tensor goes through the three messages of a meeting.

    offer   x_i
    answer  d = x^_i - x_j        both: C = d^
    close   nothing

fp32 and bf16 offer the weights, rounded. Integers offer the low bits of Q = round(x / step) (``quantize``), with x the coefficients of
the rotated weights (``rotation``), whose differences have hardly any outliers; step follows from the rms that the initiator
expects of a difference and sends along. The answerer takes the Q_i that is nearest to its own Q_j, and d = step Q_i - x_j: its own
numbers are not rounded, which halves the noise. A difference much larger than expected wraps around: the offer has a
checksum from which the answerer sees it, and its answer then declares the tensor void, C = 0, for both.
"""

import torch
from torch import Tensor

from lowcomm_node.algo.omega import rademacher
from lowcomm_node.algo.quantize import is_wrapped, lattice, pack, shrink, signed_sum, unpack, wrap
from lowcomm_node.algo.sizes import difference_bytes, integer_bytes, is_integer
from lowcomm_node.algo.wireformat import (
    VALID,
    VOID,
    Reader,
    decode,
    decode_difference,
    encode,
    encode_check,
    encode_difference,
    encode_range,
    is_finite,
    read_check,
    read_flag,
    read_range,
)
from lowcomm_node.units import Dtype

__all__ = ["answer_whole", "offer_whole", "read_whole"]

_REACH = {Dtype.INT8: 16.0, Dtype.INT4: 6.0}
"""Largest difference that fits, in units of the expected rms. Of Gaussian differences 4 bits then keep 0.93 of the energy when the
expectation is right or half the truth, and 0.79 when it is twice the truth; with 5 it is 0.95, 0.81 and 0.85, with 7 0.91,
0.96 and 0.74. 8 bits have room for expectations a quarter of the truth, at 0.1 % of the energy."""


def offer_whole(values: Tensor, dtype: Dtype, seed: bytes, index: int, rms: float) -> bytes:
    """Initiator: its numbers (fp32, flat, CPU). Of integers only: they are rotated, and ``rms`` is what it expects of a number of the difference."""
    if not is_integer(dtype):
        return encode(values, dtype)
    head = encode_range(values, rms)
    integers = lattice(values, _step(rms, dtype))
    check = encode_check(signed_sum(integers, _signs(seed, index, integers)))
    return head + check + pack(integers, dtype.bits)


def answer_whole(values: Tensor, dtype: Dtype, seed: bytes, index: int, offer: Reader) -> tuple[bytes, Tensor | None]:
    """Answerer: the difference to its own numbers, and C, or None when it is void.

    Raises ValueError when the offer's range is not a positive number. C is NaN where offer or own numbers are.
    """
    count, bits = values.numel(), dtype.bits
    if not is_integer(dtype):
        payload = encode_difference(decode(offer.take(integer_bytes(count, bits)), (count,), dtype) - values, dtype)
        return payload, decode_difference(payload, (count,), dtype)
    step = _step(read_range(offer), dtype)
    check = read_check(offer)
    ours = lattice(values, step)
    difference = wrap(unpack(offer.take(integer_bytes(count, bits)), count, bits) - ours, bits)
    if not is_finite(values):
        d = torch.full((count,), torch.nan)
    elif is_wrapped(ours, -difference, _signs(seed, index, ours), check):
        return VOID + encode_difference(torch.zeros(count), dtype), None
    elif not difference.any():
        # Below what the step can tell: equal replicas have a difference of exactly 0.
        d = torch.zeros(count)
    else:
        d = shrink((ours + difference) * step - values.double(), count * step**2 / 12).float()
    payload = encode_difference(d, dtype)
    return VALID + payload, decode_difference(payload, (count,), dtype)


def read_whole(count: int, dtype: Dtype, answer: Reader) -> Tensor | None:
    """Initiator: the same C (flat), or None when it is void. Raises ValueError for a flag that is neither."""
    is_void = is_integer(dtype) and read_flag(answer)
    C = decode_difference(answer.take(difference_bytes(count, dtype)), (count,), dtype)
    return None if is_void else C


def _step(rms: float, dtype: Dtype) -> float:
    return _REACH[dtype] * rms / ((1 << (dtype.bits - 1)) - 1)


def _signs(seed: bytes, index: int, values: Tensor) -> Tensor:
    return rademacher(seed, index, values.numel(), 1).reshape(-1)
