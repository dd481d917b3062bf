"""Meetings of two replicas, driven by hand; and what hostile partners send."""

import dataclasses
import math
import struct

import pytest
import torch

from lowcomm_node.core.commands import ApplyClose, DropMeeting, EncodeAnswer, EncodeClose, EncodeOffer, SettleMeeting
from lowcomm_node.core.events import AnswerEncoded, EncodingRefused, OfferEncoded
from lowcomm_node.core.messages import Answer, Close, Offer, StreamPlan
from lowcomm_node.errors import RefusalReason
from lowcomm_node.settings.manifest import MeetingConfig, OuterConfig
from lowcomm_node.train.desk import MeetingDesk
from lowcomm_node.units import Codec, Dtype, MeetingId, Stream
from tests.train.pairs import RUN, Pair, distance, means, refusal, tiny_manifest, tiny_meeting, tiny_session

_FP32_ROUNDING = 1e-6
_BF16_FLOOR = 0.08
"""What bf16 leaves of a small difference when whole weights are offered in it: the rounding of one end, about 2^-9 of the weights themselves."""


def _pair(meeting: MeetingConfig | None = None, gain: float = 1.0, mixing: str = "direct") -> Pair:
    outer = OuterConfig(every_steps=0, mixing_gain=gain, mixing=mixing)
    return Pair(tiny_manifest(meeting or tiny_meeting(), outer))


@pytest.mark.parametrize(
    ("codec", "dtype", "left"),
    [("ab", "bf16", 0.35), ("ab", "fp32", 0.5), ("dense", "bf16", _BF16_FLOOR), ("dense", "fp32", 1e-5)],
)
def test_meetings_bring_replicas_together_and_keep_their_mean(codec: str, dtype: str, left: float) -> None:
    """Any codec: the mean of the weights stays to rounding while six meetings leave only a part of the difference."""
    pair = _pair(tiny_meeting(codec=codec, dtype=dtype))
    mean, gap = means(pair.i, pair.j, Stream.PARAMS), distance(pair.i.theta, pair.j.theta)

    pair.meet(Stream.PARAMS)
    after_one = distance(pair.i.theta, pair.j.theta)
    for _ in range(5):
        pair.meet(Stream.PARAMS)

    assert distance(means(pair.i, pair.j, Stream.PARAMS), mean) < _FP32_ROUNDING * gap
    assert after_one < 0.95 * gap
    assert distance(pair.i.theta, pair.j.theta) < left * gap


@pytest.mark.parametrize("newcomer", ["i", "j"])
def test_a_newcomer_moves_more_than_its_partner_and_the_weighted_mean_stays(newcomer: str) -> None:
    """On either end: with weight 0.2, five sixths of the way are the newcomer's, in weights and in progress."""
    stream = Stream.PARAMS
    pair = _pair(tiny_meeting(codec="dense", dtype="fp32"))
    if newcomer == "i":
        pair.desk_i.join()
        young, old = pair.i, pair.j
    else:
        pair.desk_j.join()
        young, old = pair.j, pair.i
    young.progress_steps, old.progress_steps = 0.0, 60.0
    before = [[tensor.clone() for tensor in replica.views(stream)] for replica in (young, old)]
    gap = distance(*before)

    pair.meet(stream)

    moved_young, moved_old = (
        distance(view, replica.views(stream)) for view, replica in zip(before, (young, old), strict=True)
    )
    assert moved_young == pytest.approx(5 / 6 * gap, rel=1e-3)
    assert moved_old == pytest.approx(gap / 6, rel=1e-3)
    weighted = [0.2 * y.double() + o.double() for y, o in zip(*before, strict=True)]
    after = [0.2 * y.double() + o.double() for y, o in zip(young.views(stream), old.views(stream), strict=True)]
    assert distance(weighted, after) < 1e-3 * gap
    assert (young.progress_steps, old.progress_steps) == pytest.approx((50.0, 50.0))


