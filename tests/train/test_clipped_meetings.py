"""Clipped gossip between two meeting desks: who comes from far away moves nobody far, and the mean is kept."""

import dataclasses
import math
import struct

import pytest

from lowcomm_node.core.commands import ApplyClose, EncodeOffer
from lowcomm_node.core.events import OfferEncoded
from lowcomm_node.errors import RefusalReason
from lowcomm_node.train.desk import MeetingDesk
from lowcomm_node.units import Dtype, MeetingId, Stream
from tests.train.pairs import RUN, Pair, applied, distance, means, refusal, tiny_manifest, tiny_meeting

_FP32_ROUNDING = 1e-6


def _acquainted_pair(**changes: object) -> Pair:
    """Two replicas that have met often enough to know what a correction of theirs is like; then j is thrown far away."""
    pair = Pair(tiny_manifest(tiny_meeting(codec="dense", dtype="fp32", **changes)))
    for _ in range(16):
        pair.step(1)
        pair.meet(Stream.PARAMS)
    pair.step(1)
    for theta, phi in zip(pair.j.theta, pair.j.phi, strict=True):
        theta.add_(100.0)
        phi.add_(100.0)
    return pair


def test_a_partner_that_is_far_off_moves_nobody_far_and_the_mean_is_kept() -> None:
    """Both ends apply the very same multiple of C, so that clipping costs no antisymmetry; the reported norm is the true one."""
    pair = _acquainted_pair()
    mean, before = means(pair.i, pair.j, Stream.PARAMS), [t.clone() for t in pair.i.theta]
    gap = distance(pair.i.theta, pair.j.theta)

    offer = pair.offer(Stream.PARAMS)
    answer = pair.answer(offer)
    close = pair.close(answer)
    on_j, on_i = pair.apply(close), pair.settle(offer.meeting_id)

    assert on_i == on_j
    ((_, norm),), ((_, scale),) = on_i.norms, on_i.scales
    assert norm == pytest.approx(gap)
    assert scale == pytest.approx(answer.clip_norms[0] / gap)
    assert scale < 0.01
    assert distance(pair.i.theta, before) == pytest.approx(scale * gap / 2, rel=1e-2)
    assert distance(means(pair.i, pair.j, Stream.PARAMS), mean) < _FP32_ROUNDING * gap


@pytest.mark.parametrize("newcomer", ["i", "j"])
def test_the_end_that_knows_more_clips_for_both(newcomer: str) -> None:
    """A node that has just come takes anything; its partner's bound holds all the same, whichever of the two has started it."""
    pair = _acquainted_pair()
    desk = MeetingDesk(getattr(pair, newcomer), tiny_manifest(tiny_meeting(codec="dense", dtype="fp32")), RUN)
    setattr(pair, f"desk_{newcomer}", desk)

    answer = pair.answer(pair.offer(Stream.PARAMS))
    close = pair.close(answer)

    assert (answer.clip_norms == (math.inf,)) is (newcomer == "j")
    assert close.scales[0] < 0.01
    assert pair.apply(close).scales[0][1] == close.scales[0]


@pytest.mark.parametrize("excess", [0.5, 1.0001, 1.01, math.inf])
def test_a_correction_over_the_bound_is_refused(excess: float) -> None:
    """An initiator that does not scale, or not enough, cannot make the answerer apply it."""
    pair = _acquainted_pair()
    close = pair.close(pair.answer(pair.offer(Stream.PARAMS)))
    scales: tuple[float, ...] = () if excess == math.inf else (excess * close.scales[0],)

    event = pair.desk_j.handle(ApplyClose(close=dataclasses.replace(close, scales=scales)))

    if excess <= 1.0001:
        assert applied(event).scales[0][1] == scales[0]
    else:
        assert refusal(event) is RefusalReason.MALFORMED
        assert refusal(pair.desk_j.handle(ApplyClose(close=close))) is RefusalReason.UNKNOWN_MEETING


def test_clipping_switched_off() -> None:
    """clip_ratio 0: whatever the size, both ends go the whole way."""
    pair = _acquainted_pair(clip_ratio=0.0)

    event = pair.meet(Stream.PARAMS)

    assert event.scales == ((Stream.PARAMS, 1.0),)
    assert distance(pair.i.theta, pair.j.theta) < 1e-4 * event.norms[0][1]


def test_what_was_clipped_teaches_nobody_the_size_of_differences() -> None:
    """Somebody far off who starts meetings does not make the ranges of integers grow until honest differences vanish in them."""
    manifest = tiny_manifest(tiny_meeting(codec="dense", dtype="int8"))
    pair = Pair(manifest)
    for _ in range(20):
        pair.step(1)
        pair.meet(Stream.PARAMS)
    known = pair.desk_j
    (before,) = struct.unpack("<f", _offer_of(known)[:4])
    for theta, phi in zip(pair.i.theta, pair.i.phi, strict=True):
        theta.add_(100.0)
        phi.add_(100.0)

    for _ in range(5):
        pair.desk_i = MeetingDesk(pair.i, manifest, RUN)  # knows nobody yet, so its offer is in bf16 and fits
        assert pair.meet(Stream.PARAMS).scales[0][1] < 0.01

    (after,) = struct.unpack("<f", _offer_of(known)[:4])
    assert after < 10 * before


def _offer_of(desk: MeetingDesk) -> bytes:
    event = desk.handle(EncodeOffer(meeting_id=MeetingId("f" * 32), streams=(Stream.PARAMS,)))
    assert isinstance(event, OfferEncoded)
    assert event.plans[0].dtype is Dtype.INT8
    return event.parts[0]
