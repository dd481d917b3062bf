"""The numbers of a tensor themselves, all of them or a subset: how one tensor goes through the three messages of a meeting.

    offer   M_i
    answer  d = M^_i - M_j        both: C = d^
    close   nothing

fp32 and bf16 offer the weights, rounded. Integers offer the low bits of round(M / step) (``quantize``), where step follows from the
rms that the initiator expects of the difference and sends along. A difference much larger than that wraps around: the offer
has a checksum from which the answerer sees it, and its answer then declares the tensor void, C = 0, for both.
"""

import torch
from torch import Tensor

from lowcomm_node.algo.omega import rademacher
from lowcomm_node.algo.quantize import is_wrapped, lattice, pack, shrink, signed_sum, unpack, wrap
from lowcomm_node.algo.sizes import difference_bytes, integer_bytes, is_integer, weight_bits
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

__all__ = ["REACH", "answer_whole", "offer_whole", "read_whole"]

REACH = 16.0
"""Largest difference that fits, in units of the expected rms. Differences of embeddings have single numbers at 12 (measured: 0.1 M
parameters, 1 to 60 steps apart); the 8 bits that are left cost 0.3 % of the energy."""


def offer_whole(values: Tensor, dtype: Dtype, seed: bytes, index: int, rms: float) -> bytes:
    """Initiator: its numbers (fp32, flat, CPU). Of integers only, ``rms`` is what it expects of a number of the difference."""
    if not is_integer(dtype):
        return encode(values, dtype)
    head = encode_range(values, rms)
    integers = lattice(values, _step(rms, dtype))
    check = encode_check(signed_sum(integers, _signs(seed, index, integers)))
    return head + check + pack(integers, weight_bits(dtype))


def answer_whole(values: Tensor, dtype: Dtype, seed: bytes, index: int, offer: Reader) -> tuple[bytes, Tensor | None]:
    """Answerer: the difference to its own numbers, and C, or None when it is void.

    Raises ValueError when the offer's range is not a positive number. C is NaN where offer or own numbers are.
    """
    count, bits = values.numel(), weight_bits(dtype)
    if not is_integer(dtype):
        payload = encode_difference(decode(offer.take(integer_bytes(count, bits)), (count,), dtype) - values, dtype)
        return payload, decode_difference(payload, (count,), dtype)
    step = _step(read_range(offer), dtype)
    check = read_check(offer)
    ours = lattice(values, step)
    # theirs - own, so that equal replicas have a difference of exactly 0.
    difference = wrap(unpack(offer.take(integer_bytes(count, bits)), count, bits) - ours, bits)
    if not is_finite(values):
        d = torch.full((count,), torch.nan)
    elif is_wrapped(ours, -difference, _signs(seed, index, ours), check):
        return VOID + encode_difference(torch.zeros(count), dtype), None
    else:
        d = shrink(difference.double() * step, count * step**2 / 6).float()
    payload = encode_difference(d, dtype)
    return VALID + payload, decode_difference(payload, (count,), dtype)


def read_whole(count: int, dtype: Dtype, answer: Reader) -> Tensor | None:
    """Initiator: the same C (flat), or None when it is void. Raises ValueError for a flag that is neither."""
    is_void = is_integer(dtype) and read_flag(answer)
    C = decode_difference(answer.take(difference_bytes(count, dtype)), (count,), dtype)
    return None if is_void else C


def _step(rms: float, dtype: Dtype) -> float:
    return REACH * rms / ((1 << (weight_bits(dtype) - 1)) - 1)


def _signs(seed: bytes, index: int, values: Tensor) -> Tensor:
    return rademacher(seed, index, values.numel(), 1).reshape(-1)