def test_a_meeting_of_whole_tensors_tells_the_difference() -> None:
    """Both ends count the same energies; nothing of the difference is missed, and progress apart is counted whole."""
    pair = _pair(tiny_meeting(codec="dense", dtype="fp32"))
    pair.i.progress_steps, pair.j.progress_steps = 4.0, 10.0
    energy = distance(pair.i.theta, pair.j.theta) ** 2

    pair.meet(Stream.PARAMS)

    for desk in (pair.desk_i, pair.desk_j):
        told = desk.exchanged[Stream.PARAMS, Codec.DENSE]
        assert told.corrections == 1
        assert told.difference_energy == pytest.approx(energy, rel=1e-4)
        assert told.captured_energy == pytest.approx(energy, rel=1e-4)
        assert told.progress_gap_steps == pytest.approx(6.0)


def test_what_codecs_work_on_is_timed() -> None:
    """Each end of a meeting does its own part of it, in the codec of each stream; what is refused is no work."""
    pair = _pair(tiny_meeting(codec="sparse", exp_avg_sq_codec="rank1"))
    offer = pair.offer(Stream.PARAMS, Stream.EXP_AVG_SQ)
    refusal(pair.desk_j.handle(EncodeAnswer(offer=dataclasses.replace(offer, parts=(b"?", b"?")))))
    pair.apply(pair.close(pair.answer(offer)))
    pair.settle(offer.meeting_id)

    for desk, operations in ((pair.desk_i, ("offer", "close", "apply")), (pair.desk_j, ("answer", "finish", "apply"))):
        done = {key: times for key, (times, seconds) in desk.work.done.items() if seconds >= 0}
        both = (Codec.SPARSE, Codec.RANK1)
        assert done == {(operation, codec): 1 for operation in operations for codec in both}


def test_coordinates_tell_the_whole_difference_without_bias() -> None:
    """A twentieth of the numbers is exchanged; over thirty meetings its energy stands for all of it."""
    pair = _pair(tiny_meeting(codec="sparse", dtype="fp32"))
    true = 0.0
    for _ in range(30):
        pair.step(1)
        true += distance(pair.i.theta, pair.j.theta) ** 2
        pair.meet(Stream.PARAMS)

    told = pair.desk_i.exchanged[Stream.PARAMS, Codec.SPARSE]
    assert told.corrections == 30
    assert told.difference_energy == pytest.approx(true, rel=0.2)
    assert told.captured_energy < 0.5 * true


def test_a_codec_that_tells_no_difference_adds_no_energy() -> None:
    """rank1 averages second moments without ever knowing how far apart they were."""
    pair = _pair(tiny_meeting(exp_avg_sq_codec="rank1"))
    pair.meet(Stream.EXP_AVG_SQ)

    told = pair.desk_j.exchanged[Stream.EXP_AVG_SQ, Codec.RANK1]
    assert told.corrections == 1
    assert told.difference_energy == told.captured_energy == 0.0


def test_after_some_meetings_a_newcomer_counts_as_everybody() -> None:
    """Then the plain mean stays again; what was taken over from an own file counts fully at once."""
    pair = _pair(tiny_meeting(codec="dense", dtype="fp32"))
    pair.desk_i.join()

    weights = []
    for _ in range(6):
        offer = pair.offer(Stream.PARAMS)
        weights.append(offer.weight)
        pair.apply(pair.close(pair.answer(offer)))
        pair.settle(offer.meeting_id)
        pair.step(2)
    mean, gap = means(pair.i, pair.j, Stream.PARAMS), distance(pair.i.theta, pair.j.theta)
    pair.meet(Stream.PARAMS)

    assert weights == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert distance(means(pair.i, pair.j, Stream.PARAMS), mean) < 1e-5 * gap


def test_who_has_slept_does_not_drag_the_others_back() -> None:
    """The incident: a laptop that had slept for ten minutes took half of them from the first partner it met."""
    pair = _pair(tiny_meeting(codec="dense", dtype="fp32"))
    pair.i.progress_steps, pair.j.progress_steps = 0.0, 60.0
    pair.desk_i.stood_still(99 * tiny_manifest().meeting.params_every_steps)

    weights = []
    for _ in range(3):
        offer = pair.offer(Stream.PARAMS)
        weights.append(offer.weight)
        pair.apply(pair.close(pair.answer(offer)))
        pair.settle(offer.meeting_id)

    assert weights == pytest.approx([0.01, 0.4, 0.6])
    assert pair.j.progress_steps > 60 - 60 * 0.01
    assert pair.i.progress_steps == pytest.approx(pair.j.progress_steps)


