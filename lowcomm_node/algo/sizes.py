"""How many bytes each message takes, and which plans can be carried out. No torch: the budget needs it too."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from lowcomm_node.algo.shapes import Plan, Shapes, matrix_shape
from lowcomm_node.units import Codec, Dtype, Omega

__all__ = [
    "PartBytes",
    "check_plan",
    "difference_bytes",
    "hadamard_order",
    "integer_bytes",
    "is_integer",
    "low_rank_bytes",
    "num_coefficients",
    "offer_bytes",
    "padded_count",
    "part_bytes",
    "tensor_bytes",
    "weight_bits",
    "whole_bytes",
]

BLOCK = 64
"""Numbers of a difference that share a scale when sent as integers."""
SCALE_BYTES = 2
"""bf16."""
RANGE_BYTES = 4
"""fp32, the expected rms of a tensor's difference, in front of its part of the offer."""
CHECK_BYTES = 4
"""Sum of wrapped integers under random signs, modulo 2^32."""
FLAG_BYTES = 1
"""Whether a tensor whose wrapped integers may not fit counts."""
_LARGEST_ORDER = 1 << 15
_NUMBERS_PER_ZERO = 32


@dataclass(frozen=True, slots=True)
class PartBytes:
    """Exact payload sizes of one stream, or of one tensor, in one meeting."""

    offer: int
    answer: int
    close: int

    @property
    def largest_direction(self) -> int:
        """Bytes the busier of the two ends sends."""
        return max(self.offer + self.close, self.answer)


_NOTHING = PartBytes(offer=0, answer=0, close=0)


def is_integer(dtype: Dtype) -> bool:
    """Does the format resolve differences rather than weights?"""
    return dtype in (Dtype.INT8, Dtype.INT4)


def integer_bytes(count: int, bits: int) -> int:
    """``count`` integers of ``bits`` bits, packed."""
    return (count * bits + 7) // 8


