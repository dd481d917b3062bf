"""Exchange of optimizer moments (DES-LOC, arXiv 2505.22549): the rank-1 codec of the second moment, and what keeps Adam safe.

M rows, N columns of a tensor's matrix view; u = exp_avg, v = exp_avg_sq, t optimizer steps, ``^`` bias-corrected.

The rank-1 codec sends the logarithms of row means R and column means Cc of v^ (m + n numbers, fp32), the model of Adafactor
(1804.04235), v ~ R Cc^T / s with s = mean(R). The correction is multiplicative, so v stays positive:

    offer  log R_i, log Cc_i       answer  log R_j, log Cc_j       close  nothing
    C = log(R_i Cc_i^T / s_i) - log(R_j Cc_j^T / s_j)              i: v *= exp(-w C),  j: v *= exp(+w C)

It is antisymmetric in log v: what is left untouched by a meeting is the pair's geometric mean, where the arithmetic pair
mean of the models would not be antisymmetric; the two agree to first order in C.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from lowcomm_node.algo.correction import Correction
from lowcomm_node.algo.shapes import Plan, Shapes, matrix_shape
from lowcomm_node.algo.sizes import PartBytes
from lowcomm_node.algo.wireformat import decode, encode, is_finite
from lowcomm_node.units import Codec, Dtype, Stream

__all__ = [
    "RatioCorrection",
    "add_nonnegative_",
    "bias_correction",
    "check_plan",
    "encode_answer",
    "encode_offer",
    "finish",
    "guard_",
    "part_bytes",
    "rank1_ranks",
]

_MAX_LOG_RATIO = math.log(4.0)
"""One meeting changes no entry of v by more than this factor, nor the step size by more than 2."""

_LOG_FLOOR = -69.0
"""Logarithm (about 1e-30) sent for a row, column or entry that never had a gradient: no information, so no correction."""


@dataclass(frozen=True, slots=True)
class _Difference:
    """C of one tensor, fp32 on the CPU: rows[:, None] + columns[None, :], but 0 where either end has no information."""

    rows: Tensor
    columns: Tensor
    """Empty for a vector, whose C is ``rows`` itself."""
    has_row: Tensor
    has_column: Tensor


@dataclass(frozen=True, slots=True)
class RatioCorrection:
    """The estimated difference of two nodes' log v. The initiator applies it with weight -w, the answerer with +w."""

    parts: tuple[_Difference | None, ...]

    @torch.no_grad()
    def apply_(self, tensors: Sequence[Tensor], weight: float) -> None:
        """Multiply by exp(clamp(weight C, -log 4, log 4)) in place, for second moments of any device. Zero stays zero.

        Bias correction scales v^ and v alike, so the tensors may be the raw moments.
        Raises ValueError when the number of tensors is not that of C.
        """
        if len(tensors) != len(self.parts):
            raise ValueError(f"{len(tensors)} tensors for a correction of {len(self.parts)}")
        for tensor, part in zip(tensors, self.parts, strict=True):
            if part is None:
                continue
            log_ratio = _log_difference(part).mul_(weight).clamp_(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
            tensor.mul_(log_ratio.exp_().reshape(tensor.shape).to(tensor))

    def norm(self) -> float:
        """Root of the sum of squares of C over all tensors, in nats."""
        return math.sqrt(sum(float(_log_difference(part).square().sum()) for part in self.parts if part is not None))

    def is_finite(self) -> bool:
        """Whether C has no NaN or infinity."""
        return all(is_finite(part.rows) and is_finite(part.columns) for part in self.parts if part is not None)


def rank1_ranks(shapes: Shapes) -> tuple[int, ...]:
    """The ranks of a rank1 plan that leaves nothing out: 1 for matrices, -1 (every entry's logarithm) for vectors."""
    return tuple(-1 if matrix_shape(shape) is None else 1 for shape in shapes)


def check_plan(shapes: Shapes, plan: Plan) -> None:
    """Raise ValueError, saying what is wrong, unless ``plan`` is a rank1 plan for second moments of ``shapes``."""
    if plan.codec is not Codec.RANK1 or plan.stream is not Stream.EXP_AVG_SQ:
        raise ValueError(f"codec {plan.codec} of stream {plan.stream}: rank1 is for exp_avg_sq alone")
    if plan.dtype is not Dtype.FP32:
        raise ValueError(f"codec rank1 in {plan.dtype}: logarithms go as fp32")
    if len(plan.ranks) != len(shapes):
        raise ValueError(f"plan of {plan.stream} has {len(plan.ranks)} ranks for {len(shapes)} tensors")
    for index, (rank, full) in enumerate(zip(plan.ranks, rank1_ranks(shapes), strict=True)):
        if rank not in (0, full):
            raise ValueError(
                f"tensor {index} of {plan.stream}, shape {tuple(shapes[index])}: rank {rank} is not 0 or {full}"
            )


def part_bytes(shapes: Shapes, plan: Plan) -> PartBytes:
    """The payload sizes of a rank1 plan. Raises ValueError as ``check_plan`` does."""
    check_plan(shapes, plan)
    numbers = sum(sum(_log_shapes(shape)) for shape, rank in zip(shapes, plan.ranks, strict=True) if rank)
    return PartBytes(offer=4 * numbers, answer=4 * numbers, close=0)


@torch.no_grad()
def encode_offer(tensors: Sequence[Tensor], plan: Plan) -> bytes:
    """Initiator: log row and column means of ``tensors``, the bias-corrected second moments (fp32, any device).

    Raises ValueError when the plan does not fit the tensors.
    """
    check_plan([tensor.shape for tensor in tensors], plan)
    chunks: list[bytes] = []
    for tensor, rank in zip(tensors, plan.ranks, strict=True):
        if rank:
            chunks += [encode(torch.log(means).clamp_(min=_LOG_FLOOR), plan.dtype) for means in _means(tensor)]
    return b"".join(chunks)


@torch.no_grad()
def encode_answer(tensors: Sequence[Tensor], plan: Plan, offer: bytes) -> tuple[bytes, RatioCorrection]:
    """Answerer: the same of its own tensors, and the correction, to be held until the close.

    Raises ValueError when the plan does not fit the tensors or ``offer`` is not of the plan's exact size.
    """
    answer = encode_offer(tensors, plan)
    return answer, finish([tensor.shape for tensor in tensors], plan, offer, answer)


@torch.no_grad()
def finish(shapes: Shapes, plan: Plan, offer: bytes, answer: bytes) -> RatioCorrection:
    """Either end: the correction, from nothing but the two payloads. Raises ValueError when one has not the plan's size."""
    sizes = part_bytes(shapes, plan)
    if (len(offer), len(answer)) != (sizes.offer, sizes.answer):
        raise ValueError(
            f"payloads of {len(offer)} and {len(answer)} bytes where the plan takes {sizes.offer} each way"
        )
    parts: list[_Difference | None] = []
    start = 0
    for shape, rank in zip(shapes, plan.ranks, strict=True):
        if not rank:
            parts.append(None)
            continue
        m, n = _log_shapes(shape)
        middle, end = start + 4 * m, start + 4 * (m + n)
        rows_i, rows_j = (decode(payload[start:middle], (m,), plan.dtype) for payload in (offer, answer))
        columns_i, columns_j = (decode(payload[middle:end], (n,), plan.dtype) for payload in (offer, answer))
        has_row = (rows_i > _LOG_FLOOR) & (rows_j > _LOG_FLOOR)
        has_column = (columns_i > _LOG_FLOOR) & (columns_j > _LOG_FLOOR)
        rows = rows_i - rows_j
        if n:
            # log s_i - log s_j; the number of rows, the same on both ends, cancels.
            rows = rows - (torch.logsumexp(rows_i, 0) - torch.logsumexp(rows_j, 0))
        parts.append(_Difference(rows, columns_i - columns_j, has_row, has_column))
        start = end
    return RatioCorrection(tuple(parts))


def bias_correction(beta: float, step: float) -> float:
    """1 - beta^t, what Adam divides a moment of decay ``beta`` by after ``step`` steps; 0 before the first."""
    return float(1.0 - beta**step)


@torch.no_grad()
def guard_(exp_avg: Tensor, exp_avg_sq: Tensor, step: float, beta1: float, beta2: float) -> None:
    """Clamp exp_avg in place so that |u^| <= sqrt(v^); to be called after any exchange of u or v.

    Where the own v is almost 0 (embedding rows of tokens never seen here) a partner's u would make u^/sqrt(v^), and
    with it the next step, explode, even when both moments travel uncompressed. With the clamp no entry moves by more
    than the learning rate. One shape, fp32; ``step`` counts own optimizer steps. Source: measurement, no paper.
    """
    if step <= 0:
        exp_avg.zero_()
        return
    limit = exp_avg_sq.div(bias_correction(beta2, step)).sqrt_().mul_(bias_correction(beta1, step))
    torch.clamp(exp_avg, min=-limit, max=limit, out=exp_avg)


@torch.no_grad()
def add_nonnegative_(tensors: Sequence[Tensor], correction: Correction, weight: float) -> None:
    """Add weight C to second moments in place, but let no entry fall below a quarter of its value: the dense form of exchanging v.

    C taken at once with w <= 1 never reaches that floor, since v_i - w (v_i - v_j) is a mean of two positive numbers; C that
    was rounded or comes late may, and then positivity is worth more than the exact mean.
    """
    floors = [tensor * 0.25 for tensor in tensors]
    correction.add_to_(tensors, weight)
    for tensor, floor in zip(tensors, floors, strict=True):
        torch.maximum(tensor, floor, out=tensor)


def _log_shapes(shape: Sequence[int]) -> tuple[int, int]:
    """How many row and column numbers a tensor sends; a vector sends its entries as rows."""
    return matrix_shape(shape) or (prod(shape), 0)


def _means(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column means, (m,) and (n,); of a vector its entries and nothing."""
    if tensor.ndim < 2:
        return tensor.reshape(-1), tensor.new_zeros(0)
    matrix = tensor.reshape(tensor.shape[0], -1)
    return matrix.mean(1), matrix.mean(0)


def _log_difference(part: _Difference) -> Tensor:
    """C of one tensor, (m, n) or (m,), newly made."""
    rows = part.rows.where(part.has_row, 0.0)
    if not part.columns.numel():
        return rows
    total = rows.unsqueeze(1) + part.columns.unsqueeze(0)
    return total.where(part.has_row.unsqueeze(1) & part.has_column.unsqueeze(0), 0.0)