def test_mean_survives_own_steps_between_the_messages() -> None:
    """Corrections that come late add to what was trained meanwhile; the pair's mean moves only by that training."""
    trained, idle = _pair(), _pair()
    for session, alone in zip(trained.sessions, idle.sessions, strict=True):
        assert torch.equal(session.replica.theta[0], alone.replica.theta[0])

    offer = trained.offer(Stream.PARAMS)
    answer = trained.answer(offer)
    close = trained.close(answer)
    before = means(trained.i, trained.j, Stream.PARAMS)
    trained.step(3)
    drift = [after - first for after, first in zip(means(trained.i, trained.j, Stream.PARAMS), before, strict=True)]
    trained.apply(close)
    trained.settle(offer.meeting_id)

    moved = [after - first for after, first in zip(means(trained.i, trained.j, Stream.PARAMS), before, strict=True)]
    assert distance(moved, drift) < 1e-5


def test_both_ends_report_the_same_norm_and_the_budget_holds() -> None:
    """|C| is the same number on both ends, and neither end sends more than the budget for the stream."""
    pair = _pair()
    offer = pair.offer(Stream.PARAMS)
    answer = pair.answer(offer)
    close = pair.close(answer)

    sent = len(offer.parts[0]) + len(close.parts[0])
    on_j, on_i = pair.apply(close), pair.settle(offer.meeting_id)

    assert on_i.norms == on_j.norms
    assert on_i.norms[0][1] > 0
    assert max(sent, len(answer.parts[0])) <= 4096


def test_correction_moves_fast_and_slow_weights_together() -> None:
    """theta - phi, the own displacement, is untouched; mixing through the momentum also remembers the shift."""
    pair = _pair(mixing="momentum", gain=0.5)
    displacements = [t - p for t, p in zip(pair.i.theta, pair.i.phi, strict=True)]
    before = [t.clone() for t in pair.i.theta]

    pair.meet(Stream.PARAMS)

    after = [t - p for t, p in zip(pair.i.theta, pair.i.phi, strict=True)]
    shift = [t - b for t, b in zip(pair.i.theta, before, strict=True)]
    assert distance(after, displacements) < _FP32_ROUNDING
    assert distance(shift, pair.i.mixed) < _FP32_ROUNDING
    assert distance(shift, [torch.zeros_like(t) for t in shift]) > 0.01


@pytest.mark.parametrize("codec", ["rank1", "dense"])
def test_second_moment_stays_positive_and_comes_closer(codec: str) -> None:
    """Whatever the form, v stays positive where it was, and the logarithms of the pair's row means come closer."""
    pair = _pair(tiny_meeting(exp_avg_sq_codec=codec, dtype="fp32"))
    pair.step(10)
    seen = [
        (a.mean(-1) > 0) & (b.mean(-1) > 0)
        for a, b in zip(pair.i.tensors(Stream.EXP_AVG_SQ), pair.j.tensors(Stream.EXP_AVG_SQ), strict=True)
    ]

    def gap() -> float:
        logs = [
            [torch.log(v.mean(-1)[known]) for v, known in zip(replica.views(Stream.EXP_AVG_SQ), seen, strict=True)]
            for replica in (pair.i, pair.j)
        ]
        return distance(logs[0], logs[1])

    first, had = gap(), [v > 0 for v in pair.i.tensors(Stream.EXP_AVG_SQ)]
    for _ in range(3):
        pair.meet(Stream.EXP_AVG_SQ)

    assert gap() < 0.5 * first
    assert all(bool((v[was] > 0).all()) for v, was in zip(pair.i.tensors(Stream.EXP_AVG_SQ), had, strict=True))
    assert all(bool((v >= 0).all()) for v in pair.j.tensors(Stream.EXP_AVG_SQ))


