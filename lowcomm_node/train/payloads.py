"""Between a replica and the codecs: one stream's payloads out of live state, and its correction back into it."""

import hashlib
from collections.abc import Sequence

from lowcomm_node.algo import exchange, moments
from lowcomm_node.algo.correction import Correction
from lowcomm_node.algo.exchange import AnswerHalf
from lowcomm_node.algo.moments import RatioCorrection
from lowcomm_node.core.messages import StreamPlan
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import Codec, MeetingId, RunId, Stream

__all__ = [
    "AnyCorrection",
    "AnyHalf",
    "answer_part",
    "apply_corrections",
    "close_part",
    "finish_part",
    "meeting_seed",
    "offer_part",
]

AnyCorrection = Correction | RatioCorrection
AnyHalf = AnswerHalf | RatioCorrection
"""What the answerer keeps until the close; rank1 knows its correction before."""


def meeting_seed(run_id: RunId, meeting_id: MeetingId, stream: Stream) -> bytes:
    """Seed of the test matrix that both ends draw; fresh for each meeting and stream."""
    return hashlib.sha256(f"{run_id}|{meeting_id}|{stream}".encode()).digest()


def offer_part(replica: Replica, plan: StreamPlan, seed: bytes) -> bytes:
    """The initiator's first payload."""
    tensors = replica.views(plan.stream)
    if plan.codec is Codec.RANK1:
        return moments.encode_offer(tensors, plan)
    return exchange.encode_offer(tensors, plan, seed)


def answer_part(replica: Replica, plan: StreamPlan, seed: bytes, offer: bytes) -> tuple[bytes, AnyHalf]:
    """The answerer's payload. Raises ValueError when plan or payload do not fit."""
    tensors = replica.views(plan.stream)
    if plan.codec is Codec.RANK1:
        return moments.encode_answer(tensors, plan, offer)
    return exchange.encode_answer(tensors, plan, seed, offer)


def close_part(replica: Replica, plan: StreamPlan, offer: bytes, answer: bytes) -> tuple[bytes, AnyCorrection]:
    """The initiator's last payload and its correction. Raises ValueError when the answer does not fit."""
    if plan.codec is Codec.RANK1:
        return b"", moments.finish(replica.shapes, plan, offer, answer)
    return exchange.encode_close(replica.views(plan.stream), plan, offer, answer)


def finish_part(half: AnyHalf, close: bytes) -> AnyCorrection:
    """The answerer's correction. Raises ValueError when the close does not fit."""
    if isinstance(half, AnswerHalf):
        return exchange.finish(half, close)
    if close:
        raise ValueError(f"payload of {len(close)} bytes where rank1 takes none")
    return half


def apply_corrections(
    replica: Replica, corrections: Sequence[tuple[Stream, AnyCorrection]], signed_weight: float
) -> None:
    """Move the replica by ``signed_weight * C`` of each stream: -w on the initiator, +w on the answerer.

    params: theta and phi shift together, so that the own displacement theta - phi is untouched; with mixing through
    the momentum the next outer step takes the shift into the outer momentum too. Moments: C is in bias-corrected
    coordinates and is scaled back by the own 1 - beta^t; the second moment stays positive. After a change of either
    moment |u| <= sqrt(v), bias-corrected, holds everywhere.
    """
    for stream, correction in corrections:
        if isinstance(correction, RatioCorrection):
            correction.apply_(replica.exp_avg_sq, signed_weight)
        elif stream is Stream.PARAMS:
            correction.add_to_(replica.theta, signed_weight)
            correction.add_to_(replica.phi, signed_weight)
            if replica.has_mixed:
                correction.add_to_(replica.mixed, signed_weight)
        else:
            weight = signed_weight * replica.bias_correction(stream)
            if stream is Stream.EXP_AVG:
                correction.add_to_(replica.exp_avg, weight)
            else:
                moments.add_nonnegative_(replica.exp_avg_sq, correction, weight)
    if any(stream is not Stream.PARAMS for stream, _ in corrections):
        replica.guard_moments()
