"""What two nodes exchange about one stream of tensors, and the correction both compute from it.

One plan, three messages. i is the initiator, j the answerer, M a tensor's m x n view, r its rank in the plan,
Omega an n x r test matrix common to both, and ``^`` marks a value read back from the bytes that crossed the wire:

    dense (r = -1)   offer M_i          answer M_j             close nothing      C = M^_i - M^_j
    ab    (r > 0)    offer Y_i = M_i Omega
                     answer A = Y^_i - M_j Omega  and  Z_j = M_j^T A
                     close dZ = M_i^T A - Z^_j                 B = dZ^ (A^T A + lambda I)^-1,  C = A^ B^T
    left out (r = 0) nothing

Both ends derive C from the same bytes, so whatever the rounding, i taking -w C and j taking +w C leaves the pair's mean
where it was; and each message is computed from the live tensors, so local steps may lie between them.
C is the orthogonal projection of M_i - M_j on the span of (M_i - M_j) Omega: one subspace iteration, as in PowerGossip
(2008.01425), with a fresh Omega each meeting instead of one kept per edge. Differs from it also in that A and dZ are
rounded as differences: bf16 keeps two to three digits of the difference there, not of the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from lowcomm_node.algo.correction import Correction, Factors, solve_factors
from lowcomm_node.algo.omega import rademacher
from lowcomm_node.algo.shapes import Plan, Shapes, matrix_shape
from lowcomm_node.algo.wireformat import decode, encode, is_finite
from lowcomm_node.units import Codec, Dtype

__all__ = [
    "AnswerHalf",
    "PartBytes",
    "check_plan",
    "encode_answer",
    "encode_close",
    "encode_offer",
    "finish",
    "part_bytes",
    "reference_projection",
]

_RIDGE = {Dtype.FP32: 1e-8, Dtype.BF16: 1e-4}
"""lambda relative to the mean eigenvalue of A^T A: about the square root of what rounding a factor costs in energy."""


@dataclass(frozen=True, slots=True)
class PartBytes:
    """Exact payload sizes of one stream in one meeting."""

    offer: int
    answer: int
    close: int

    @property
    def largest_direction(self) -> int:
        """Bytes the busier of the two ends sends."""
        return max(self.offer + self.close, self.answer)


@dataclass(frozen=True, slots=True)
class AnswerHalf:
    """What the answerer keeps between its answer and the close: per tensor the whole C, or the basis A (m x r)."""

    plan: Plan
    shapes: tuple[tuple[int, ...], ...]
    parts: tuple[Tensor | None, ...]

    def is_finite(self) -> bool:
        """False when the offer, or the own state, held a NaN or an infinity; such a meeting cannot end well."""
        return all(is_finite(part) for part in self.parts if part is not None)


def check_plan(shapes: Shapes, plan: Plan) -> None:
    """Raise ValueError, saying what is wrong, unless ``plan`` is one this module can carry out for tensors of ``shapes``."""
    if plan.codec not in (Codec.DENSE, Codec.AB):
        raise ValueError(f"codec {plan.codec} of stream {plan.stream} is not dense or ab")
    if len(plan.ranks) != len(shapes):
        raise ValueError(f"plan of {plan.stream} has {len(plan.ranks)} ranks for {len(shapes)} tensors")
    for index, (shape, rank) in enumerate(zip(shapes, plan.ranks, strict=True)):
        where = f"tensor {index} of {plan.stream}, shape {tuple(shape)}, rank {rank}"
        if rank < -1:
            raise ValueError(f"{where}: ranks are -1 (dense), 0 (left out) or positive")
        if rank <= 0:
            continue
        if plan.codec is Codec.DENSE:
            raise ValueError(f"{where}: codec dense has no low rank")
        matrix = matrix_shape(shape)
        if matrix is None:
            raise ValueError(f"{where}: a vector goes dense or not at all")
        if rank > min(matrix):
            raise ValueError(f"{where}: above min(m, n) = {min(matrix)}")


def part_bytes(shapes: Shapes, plan: Plan) -> PartBytes:
    """The size of each of the three payloads. Raises ValueError as ``check_plan`` does."""
    check_plan(shapes, plan)
    offer = answer = close = 0
    for shape, rank in zip(shapes, plan.ranks, strict=True):
        if rank < 0:
            offer += prod(shape)
            answer += prod(shape)
        elif rank > 0:
            m, n = _matrix(shape)
            offer += m * rank
            answer += (m + n) * rank
            close += n * rank
    size = plan.dtype.bits // 8
    return PartBytes(offer=offer * size, answer=answer * size, close=close * size)


@torch.no_grad()
def encode_offer(tensors: Sequence[Tensor], plan: Plan, seed: bytes, *, ranges: Sequence[float] | None = None) -> bytes:
    """Initiator: the first payload, from its tensors of one stream (any device, fp32) and the meeting's ``seed``.

    Raises ValueError when the plan does not fit the tensors.
    """
    check_plan(_shapes(tensors), plan)
    chunks: list[bytes] = []
    for index, (tensor, rank) in enumerate(zip(tensors, plan.ranks, strict=True)):
        if rank < 0:
            chunks.append(encode(tensor, plan.dtype))
        elif rank > 0:
            chunks.append(encode(_sketch(tensor, seed, index, rank), plan.dtype))
    return b"".join(chunks)


@torch.no_grad()
def encode_answer(tensors: Sequence[Tensor], plan: Plan, seed: bytes, offer: bytes) -> tuple[bytes, AnswerHalf]:
    """Answerer: the second payload, and what to keep until the close comes.

    Raises ValueError when the plan does not fit the tensors or ``offer`` is not of the plan's exact size.
    """
    shapes = _shapes(tensors)
    reader = _Reader(offer, part_bytes(shapes, plan).offer, plan.dtype)
    chunks: list[bytes] = []
    parts: list[Tensor | None] = []
    for index, (tensor, rank) in enumerate(zip(tensors, plan.ranks, strict=True)):
        if rank == 0:
            parts.append(None)
            continue
        if rank < 0:
            theirs = reader.take(tensor.shape)
            chunks.append(encode(tensor, plan.dtype))
            parts.append(theirs.sub_(decode(chunks[-1], tensor.shape, plan.dtype)))
            continue
        matrix = tensor.reshape(tensor.shape[0], -1)
        theirs = reader.take((matrix.shape[0], rank)).to(matrix.device)
        chunks.append(encode(theirs - _sketch(tensor, seed, index, rank), plan.dtype))
        basis = decode(chunks[-1], theirs.shape, plan.dtype)
        chunks.append(encode(_image(matrix, basis), plan.dtype))
        parts.append(basis)
    return b"".join(chunks), AnswerHalf(plan, shapes, tuple(parts))


@torch.no_grad()
def encode_close(tensors: Sequence[Tensor], plan: Plan, seed: bytes, offer: bytes, answer: bytes) -> tuple[bytes, Correction]:
    """Initiator: the third payload, and the correction, to be held until the verdict.

    ``offer`` is the payload this node sent; the tensors may have moved since. No seed: the basis comes with the answer.
    Raises ValueError when a payload is not of the plan's exact size.
    """
    shapes = _shapes(tensors)
    sizes = part_bytes(shapes, plan)
    own = _Reader(offer, sizes.offer, plan.dtype)
    reader = _Reader(answer, sizes.answer, plan.dtype)
    chunks: list[bytes] = []
    parts: list[Tensor | Factors | None] = []
    for tensor, rank in zip(tensors, plan.ranks, strict=True):
        if rank == 0:
            parts.append(None)
            continue
        if rank < 0:
            parts.append(own.take(tensor.shape).sub_(reader.take(tensor.shape)))
            continue
        matrix = tensor.reshape(tensor.shape[0], -1)
        own.skip(matrix.shape[0] * rank)
        basis = reader.take((matrix.shape[0], rank))
        theirs = reader.take((matrix.shape[1], rank))
        chunks.append(encode(_image(matrix, basis) - theirs.to(matrix.device), plan.dtype))
        gap = decode(chunks[-1], theirs.shape, plan.dtype)
        parts.append(solve_factors(basis, gap, _RIDGE[plan.dtype]))
    return b"".join(chunks), Correction(tuple(parts))


@torch.no_grad()
def finish(half: AnswerHalf, close: bytes) -> Correction:
    """Answerer: the same correction as the initiator's, to the last bit on the same kind of machine.

    Raises ValueError when ``close`` is not of the plan's exact size.
    """
    reader = _Reader(close, part_bytes(half.shapes, half.plan).close, half.plan.dtype)
    parts: list[Tensor | Factors | None] = []
    for shape, rank, part in zip(half.shapes, half.plan.ranks, half.parts, strict=True):
        if part is None or rank < 0:
            parts.append(part)
            continue
        gap = reader.take((_matrix(shape)[1], rank))
        parts.append(solve_factors(part, gap, _RIDGE[half.plan.dtype]))
    return Correction(tuple(parts))


def reference_projection(M_i: Tensor, M_j: Tensor, omega: Tensor) -> Tensor:
    """The plain form of ab: the fp64 projection of D = M_i - M_j (m x n) on the span of D omega (omega n x r)."""
    difference = M_i.double() - M_j.double()
    image = difference @ omega.double()
    projection: Tensor = image @ torch.linalg.pinv(image) @ difference
    return projection


class _Reader:
    """Cuts tensors off a payload whose total size was checked first."""

    def __init__(self, payload: bytes, expected_bytes: int, dtype: Dtype) -> None:
        if len(payload) != expected_bytes:
            raise ValueError(f"payload of {len(payload)} bytes where the plan takes {expected_bytes}")
        self._rest = memoryview(payload)
        self._dtype = dtype

    def take(self, shape: Sequence[int]) -> Tensor:
        size = prod(shape) * self._dtype.bits // 8
        tensor = decode(self._rest[:size], shape, self._dtype)
        self._rest = self._rest[size:]
        return tensor

    def skip(self, count: int) -> None:
        self._rest = self._rest[count * self._dtype.bits // 8 :]


def _shapes(tensors: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in tensors)


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    matrix = matrix_shape(shape)
    if matrix is None:
        raise ValueError(f"shape {tuple(shape)} has no low-rank form")
    return matrix


def _sketch(tensor: Tensor, seed: bytes, index: int, rank: int) -> Tensor:
    """M Omega, m x r fp32 on the tensor's device."""
    matrix = tensor.reshape(tensor.shape[0], -1).to(torch.float32)
    return matrix @ rademacher(seed, index, matrix.shape[1], rank).to(matrix.device)


def _image(matrix: Tensor, basis: Tensor) -> Tensor:
    """M^T A, n x r fp32 on the matrix's device."""
    return matrix.to(torch.float32).T @ basis.to(matrix.device)
