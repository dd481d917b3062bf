"""Between a replica and the codecs: one stream's payloads out of live state, and its correction back into it."""

import hashlib
from collections.abc import Sequence

from torch import Tensor

from lowcomm_node.algo import exchange, moments
from lowcomm_node.algo.correction import Correction
from lowcomm_node.algo.exchange import AnswerHalf
from lowcomm_node.algo.log_moments import apply_log_correction_
from lowcomm_node.algo.moments import RatioCorrection
from lowcomm_node.algo.wireformat import decode, is_finite
from lowcomm_node.core.messages import StreamPlan
from lowcomm_node.train.frozen import Frozen
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import Codec, MeetingId, RunId, Stream, StreamKind

__all__ = [
    "AnyCorrection",
    "AnyHalf",
    "answer_part",
    "apply_correction",
    "close_corrections",
    "close_part",
    "finish_part",
    "frozen_of",
    "is_finite_offer",
    "meeting_seed",
    "offer_part",
]

AnyCorrection = Correction | RatioCorrection
AnyHalf = AnswerHalf | RatioCorrection
"""What the answerer keeps until the close; rank1 knows its correction before."""


def meeting_seed(run_id: RunId, meeting_id: MeetingId, stream: Stream) -> bytes:
    """Seed of the test matrix that both ends draw; fresh for each meeting and stream."""
    return hashlib.sha256(f"{run_id}|{meeting_id}|{stream}".encode()).digest()


def frozen_of(replica: Replica, plan: StreamPlan) -> Frozen | None:
    """By which a plan in coordinates is to be understood; None of whole tensors. Raises ForgivableError as ``AbTraining.held_for``."""
    return replica.ab.held_for(plan) if plan.frozen and replica.ab is not None else None


def offer_part(replica: Replica, plan: StreamPlan, seed: bytes, ranges: Sequence[float] | None = None) -> bytes:
    """The initiator's first payload. ``ranges`` as ``Planner.ranges`` gives them, for integers alone."""
    tensors = _views(replica, plan)
    if plan.codec is Codec.RANK1:
        return moments.encode_offer(tensors, plan)
    bases = replica.directions.bases(plan, seed)
    return exchange.encode_offer(tensors, plan, seed, ranges=ranges, bases=bases)


def is_finite_offer(replica: Replica, plan: StreamPlan, part: bytes) -> bool:
    """Was the own state finite of which ``offer_part`` has made this?"""
    if plan.codec is Codec.RANK1:
        return is_finite(decode(part, (8 * len(part) // plan.dtype.bits,), plan.dtype))
    frozen, shapes = frozen_of(replica, plan), replica.shapes_of(plan.stream)
    return exchange.is_finite_offer(shapes if frozen is None else frozen.shapes(shapes), plan, part)


def answer_part(replica: Replica, plan: StreamPlan, seed: bytes, offer: bytes) -> tuple[bytes, AnyHalf]:
    """The answerer's payload. Raises ValueError when plan or payload do not fit."""
    tensors = _views(replica, plan)
    if plan.codec is Codec.RANK1:
        return moments.encode_answer(tensors, plan, offer)
    return exchange.encode_answer(tensors, plan, seed, offer)


def close_part(
    replica: Replica, plan: StreamPlan, seed: bytes, offer: bytes, answer: bytes
) -> tuple[bytes, AnyCorrection]:
    """The initiator's last payload and its correction. Raises ValueError when the answer does not fit."""
    if plan.codec is Codec.RANK1:
        return b"", moments.finish(replica.shapes_of(plan.stream), plan, offer, answer)
    return exchange.encode_close(_views(replica, plan), plan, seed, offer, answer)


def finish_part(half: AnyHalf, close: bytes) -> AnyCorrection:
    """The answerer's correction. Raises ValueError when the close does not fit."""
    if isinstance(half, AnswerHalf):
        return exchange.finish(half, close)
    if close:
        raise ValueError(f"payload of {len(close)} bytes where rank1 takes none")
    return half


def apply_correction(
    replica: Replica,
    stream: Stream,
    correction: AnyCorrection,
    signed_weight: float,
    frozen: Frozen | None = None,
) -> None:
    """Move the replica by ``signed_weight * C``: the weight is negative on the initiator. ``close_corrections`` has to follow.

    params: theta and phi shift together, so that the own displacement theta - phi is untouched; with mixing through
    the momentum the next outer step takes the shift into the outer momentum too. Optimizer state: C is in the
    coordinates of ``Replica.views`` and is scaled back by the own 1 - beta^t; second moments stay non-negative. With ``frozen``,
    params were exchanged in their coordinates, whatever the node trains by now.
    """
    if stream is Stream.PARAMS and isinstance(correction, Correction):
        mixed = (replica.mixed,) if replica.has_mixed else ()
        moved = (replica.theta, replica.phi, *mixed)
        if frozen is None:
            correction.add_to_all_(moved, signed_weight)
        else:
            frozen.apply(moved, correction, signed_weight)
    else:
        _apply_to_state(replica, stream, correction, signed_weight)


def close_corrections(replica: Replica, corrections: Sequence[tuple[Stream, AnyCorrection]]) -> None:
    """All corrections of a meeting are applied: guard the optimizer's state where it has changed, and learn their directions."""
    if any(stream is not Stream.PARAMS for stream, _ in corrections):
        replica.optimizer.guard()
    for stream, correction in corrections:
        if isinstance(correction, Correction):
            replica.directions.corrected(stream, correction)


def _views(replica: Replica, plan: StreamPlan) -> list[Tensor]:
    frozen, views = frozen_of(replica, plan), replica.views(plan.stream)
    return views if frozen is None else frozen.views(views)


def _apply_to_state(replica: Replica, stream: Stream, correction: AnyCorrection, signed_weight: float) -> None:
    tensors = replica.tensors(stream)
    scale = replica.bias_correction(stream)
    if isinstance(correction, RatioCorrection):
        correction.apply_(tensors, signed_weight)
    elif replica.is_logarithmic(stream):
        apply_log_correction_(tensors, correction, signed_weight, bias_correction=scale, eps=replica.eps)
    elif replica.kind(stream) is StreamKind.NON_NEGATIVE:
        moments.add_nonnegative_(tensors, correction, signed_weight * scale)
    else:
        # Added in float32 and rounded once: a small correction would be lost on the way into a narrower sum.
        sums = [tensor.float() for tensor in tensors]
        correction.add_to_(sums, signed_weight * scale)
        for tensor, total in zip(tensors, sums, strict=True):
            if total is not tensor:
                tensor.copy_(total)