def test_first_moments_are_averaged_bias_corrected_and_guarded() -> None:
    """Nodes of different age meet in u / (1 - beta1^t); afterwards |u| <= sqrt(v) holds everywhere, so no step explodes."""
    pair = _pair(tiny_meeting(codec="dense", dtype="fp32"))
    for v in pair.i.tensors(Stream.EXP_AVG_SQ):
        v.mul_(1e-12)  # a node that has hardly seen any gradient

    pair.meet(Stream.EXP_AVG)

    for replica in (pair.i, pair.j):
        for u, v in zip(replica.views(Stream.EXP_AVG), replica.views(Stream.EXP_AVG_SQ), strict=True):
            assert bool((u.abs() <= v.sqrt() * (1 + 1e-5)).all())


def test_all_streams_in_one_meeting() -> None:
    """What is due together shares one meeting, one payload and one norm per stream."""
    pair = _pair()

    event = pair.meet(Stream.PARAMS, Stream.EXP_AVG, Stream.EXP_AVG_SQ)

    assert [stream for stream, _ in event.norms] == [Stream.PARAMS, Stream.EXP_AVG, Stream.EXP_AVG_SQ]
    assert all(math.isfinite(norm) for _, norm in event.norms)


def test_progress_is_averaged_and_its_sum_kept() -> None:
    """Each end moves by half the difference of the numbers that crossed the wire, own steps since then stay."""
    pair = _pair()
    pair.i.progress_steps, pair.j.progress_steps = 10.0, 31.0

    offer = pair.offer(Stream.PARAMS)
    answer = pair.answer(offer)
    pair.i.progress_steps += 2
    pair.apply(pair.close(answer))
    pair.settle(offer.meeting_id)

    assert (pair.i.progress_steps, pair.j.progress_steps) == (22.5, 20.5)


def test_dense_last_phase() -> None:
    """Whole tensors are refused in mid-run and taken near its end, where one meeting leaves no more than rounding."""
    pair = _pair()
    early = pair.desk_j.handle(EncodeAnswer(offer=pair.offer(Stream.PARAMS, is_dense=True)))
    for replica in (pair.i, pair.j):
        replica.progress_steps = 190.0

    gap = distance(pair.i.theta, pair.j.theta)
    pair.meet(Stream.PARAMS, is_dense=True)

    assert refusal(early) is RefusalReason.OVERSIZED
    assert distance(pair.i.theta, pair.j.theta) < _BF16_FLOOR * gap


def test_moments_are_not_ready_before_the_first_step() -> None:
    """A fresh node offers no moments, offers params alone when both are due, and refuses an offer of moments."""
    pair = _pair()
    fresh = MeetingDesk(tiny_session(tiny_manifest()).replica, tiny_manifest(), RUN)
    name = MeetingId("f" * 32)

    alone = fresh.handle(EncodeOffer(meeting_id=name, streams=(Stream.EXP_AVG_SQ,)))
    both = fresh.handle(EncodeOffer(meeting_id=name, streams=(Stream.PARAMS, Stream.EXP_AVG_SQ)))
    asked = fresh.handle(EncodeAnswer(offer=pair.offer(Stream.EXP_AVG_SQ)))

    assert refusal(alone) is RefusalReason.NOT_READY
    assert isinstance(both, OfferEncoded)
    assert [plan.stream for plan in both.plans] == [Stream.PARAMS]
    assert refusal(asked) is RefusalReason.NOT_READY


def test_nothing_moves_before_the_verdict_and_a_dropped_meeting_is_forgotten() -> None:
    """Until settle or apply both replicas are untouched; after a drop they stay so, and the meeting is unknown."""
    pair = _pair()
    before = [[t.clone() for t in replica.theta] for replica in (pair.i, pair.j)]
    offer = pair.offer(Stream.PARAMS)
    close = pair.close(pair.answer(offer))

    for desk in (pair.desk_i, pair.desk_j):
        assert desk.handle(DropMeeting(meeting_id=offer.meeting_id)) is None

    assert refusal(pair.desk_j.handle(ApplyClose(close=close))) is RefusalReason.UNKNOWN_MEETING
    settle = SettleMeeting(meeting_id=offer.meeting_id)
    assert refusal(pair.desk_i.handle(settle)) is RefusalReason.UNKNOWN_MEETING
    for replica, old in zip((pair.i, pair.j), before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(replica.theta, old, strict=True))


