"""What two nodes exchange about one stream of tensors, and the correction both compute from it.

One plan, three messages, per tensor one of four ways:

    dense  (r = -1)  all its numbers, rotated in integers               algo.whole, algo.rotation
    sparse (r > 0)   r of them, at coordinates drawn by both            algo.whole, algo.sparse
    ab     (r > 0)   r directions of the difference                     algo.lowrank
    left out (r = 0) nothing

Both ends derive C, their common estimate of M_i - M_j, from the same bytes, so whatever the rounding, i taking -w C and j taking +w C
leaves the pair's mean where it was; and each message is computed from the live tensors, so local steps may lie between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from lowcomm_node.algo.correction import Correction, Part
from lowcomm_node.algo.lowrank import LowRank, answer_low_rank, close_low_rank, finish_low_rank, offer_low_rank
from lowcomm_node.algo.shapes import Plan
from lowcomm_node.algo.sizes import check_plan, is_integer, offer_bytes, tensor_bytes
from lowcomm_node.algo.sparse import select
from lowcomm_node.algo.whole import answer_whole, offer_whole, read_whole
from lowcomm_node.algo.wireformat import Reader, as_fp32, decode, is_finite, read_range
from lowcomm_node.units import Codec

__all__ = ["AnswerHalf", "encode_answer", "encode_close", "encode_offer", "finish", "is_finite_offer"]


@dataclass(frozen=True, slots=True)
class AnswerHalf:
    """What the answerer keeps between its answer and the close: per tensor C in the numbers sent, or the basis Q (m x r); None where it is void."""

    plan: Plan
    seed: bytes
    shapes: tuple[tuple[int, ...], ...]
    parts: tuple[Tensor | None, ...]

    def is_finite(self) -> bool:
        """False when the offer, or the own state, held a NaN or an infinity; such a meeting cannot end well."""
        return all(is_finite(part) for part in self.parts if part is not None)


@torch.no_grad()
def encode_offer(
    tensors: Sequence[Tensor],
    plan: Plan,
    seed: bytes,
    *,
    ranges: Sequence[float] | None = None,
    bases: Sequence[Tensor | None] | None = None,
) -> bytes:
    """Initiator: the first payload, from its tensors of one stream (any device, fp32) and the meeting's ``seed``.

    ``ranges``: per tensor the expected rms of a number of the difference, for integer formats. ``bases``: per tensor the test
    matrix (n x c, any c, ``balanced``, main direction first) of a plan whose Omega is not seeded; None where there is none yet. Raises ValueError when the plan does not fit the tensors, or integers are planned without ranges.
    """
    shapes = _shapes(tensors)
    check_plan(shapes, plan)
    if is_integer(plan.dtype) and ranges is None:
        raise ValueError(f"{plan.dtype} of {plan.stream} needs the expected ranges of differences")
    rms = [0.0] * len(tensors) if ranges is None else [as_fp32(expected) for expected in ranges]
    chunks = [b""] * len(tensors)
    for index in _low_rank(plan):
        basis = None if bases is None else bases[index]
        chunks[index] = offer_low_rank(_matrix(tensors[index]), _form(plan, seed, index), basis, rms[index])
    for some in select(shapes, plan, seed):
        expected = [rms[index] for index in some.indices]
        offered = offer_whole(some.values(tensors), plan.dtype, seed, some.indices, expected)
        for index, chunk in zip(some.indices, offered, strict=True):
            chunks[index] = chunk
    return b"".join(chunks)


def is_finite_offer(shapes: Sequence[tuple[int, ...]], plan: Plan, offer: bytes) -> bool:
    """Were the numbers finite of which ``encode_offer`` has made this payload? Integers tell by their ranges."""
    if not is_integer(plan.dtype):
        return is_finite(decode(offer, (8 * len(offer) // plan.dtype.bits,), plan.dtype))
    reader = Reader(offer, len(offer))
    try:
        for size in offer_bytes(shapes, plan):
            read_range(Reader(bytes(reader.take(size)), size))
    except ValueError:
        return False
    return True


@torch.no_grad()
def encode_answer(tensors: Sequence[Tensor], plan: Plan, seed: bytes, offer: bytes) -> tuple[bytes, AnswerHalf]:
    """Answerer: the second payload, and what to keep until the close comes.

    Raises ValueError when the plan does not fit the tensors or ``offer`` is not one of this plan.
    """
    shapes = _shapes(tensors)
    theirs = _cut(offer, [size.offer for size in tensor_bytes(shapes, plan)])
    chunks = [b""] * len(tensors)
    parts: list[Tensor | None] = [None] * len(tensors)
    for index in _low_rank(plan):
        chunks[index], parts[index] = answer_low_rank(_matrix(tensors[index]), _form(plan, seed, index), theirs[index])
    for some in select(shapes, plan, seed):
        offers = [theirs[index] for index in some.indices]
        answered = answer_whole(some.values(tensors), plan.dtype, seed, some.indices, offers)
        for index, (chunk, C) in zip(some.indices, answered, strict=True):
            chunks[index], parts[index] = chunk, C
    return b"".join(chunks), AnswerHalf(plan, seed, shapes, tuple(parts))


@torch.no_grad()
def encode_close(
    tensors: Sequence[Tensor], plan: Plan, seed: bytes, offer: bytes, answer: bytes
) -> tuple[bytes, Correction]:
    """Initiator: the third payload, and the correction, to be held until the verdict.

    ``offer`` is the payload this node sent; the tensors may have moved since. Raises ValueError when a payload is not one
    of this plan.
    """
    shapes = _shapes(tensors)
    sizes = tensor_bytes(shapes, plan)
    own, theirs = _cut(offer, [size.offer for size in sizes]), _cut(answer, [size.answer for size in sizes])
    chunks = [b""] * len(tensors)
    parts: list[Part | None] = [None] * len(tensors)
    for index in _low_rank(plan):
        form = _form(plan, seed, index)
        chunks[index], parts[index] = close_low_rank(_matrix(tensors[index]), form, own[index], theirs[index])
    for some in select(shapes, plan, seed):
        told = read_whole(some.count, plan.dtype, [theirs[index] for index in some.indices])
        for index, part in zip(some.indices, some.parts(told), strict=True):
            parts[index] = part
    return b"".join(chunks), Correction(tuple(parts))


@torch.no_grad()
def finish(half: AnswerHalf, close: bytes) -> Correction:
    """Answerer: the same correction as the initiator's, to the last bit on the same kind of machine.

    Raises ValueError when ``close`` is not one of this plan.
    """
    plan = half.plan
    theirs = _cut(close, [size.close for size in tensor_bytes(half.shapes, plan)])
    parts: list[Part | None] = [None] * len(half.shapes)
    for index in _low_rank(plan):
        Q, n = half.parts[index], prod(half.shapes[index][1:])
        assert Q is not None, "low rank is void only in its close"
        parts[index] = finish_low_rank(Q, n, _form(plan, half.seed, index), theirs[index])
    for some in select(half.shapes, plan, half.seed):
        for index, part in zip(some.indices, some.parts([half.parts[index] for index in some.indices]), strict=True):
            parts[index] = part
    return Correction(tuple(parts))


def _shapes(tensors: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in tensors)


def _low_rank(plan: Plan) -> list[int]:
    """Which tensors of the plan go as directions; the others that take part are what ``select`` names."""
    return [index for index, rank in enumerate(plan.ranks) if rank > 0 and plan.codec is Codec.AB]


def _cut(payload: bytes, sizes: Sequence[int]) -> list[Reader]:
    """Each tensor's piece. Raises ValueError unless all together are exactly the payload."""
    whole = Reader(payload, sum(sizes))
    return [Reader(whole.take(size), size) for size in sizes]


def _form(plan: Plan, seed: bytes, index: int) -> LowRank:
    return LowRank(plan.ranks[index], plan.dtype, plan.omega, seed, index)


def _matrix(tensor: Tensor) -> Tensor:
    return tensor.reshape(tensor.shape[0], -1)