def difference_bytes(count: int, dtype: Dtype) -> int:
    """``count`` numbers that are small when replicas are near: integers have a scale for each block."""
    num_scales = -(-count // BLOCK) if is_integer(dtype) else 0
    return SCALE_BYTES * num_scales + integer_bytes(count, dtype.bits)


def weight_bits(dtype: Dtype) -> int:
    """Bits of a product of weights, as low rank sends them. Never under 8: the range that fits must be wide, or else outliers wrap."""
    return max(dtype.bits, 8)


@lru_cache(maxsize=1024)
def hadamard_order(numel: int) -> int:
    """c, the order of the Hadamard matrix that rotates a tensor of N = ``numel`` numbers: the largest power of two that takes at most N / 32 zeros.

    Large, because a few rows may hold most of a difference, and only columns that they reach share it. At most 2^15: the cost
    grows with log c, and tensors of up to 2^15 rows have a part of each row in every one of the N / c columns.
    """
    order = 1
    candidate = 2
    while candidate <= min(numel, _LARGEST_ORDER):
        if -numel % candidate * _NUMBERS_PER_ZERO <= numel:
            order = candidate
        candidate *= 2
    return order


def padded_count(numel: int) -> int:
    """Coefficients of a rotated tensor: ``numel`` rounded up to a multiple of ``hadamard_order``."""
    return numel + -numel % hadamard_order(numel)


def num_coefficients(numel: int, dtype: Dtype) -> int:
    """How many numbers stand for a whole tensor: its own ``numel``, or those of the rotated tensor, of which integers are."""
    return padded_count(numel) if is_integer(dtype) else numel


def whole_bytes(count: int, dtype: Dtype) -> PartBytes:
    """``count`` numbers of a tensor, or coefficients of a rotated one; all of them or a subset."""
    weights, differences = integer_bytes(count, dtype.bits), difference_bytes(count, dtype)
    if is_integer(dtype):
        return PartBytes(offer=RANGE_BYTES + CHECK_BYTES + weights, answer=FLAG_BYTES + differences, close=0)
    return PartBytes(offer=weights, answer=differences, close=0)


def low_rank_bytes(m: int, n: int, rank: int, dtype: Dtype, omega: Omega) -> PartBytes:
    """``rank`` directions of an m x n matrix."""
    basis = 0 if omega is Omega.SEEDED else difference_bytes(n * rank, dtype)
    is_wrapped = dtype is not Dtype.FP32
    image = integer_bytes(n * rank, weight_bits(dtype)) + is_wrapped * CHECK_BYTES
    return PartBytes(
        offer=(RANGE_BYTES if is_integer(dtype) else 0) + basis + integer_bytes(m * rank, weight_bits(dtype)),
        answer=difference_bytes(m * rank, dtype) + image,
        close=is_wrapped * FLAG_BYTES + difference_bytes(n * rank, dtype),
    )


def tensor_bytes(shapes: Shapes, plan: Plan) -> list[PartBytes]:
    """What each tensor takes of the three payloads. Raises ValueError as ``check_plan`` does."""
    check_plan(shapes, plan)
    # Most tensors of a model are like others of it.
    known: dict[tuple[tuple[int, ...], int], PartBytes] = {}
    sizes = []
    for shape, rank in zip(shapes, plan.ranks, strict=True):
        key = (tuple(shape), rank)
        if key not in known:
            known[key] = _tensor_bytes(shape, rank, plan) if rank else _NOTHING
        sizes.append(known[key])
    return sizes


def part_bytes(shapes: Shapes, plan: Plan) -> PartBytes:
    """The size of each of the three payloads. Raises ValueError as ``check_plan`` does."""
    sizes = tensor_bytes(shapes, plan)
    return PartBytes(
        offer=sum(size.offer for size in sizes),
        answer=sum(size.answer for size in sizes),
        close=sum(size.close for size in sizes),
    )


def offer_bytes(shapes: Shapes, plan: Plan) -> tuple[int, ...]:
    """What each tensor of the plan takes of its offer, in their order; those that are left out are not among them."""
    return tuple(_tensor_bytes(shape, rank, plan).offer for shape, rank in zip(shapes, plan.ranks, strict=True) if rank)


def check_plan(shapes: Shapes, plan: Plan) -> None:
    """Raise ValueError, saying what is wrong, unless ``plan`` is one that ``exchange`` can carry out for tensors of ``shapes``."""
    if plan.codec is Codec.RANK1:
        raise ValueError(f"codec {plan.codec} of stream {plan.stream} is not dense, ab or sparse")
    if plan.omega is not Omega.SEEDED and plan.codec is not Codec.AB:
        raise ValueError(f"codec {plan.codec} of stream {plan.stream} has no test matrix to be {plan.omega}")
    if len(plan.ranks) != len(shapes):
        raise ValueError(f"plan of {plan.stream} has {len(plan.ranks)} ranks for {len(shapes)} tensors")
    for index, (shape, rank) in enumerate(zip(shapes, plan.ranks, strict=True)):
        where = f"tensor {index} of {plan.stream}, shape {tuple(shape)}, rank {rank}"
        if rank < -1:
            raise ValueError(f"{where}: ranks are -1 (dense), 0 (left out) or positive")
        if rank > 0:
            _check_positive(shape, rank, plan.codec, where)


def _check_positive(shape: Sequence[int], rank: int, codec: Codec, where: str) -> None:
    if codec is Codec.DENSE:
        raise ValueError(f"{where}: codec dense has no low rank")
    if codec is Codec.SPARSE:
        if rank > prod(shape):
            raise ValueError(f"{where}: above the {prod(shape)} numbers there are")
        return
    matrix = matrix_shape(shape)
    if matrix is None:
        raise ValueError(f"{where}: a vector goes dense or not at all")
    if rank > min(matrix):
        raise ValueError(f"{where}: above min(m, n) = {min(matrix)}")


def _tensor_bytes(shape: Sequence[int], rank: int, plan: Plan) -> PartBytes:
    matrix = matrix_shape(shape)
    if rank < 0 or plan.codec is not Codec.AB or matrix is None:
        return whole_bytes(num_coefficients(prod(shape), plan.dtype) if rank < 0 else rank, plan.dtype)
    return low_rank_bytes(*matrix, rank, plan.dtype, plan.omega)