def test_a_meeting_is_applied_at_most_once() -> None:
    """A second close or settle finds nothing to apply."""
    pair = _pair()
    offer = pair.offer(Stream.PARAMS)
    close = pair.close(pair.answer(offer))
    pair.apply(close)
    pair.settle(offer.meeting_id)

    again = [
        pair.desk_j.handle(ApplyClose(close=close)),
        pair.desk_i.handle(SettleMeeting(meeting_id=offer.meeting_id)),
    ]

    assert [refusal(event) for event in again] == [RefusalReason.UNKNOWN_MEETING] * 2


def test_pending_answers_are_bounded_and_own_meetings_safe() -> None:
    """A flood of offers pushes out old answers, never the correction that this node holds for its own meeting."""
    pair = _pair()
    own = pair.offer(Stream.PARAMS)
    pair.close(pair.answer(own))
    flood = pair.offer(Stream.PARAMS)
    answers: list[Answer] = []
    for number in range(20):
        offer = dataclasses.replace(flood, meeting_id=MeetingId(f"{number:031x}a"))
        event = pair.desk_i.handle(EncodeAnswer(offer=offer))
        assert isinstance(event, AnswerEncoded)
        answers.append(Answer(meeting_id=event.meeting_id, parts=event.parts, progress_steps=0.0))

    first = pair.desk_i.handle(ApplyClose(close=Close(meeting_id=answers[0].meeting_id, parts=(b"",))))

    assert refusal(first) is RefusalReason.UNKNOWN_MEETING
    assert len(pair.desk_i._answered) == 8
    pair.settle(own.meeting_id)


def test_foreign_offer_under_the_id_of_an_own_meeting_does_not_touch_it() -> None:
    """A partner that knows our meeting's id cannot make us drop the held correction with a bad offer."""
    pair = _pair()
    own = pair.offer(Stream.PARAMS)
    pair.close(pair.answer(own))

    event = pair.desk_i.handle(EncodeAnswer(offer=dataclasses.replace(own, parts=(b"x",))))

    assert refusal(event) is RefusalReason.MALFORMED
    pair.settle(own.meeting_id)


def _with_plan(offer: Offer, **changes: object) -> Offer:
    return dataclasses.replace(offer, plans=(dataclasses.replace(offer.plans[0], **changes),))  # type: ignore[arg-type]


def test_hostile_offers_are_refused() -> None:
    """Each wrong plan, size, number or value has its reason; the answerer keeps nothing and stays as it was."""
    pair = _pair()
    good = pair.offer(Stream.PARAMS)
    ranks, part = good.plans[0].ranks, good.parts[0]
    nan, inf = struct.pack("<H", 0x7FC0), struct.pack("<H", 0x7F80)
    wide = StreamPlan(stream=Stream.PARAMS, codec=Codec.AB, dtype=Dtype.BF16, ranks=(-1,) * len(ranks))
    cases: list[tuple[Offer, RefusalReason]] = [
        (_with_plan(good, ranks=ranks[:-1]), RefusalReason.MALFORMED),
        (_with_plan(good, ranks=(-2, *ranks[1:])), RefusalReason.MALFORMED),
        (_with_plan(good, ranks=(10**9, *ranks[1:])), RefusalReason.MALFORMED),
        (_with_plan(good, dtype=Dtype.FP32), RefusalReason.MALFORMED),
        (_with_plan(good, codec=Codec.RANK1), RefusalReason.MALFORMED),
        (_with_plan(good, codec=Codec.DENSE), RefusalReason.MALFORMED),
        (_with_plan(good, stream=Stream.EXP_AVG_SQ), RefusalReason.MALFORMED),
        (dataclasses.replace(good, plans=(wide,)), RefusalReason.OVERSIZED),
        (_with_plan(good, codec=Codec.DENSE, ranks=(-1,) * len(ranks)), RefusalReason.OVERSIZED),
        (dataclasses.replace(good, plans=()), RefusalReason.MALFORMED),
        (dataclasses.replace(good, plans=good.plans * 2, parts=good.parts * 2), RefusalReason.MALFORMED),
        (dataclasses.replace(good, parts=()), RefusalReason.MALFORMED),
        (dataclasses.replace(good, parts=good.parts * 2), RefusalReason.MALFORMED),
        (dataclasses.replace(good, parts=(part[:-1],)), RefusalReason.MALFORMED),
        (dataclasses.replace(good, parts=(part + b"\0",)), RefusalReason.MALFORMED),
        (dataclasses.replace(good, parts=(nan + part[2:],)), RefusalReason.NONFINITE),
        (dataclasses.replace(good, parts=(part[:-2] + inf,)), RefusalReason.NONFINITE),
        (dataclasses.replace(good, progress_steps=math.nan), RefusalReason.NONFINITE),
        (dataclasses.replace(good, progress_steps=-1.0), RefusalReason.MALFORMED),
        (dataclasses.replace(good, progress_steps=1e12), RefusalReason.MALFORMED),
    ]

    for offer, reason in cases:
        event = pair.desk_j.handle(EncodeAnswer(offer=offer))
        assert refusal(event) is reason, offer
        assert isinstance(event, EncodingRefused)
        assert event.is_offence is not ("last phase" in event.detail), event
    assert not pair.desk_j._answered
    pair.answer(good)


