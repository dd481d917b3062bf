"""Plans, replicas and whole meetings between them, for the tests of the codecs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcomm_node.algo.correction import Correction
from lowcomm_node.algo.exchange import encode_answer, encode_close, encode_offer, finish
from lowcomm_node.core.messages import StreamPlan
from lowcomm_node.units import Codec, Dtype, Omega, Stream

SHAPES = ((12, 9), (5,), (6, 4, 2), (3, 3), ())
"""A matrix, a vector, a kernel, a small matrix and a scalar."""

SEED = bytes(range(32))


def make_plan(
    ranks: Sequence[int],
    *,
    codec: Codec = Codec.AB,
    dtype: Dtype = Dtype.FP32,
    stream: Stream = Stream.PARAMS,
    omega: Omega = Omega.SEEDED,
) -> StreamPlan:
    return StreamPlan(stream=stream, codec=codec, dtype=dtype, ranks=tuple(ranks), omega=omega)


def make_replica(generator: torch.Generator, shapes: Sequence[Sequence[int]] = SHAPES) -> list[Tensor]:
    return [torch.randn(tuple(shape), generator=generator) for shape in shapes]


def nudge(tensors: Sequence[Tensor], generator: torch.Generator, scale: float = 0.05) -> list[Tensor]:
    """A local step: moves the tensors in place and returns by how much."""
    steps = [torch.randn(tensor.shape, generator=generator) * scale for tensor in tensors]
    for tensor, step in zip(tensors, steps, strict=True):
        tensor.add_(step)
    return steps


def rms_of(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[float]:
    """Per tensor the true rms of a number of the difference: what a well informed initiator expects."""
    return [max(float((a - b).square().mean().sqrt()), 1e-6) for a, b in zip(first, second, strict=True)]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a meeting sent, and what each end made of it."""

    offer: bytes
    answer: bytes
    close: bytes
    initiator: Correction
    answerer: Correction


def meet(
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    plan: StreamPlan,
    seed: bytes = SEED,
    *,
    ranges: Sequence[float] | None = None,
    bases: Sequence[Tensor | None] | None = None,
) -> Outcome:
    """All three messages, nothing applied. ``ranges`` default to the truth."""
    ranges = rms_of(first, second) if ranges is None else ranges
    offer = encode_offer(first, plan, seed, ranges=ranges, bases=bases)
    answer, half = encode_answer(second, plan, seed, offer)
    close, initiator = encode_close(first, plan, seed, offer, answer)
    return Outcome(offer, answer, close, initiator, finish(half, close))


def materialise(correction: Correction, shapes: Sequence[Sequence[int]] = SHAPES) -> list[Tensor]:
    """C written out, tensor by tensor."""
    tensors = [torch.zeros(tuple(shape)) for shape in shapes]
    correction.add_to_(tensors, 1.0)
    return tensors


def captured(first: Sequence[Tensor], second: Sequence[Tensor], correction: Correction) -> float:
    """The share of the difference's energy that C takes away."""
    differences = [(a - b).double() for a, b in zip(first, second, strict=True)]
    written = materialise(correction, [tensor.shape for tensor in first])
    left = sum(float((d - c).square().sum()) for d, c in zip(differences, written, strict=True))
    return 1 - left / sum(float(d.square().sum()) for d in differences)


def decaying_pair(
    generator: torch.Generator, m: int, n: int, decay: float, relative: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Two random matrices whose difference has singular values decay^k and norm ``relative`` times theirs."""
    rank = min(m, n)
    common = torch.randn(m, n, generator=generator)
    left, _ = torch.linalg.qr(torch.randn(m, rank, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(n, rank, generator=generator))
    difference = (left * decay ** torch.arange(rank)) @ right.T
    difference *= relative * common.norm() / difference.norm()
    return common + difference / 2, common - difference / 2
