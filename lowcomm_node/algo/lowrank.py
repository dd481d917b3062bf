"""Low-rank factors of the pair's difference: how one matrix goes through the three messages of a meeting.

M is m x n, r the rank, Omega an n x r test matrix known to both, ``^`` a value read back from the bytes that crossed the wire:

    offer   Y_i = M_i Omega
    answer  A = Y^_i - M_j Omega            both: Q = A^ L^-T, L L^T = A^^T A^ + lambda I
            Z_j = M_j^T Q
    close   dZ = M_i^T Q - Z^_j             both: C = Q dZ^^T

C is the orthogonal projection of M_i - M_j on the span of (M_i - M_j) Omega: one subspace iteration, as in PowerGossip (2008.01425), with
a fresh Omega each meeting instead of one kept per edge. Differs from it also in that A and dZ are rounded as differences and the
basis is made orthonormal before the second product, so that rounding is not amplified.

Y and Z_j are products of weights, of which only the difference is wanted. In fp32 they are sent as they are, as is Y in bf16; all
else is wrapped integers (``quantize``), of 16 bits where the format is bf16. An error of Y makes a worse basis and nothing else, since
C is a projection all the same, so its integers are unchecked. An error of Z_j goes into C: its step follows from A^, and
when the sums of its integers contradict each other the close declares the matrix void, C = 0, for both.
Differences and test matrices are sent column by column.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcomm_node.algo.correction import Factors, make_factors, whiten
from lowcomm_node.algo.omega import pad_basis, rademacher
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
from lowcomm_node.units import Dtype, Omega

__all__ = [
    "LowRank",
    "answer_low_rank",
    "close_low_rank",
    "finish_low_rank",
    "offer_low_rank",
    "reference_power_projection",
    "reference_projection",
]

_SKETCH_REACH = 16.0
"""Largest entry of A that fits, in units of the rms that is expected: rows of embeddings differ 12 times more than the rest (measured:
0.1 M parameters, 1 to 60 steps apart)."""
_IMAGE_REACH = 8.0
"""Largest entry of dZ that fits, in units of the rms that an entry would have if one direction held the whole difference."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """How one matrix of a plan is coded."""

    rank: int
    dtype: Dtype
    source: Omega
    seed: bytes
    """Of the meeting."""
    index: int
    """The matrix's position in the plan."""

    def signs(self, n: int) -> Tensor:
        """What both ends draw, n x r: the test matrix itself, and the signs of sums."""
        return rademacher(self.seed, self.index, n, self.rank)

    def decode(self, piece: memoryview | bytes, rows: int) -> Tensor:
        """A difference or test matrix, rows x r."""
        return decode_difference(piece, (self.rank, rows), self.dtype).T.contiguous()


def offer_low_rank(matrix: Tensor, form: LowRank, basis: Tensor | None, rms: float) -> bytes:
    """Initiator: the range of integers, the test matrix unless it is seeded, and Y_i.

    ``matrix`` m x n on any device; ``basis``: n x c columns for a test matrix that is sent, filled up with seeded ones;
    ``rms`` is what it expects of an entry of the difference.
    """
    n, dtype = matrix.shape[1], form.dtype
    omega, sent = form.signs(n), b""
    if form.source is not Omega.SEEDED:
        sent = encode_difference(pad_basis(basis, form.seed, form.index, n, form.rank).T, dtype)
        omega = form.decode(sent, n)
    sketch = _times(matrix, omega)
    if not is_integer(dtype):
        return sent + encode(sketch, dtype)
    integers = lattice(sketch, _sketch_step(rms, n, dtype))
    return encode_range(is_finite(sketch), rms) + sent + pack(integers, weight_bits(dtype))


def answer_low_rank(matrix: Tensor, form: LowRank, offer: Reader) -> tuple[bytes, Tensor]:
    """Answerer: A and Z_j, and the basis Q (m x r), to be kept until the close.

    Raises ValueError when the offer's range is not a positive number. Q is not finite when offer or own matrix are not.
    """
    m, n = matrix.shape
    rank, dtype, bits = form.rank, form.dtype, weight_bits(form.dtype)
    rms = read_range(offer) if is_integer(dtype) else 0.0
    omega = form.signs(n)
    if form.source is not Omega.SEEDED:
        omega = form.decode(offer.take(difference_bytes(n * rank, dtype)), n)
    sketch = _times(matrix, omega)
    theirs = offer.take(integer_bytes(m * rank, bits))
    if is_integer(dtype):
        step = _sketch_step(rms, n, dtype)
        image = (
            wrap(unpack(theirs, m * rank, bits).reshape(m, rank) - lattice(sketch, step), bits).double() * step
        ).float()
        image = image if is_finite(sketch) else image.fill_(torch.nan)
    else:
        image = decode(theirs, (m, rank), dtype) - sketch
    payload = encode_difference(image.T, dtype)
    image = form.decode(payload, m)
    Q = whiten(image)
    Z = _times(matrix.T, Q)
    if dtype is Dtype.FP32:
        return payload + encode(Z, dtype), Q
    integers = lattice(Z, _image_step(image, n, form, rms))
    return payload + pack(integers, bits) + encode_check(signed_sum(integers, form.signs(n))), Q


