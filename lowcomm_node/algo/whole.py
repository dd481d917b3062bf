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

from collections.abc import Sequence

import torch
from torch import Tensor

from lowcomm_node.algo.omega import random_signs
from lowcomm_node.algo.quantize import contradicts, lattice, pack_rows, shrink, signed_sums, unpack_rows, wrap
from lowcomm_node.algo.sizes import difference_bytes, integer_bytes, is_integer
from lowcomm_node.algo.wireformat import (
    VALID,
    VOID,
    Reader,
    decode_differences,
    encode_check,
    encode_differences,
    encode_range,
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


def offer_whole(values: Tensor, dtype: Dtype, seed: bytes, indices: Sequence[int], rms: Sequence[float]) -> list[bytes]:
    """Initiator: its numbers of alike tensors, a payload for each row of ``values`` (k x count, fp32, CPU).

    ``indices``: where the tensors stand in the plan. Of integers only: they are rotated, and ``rms`` is what it expects of a number of
    each tensor's difference.
    """
    if not is_integer(dtype):
        return encode_differences(values, dtype)
    integers = lattice(values, _column([_step(expected, dtype) for expected in rms]))
    totals = signed_sums(integers, random_signs(seed, indices, values.shape[1]))
    return [
        encode_range(is_finite, expected) + encode_check(total) + packed
        for is_finite, expected, total, packed in zip(
            _finite_rows(values), rms, totals.tolist(), pack_rows(integers, dtype.bits), strict=True
        )
    ]


def answer_whole(
    values: Tensor, dtype: Dtype, seed: bytes, indices: Sequence[int], offers: Sequence[Reader]
) -> list[tuple[bytes, Tensor | None]]:
    """Answerer: per tensor the difference to its own numbers, a row of ``values`` (k x count), and C, or None when it is void.

    Raises ValueError when an offer's range is not a positive number. C is NaN where offer or own numbers are.
    """
    count, bits = values.shape[1], dtype.bits
    if not is_integer(dtype):
        theirs = decode_differences([offer.take(integer_bytes(count, bits)) for offer in offers], count, dtype)
        payloads = encode_differences(theirs - values, dtype)
        return list(zip(payloads, decode_differences(payloads, count, dtype), strict=True))
    steps = [_step(read_range(offer), dtype) for offer in offers]
    checks = [read_check(offer) for offer in offers]
    step = _column(steps)
    ours = lattice(values, step)
    difference = wrap(
        unpack_rows([offer.take(integer_bytes(count, bits)) for offer in offers], count, bits) - ours, bits
    )
    nearest = ours + difference
    totals = signed_sums(nearest, random_signs(seed, indices, count)).tolist()
    noise = _column([count * each**2 / 12 for each in steps])
    d = shrink(nearest.float() * step.float() - values.double(), noise, dim=1).float()
    energies = difference.double().square_().sum(1).tolist()
    flags = []
    for row, is_finite, energy in zip(range(len(d)), _finite_rows(values), energies, strict=True):
        is_void = is_finite and contradicts(totals[row], checks[row], energy)
        flags.append(VOID if is_void else VALID)
        if not is_finite:
            d[row] = torch.nan
        elif is_void or not energy:
            # Below what the step can tell: equal replicas have a difference of exactly 0.
            d[row] = 0.0
    payloads = encode_differences(d, dtype)
    told = decode_differences(payloads, count, dtype)
    return [
        (flag + payload, None if flag == VOID else C) for flag, payload, C in zip(flags, payloads, told, strict=True)
    ]


def read_whole(count: int, dtype: Dtype, answers: Sequence[Reader]) -> list[Tensor | None]:
    """Initiator: the same C of each tensor (flat), or None when it is void. Raises ValueError for a flag that is neither."""
    voids = [is_integer(dtype) and read_flag(answer) for answer in answers]
    told = decode_differences([answer.take(difference_bytes(count, dtype)) for answer in answers], count, dtype)
    return [None if is_void else C for is_void, C in zip(voids, told, strict=True)]


def _step(rms: float, dtype: Dtype) -> float:
    return _REACH[dtype] * rms / ((1 << (dtype.bits - 1)) - 1)


def _column(numbers: Sequence[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64).unsqueeze(1)


def _finite_rows(values: Tensor) -> list[bool]:
    found: list[bool] = torch.isfinite(values).all(1).tolist()
    return found