def test_hostile_answers_and_closes_are_refused() -> None:
    """Wrong counts, sizes and values end the meeting without a trace on either end."""
    nan = struct.pack("<f", math.nan)

    def answers(good: Answer) -> list[tuple[Answer, RefusalReason]]:
        part = good.parts[0]
        return [
            (dataclasses.replace(good, parts=()), RefusalReason.MALFORMED),
            (dataclasses.replace(good, parts=(part[2:],)), RefusalReason.MALFORMED),
            (dataclasses.replace(good, parts=(nan + part[4:],)), RefusalReason.NONFINITE),
            (dataclasses.replace(good, parts=(part[:-4] + nan,)), RefusalReason.NONFINITE),
            (dataclasses.replace(good, progress_steps=math.inf), RefusalReason.NONFINITE),
            (dataclasses.replace(good, clip_norms=(1.0, 1.0)), RefusalReason.MALFORMED),
            (dataclasses.replace(good, clip_norms=(0.0,)), RefusalReason.MALFORMED),
            (dataclasses.replace(good, clip_norms=(math.nan,)), RefusalReason.MALFORMED),
            (dataclasses.replace(good, meeting_id=MeetingId("0" * 32)), RefusalReason.UNKNOWN_MEETING),
        ]

    def closes(good: Close) -> list[tuple[Close, RefusalReason]]:
        part = good.parts[0]
        return [
            (dataclasses.replace(good, parts=()), RefusalReason.MALFORMED),
            (dataclasses.replace(good, parts=(part + part,)), RefusalReason.MALFORMED),
            (dataclasses.replace(good, parts=(nan * (len(part) // 4),)), RefusalReason.NONFINITE),
            (dataclasses.replace(good, meeting_id=MeetingId("0" * 32)), RefusalReason.UNKNOWN_MEETING),
            (dataclasses.replace(good, scales=(1.0, 1.0)), RefusalReason.MALFORMED),
            (dataclasses.replace(good, scales=(0.0,)), RefusalReason.MALFORMED),
            (dataclasses.replace(good, scales=(1.5,)), RefusalReason.MALFORMED),
            (dataclasses.replace(good, scales=(math.nan,)), RefusalReason.MALFORMED),
        ]

    pair = _pair(tiny_meeting(dtype="fp32"))
    before = [[t.clone() for t in replica.theta] for replica in (pair.i, pair.j)]
    for number in range(9):
        bad_answer, reason = answers(pair.answer(pair.offer(Stream.PARAMS)))[number]
        event = pair.desk_i.handle(EncodeClose(answer=bad_answer))
        assert refusal(event) is reason
        assert isinstance(event, EncodingRefused)
        assert event.is_offence is (reason is not RefusalReason.UNKNOWN_MEETING)
    for number in range(8):
        bad_close, reason = closes(pair.close(pair.answer(pair.offer(Stream.PARAMS))))[number]
        event = pair.desk_j.handle(ApplyClose(close=bad_close))
        assert refusal(event) is reason
        assert isinstance(event, EncodingRefused)
        assert event.is_offence is (reason is not RefusalReason.UNKNOWN_MEETING)

    for replica, old in zip((pair.i, pair.j), before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(replica.theta, old, strict=True))


def test_hostile_rank1_payloads_are_refused_and_extremes_clamped() -> None:
    """NaN logarithms are refused; absurd finite ones change v by a factor of four at most."""
    pair = _pair()
    good = pair.offer(Stream.EXP_AVG_SQ)
    count = len(good.parts[0]) // 4
    bad = dataclasses.replace(good, parts=(struct.pack("<f", math.nan) * count,))
    huge = dataclasses.replace(good, parts=(struct.pack("<f", 60.0) * count,))
    before = [v.clone() for v in pair.j.tensors(Stream.EXP_AVG_SQ)]

    assert refusal(pair.desk_j.handle(EncodeAnswer(offer=bad))) is RefusalReason.NONFINITE
    pair.answer(huge)
    pair.apply(Close(meeting_id=huge.meeting_id, parts=(b"",)))

    ratios = torch.cat(
        [(v / b)[b > 0].flatten() for v, b in zip(pair.j.tensors(Stream.EXP_AVG_SQ), before, strict=True)]
    )
    assert 1.0 < float(ratios.max()) <= 4.0 * (1 + 1e-5)
    assert float(ratios.min()) >= 0.25 * (1 - 1e-5)


def test_streams_the_manifest_does_not_exchange_are_refused() -> None:
    """Period 0 means never: not as initiator, not as answerer."""
    pair = _pair()
    quiet = tiny_manifest(tiny_meeting(exp_avg_every_steps=0, exp_avg_sq_every_steps=0))
    desk = MeetingDesk(pair.j, quiet, RUN)

    assert refusal(desk.handle(EncodeAnswer(offer=pair.offer(Stream.EXP_AVG)))) is RefusalReason.MALFORMED
    asked = EncodeOffer(meeting_id=MeetingId("1" * 32), streams=(Stream.EXP_AVG_SQ,))
    assert refusal(desk.handle(asked)) is RefusalReason.MALFORMED


@pytest.mark.parametrize("dtype", ["bf16", "fp32", "int8", "int4"])
@pytest.mark.parametrize("stream", [Stream.PARAMS, Stream.EXP_AVG_SQ])
def test_our_own_numeric_trouble_is_not_held_against_the_partner(dtype: str, stream: Stream) -> None:
    """Our weights are NaN: what an honest partner offers or answers is refused, and is no offence of his."""
    pair = _pair(tiny_meeting(dtype=dtype))
    if dtype.startswith("int"):
        pair.meet(stream)  # integers come once a difference was seen

    offer = pair.offer(stream)
    for tensor in pair.j.tensors(stream):
        tensor.fill_(math.nan)
    at_answerer = pair.desk_j.handle(EncodeAnswer(offer=offer))
    assert isinstance(at_answerer, EncodingRefused)
    assert (at_answerer.reason, at_answerer.is_offence) == (RefusalReason.NONFINITE, False)

    pair = _pair(tiny_meeting(dtype=dtype))
    answer = pair.answer(pair.offer(Stream.PARAMS))
    for tensor in pair.i.tensors(Stream.PARAMS):
        tensor.fill_(math.nan)
    at_initiator = pair.desk_i.handle(EncodeClose(answer=answer))
    assert isinstance(at_initiator, EncodingRefused)
    assert (at_initiator.reason, at_initiator.is_offence) == (RefusalReason.NONFINITE, False)


def test_a_bound_that_rounding_may_miss_is_no_offence() -> None:
    """A correction over what was asked for is refused, and a partner whose machine rounds otherwise is not blamed for it."""
    pair = _pair()
    close = pair.close(pair.answer(pair.offer(Stream.PARAMS)))
    answered = pair.desk_j._answered[close.meeting_id]
    pair.desk_j._answered[close.meeting_id] = dataclasses.replace(answered, clip_norms=(1e-9,))

    event = pair.desk_j.handle(ApplyClose(close=close))

    assert isinstance(event, EncodingRefused)
    assert (event.reason, event.is_offence) == (RefusalReason.MALFORMED, False)