def close_low_rank(matrix: Tensor, form: LowRank, offer: Reader, answer: Reader) -> tuple[bytes, Factors | None]:
    """Initiator: dZ, and C or None when it is void. ``offer`` is what it sent; ``matrix`` may have moved since."""
    m, n = matrix.shape
    rank, dtype, bits = form.rank, form.dtype, weight_bits(form.dtype)
    rms = read_range(offer) if is_integer(dtype) else 0.0
    offer.take(
        (0 if form.source is Omega.SEEDED else difference_bytes(n * rank, dtype)) + integer_bytes(m * rank, bits)
    )
    image = form.decode(answer.take(difference_bytes(m * rank, dtype)), m)
    Q = whiten(image)
    Z = _times(matrix.T, Q)
    theirs = answer.take(integer_bytes(n * rank, bits))
    if dtype is Dtype.FP32:
        gap = Z - decode(theirs, (n, rank), dtype)
    else:
        step = _image_step(image, n, form, rms)
        ours = lattice(Z, step)
        difference = wrap(ours - unpack(theirs, n * rank, bits).reshape(n, rank), bits)
        is_void = is_wrapped(ours, difference, form.signs(n), read_check(answer)) and is_finite(Z)
        if is_void:
            return VOID + encode_difference(torch.zeros(rank, n), dtype), None
        # Plus what rounding took from the own half, which need not be lost.
        gap = shrink((difference - ours).double() * step + Z, n * step**2 / 12, dim=0).float()
    payload = encode_difference(gap.T, dtype)
    flag = b"" if dtype is Dtype.FP32 else VALID
    return flag + payload, make_factors(Q, form.decode(payload, n))


def finish_low_rank(Q: Tensor, n: int, form: LowRank, close: Reader) -> Factors | None:
    """Answerer: the same C as the initiator's, to the last bit on the same kind of machine, or None when it is void.

    Raises ValueError for a flag that is neither.
    """
    is_void = form.dtype is not Dtype.FP32 and read_flag(close)
    gap = form.decode(close.take(difference_bytes(n * form.rank, form.dtype)), n)
    return None if is_void else make_factors(Q, gap)


def reference_projection(M_i: Tensor, M_j: Tensor, omega: Tensor) -> Tensor:
    """The plain form of ab: the fp64 projection of D = M_i - M_j (m x n) on the span of D omega (omega n x r)."""
    return reference_power_projection(M_i, M_j, omega, 0)


def reference_power_projection(M_i: Tensor, M_j: Tensor, omega: Tensor, iterations: int) -> Tensor:
    """The same after ``iterations`` more products with D D^T (Halko et al. 0909.4061, algorithm 4.3), each of which costs a round trip."""
    difference = M_i.double() - M_j.double()
    image = difference @ omega.double()
    for _ in range(iterations):
        image = difference @ (difference.T @ image)
    projection: Tensor = image @ torch.linalg.pinv(image) @ difference
    return projection


def _times(matrix: Tensor, factor: Tensor) -> Tensor:
    """matrix @ factor, fp32, computed where the matrix lies, on the CPU."""
    return (matrix.to(torch.float32) @ factor.to(matrix.device)).cpu()


def _sketch_step(rms: float, n: int, dtype: Dtype) -> float:
    """Step of Y: an entry of A is a sum over a row of n differences under signs, or about as large (``balanced``)."""
    return _SKETCH_REACH * rms * math.sqrt(n) / ((1 << (weight_bits(dtype) - 1)) - 1)


def _image_step(image: Tensor, n: int, form: LowRank, rms: float) -> float:
    """Step of Z_j. |D| is estimated from A^ (m x r): its columns are on average as long as D, root mean square.

    16 bits have room for a wide margin. Computed alike by both ends; only the initiator's matters for C.
    """
    m, rank = image.shape
    dtype = form.dtype
    energy = float(image.double().square().sum())
    if not (0.0 < energy < math.inf):
        return 1.0
    if is_integer(dtype):
        size = math.sqrt(energy / rank)
        # What was believed of |D| counts, within limits: a few columns may by chance miss what there is.
        size = max(size, min(rms * math.sqrt(m * n), 3 * size))
    else:
        size = 4.0 * math.sqrt(energy)
    return size * min(1.0, _IMAGE_REACH / math.sqrt(n)) / ((1 << (weight_bits(dtype) - 1)) - 1)
