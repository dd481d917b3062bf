"""Meetings in role: exact means within the span, nothing else moved; who cannot understand one says so, and is not to blame."""

import dataclasses
from pathlib import Path

import pytest
import torch

from lowcomm_node.core.ab_stages import Stage
from lowcomm_node.core.commands import ApplyClose, EncodeAnswer, EncodeClose
from lowcomm_node.core.events import EncodingRefused
from lowcomm_node.core.messages import Offer
from lowcomm_node.errors import RefusalReason
from lowcomm_node.settings.manifest import OuterConfig
from lowcomm_node.train.desk import MeetingDesk
from lowcomm_node.train.payloads import is_finite_offer
from lowcomm_node.units import Codec, Dtype, Factor, Omega, Stream
from tests.train.frozen import (
    DIGEST,
    OTHER_DIGEST,
    ab_manifest,
    copies,
    held,
    minus,
    parts,
    size,
    take,
    write_split,
)
from tests.train.pairs import RUN, Pair, distance, means, refusal, tiny_manifest, tiny_meeting

_FP32_ROUNDING = 1e-5
_LEFT = {"fp32": (1e-5, 1e-5), "bf16": (0.12, 0.12), "int8": (0.11, 0.31), "int4": (0.5, 0.69)}
"""Share of a difference that a meeting leaves within the span, and of tensors that are not split, by what numbers are sent in. Of
integers it is what ordinary dense meetings of this run leave of the same tensors: expectations are twice the truth there."""


def _pair(tmp_path: Path, factor: Factor = Factor.A, dtype: str = "fp32", codec: str = "sparse") -> Pair:
    """Two nodes in the first epoch with weights of their own, both by the split of the first one."""
    pair = Pair(ab_manifest(tiny_meeting(codec=codec, dtype=dtype)), steps=22)
    take([pair.i, pair.j], write_split(pair.i, tmp_path), factor)
    pair.step(6)
    return pair


@pytest.mark.parametrize("factor", Factor)
@pytest.mark.parametrize("dtype", Dtype)
def test_a_meeting_is_the_mean_within_the_span_and_nothing_outside(
    factor: Factor, dtype: Dtype, tmp_path: Path
) -> None:
    """Tensors that are not split are averaged too, whatever the codec of ordinary meetings; the pair's mean stays."""
    pair = _pair(tmp_path, factor, dtype)
    frozen = held(pair.i)
    if dtype in (Dtype.INT8, Dtype.INT4):
        assert pair.offer(Stream.PARAMS).plans[0].dtype is Dtype.BF16
        for _ in range(6):  # which tell how large differences are, the first one of much longer ways than the others
            pair.meet(Stream.PARAMS)
            pair.step(4)
    before = [copies(replica.theta) for replica in (pair.i, pair.j)]
    mean, gap = means(pair.i, pair.j, Stream.PARAMS), minus(*before)
    whole = [position for position in range(len(gap)) if position not in frozen.tensors]

    offer = pair.offer(Stream.PARAMS)
    pair.apply(pair.close(pair.answer(offer)))
    pair.settle(offer.meeting_id)

    (plan,) = offer.plans
    assert (plan.codec, plan.dtype, plan.frozen, plan.factor) == (Codec.DENSE, dtype, DIGEST, factor)
    after = minus(pair.i.theta, pair.j.theta)
    assert distance(means(pair.i, pair.j, Stream.PARAMS), mean) < _FP32_ROUNDING * size(gap)
    gap_inside, gap_outside = parts(gap, frozen)
    inside, outside = parts(after, frozen)
    left, left_whole = _LEFT[dtype]
    assert size(inside) < left * size(gap_inside)
    assert size([after[p] for p in whole]) < left_whole * size([gap[p] for p in whole])
    assert size(gap_outside) > 0.1 * size(gap_inside)
    assert size(minus(outside, gap_outside)) < 1e-4 * size(gap_outside)
    for replica, weights in zip((pair.i, pair.j), before, strict=True):
        _, moved_outside = parts(minus(replica.theta, weights), frozen)
        assert size(moved_outside) < _FP32_ROUNDING * size(weights)
    assert pair.desk_i.exchanged == pair.desk_j.exchanged == {}  # one span says nothing about how far apart nodes are


def test_slow_weights_shift_with_fast_ones(tmp_path: Path) -> None:
    """theta - phi is a node's own displacement, in role too."""
    pair = _pair(tmp_path)
    before = minus(pair.i.theta, pair.i.phi)

    pair.meet(Stream.PARAMS)

    assert distance(minus(pair.i.theta, pair.i.phi), before) < _FP32_ROUNDING * size(pair.i.theta)


def test_ordinary_offers_are_answered_in_every_stage(tmp_path: Path) -> None:
    """By a node in role, from one that trains whole; and whole tensors in the dense last phase, in role or not."""
    pair = _pair(tmp_path)
    in_role = pair.offer(Stream.PARAMS).plans[0]
    last = pair.offer(Stream.PARAMS, is_dense=True).plans[0]
    pair.i.progress_steps = 105.0

    offer = pair.offer(Stream.PARAMS)
    pair.answer(offer)

    assert [plan.frozen for plan in (in_role, last, offer.plans[0])] == [DIGEST, "", ""]
    assert (last.codec, offer.plans[0].codec) == (Codec.DENSE, Codec.SPARSE)


def test_other_streams_meet_as_always_beside_coordinates(tmp_path: Path) -> None:
    """Moments are in the coordinates of the weights whatever is trained: one meeting about both."""
    pair = _pair(tmp_path)
    gap = distance(pair.i.theta, pair.j.theta)

    offer = pair.offer(Stream.PARAMS, Stream.EXP_AVG_SQ)
    pair.apply(pair.close(pair.answer(offer)))
    pair.settle(offer.meeting_id)

    assert [(plan.stream, plan.frozen) for plan in offer.plans] == [(Stream.PARAMS, DIGEST), (Stream.EXP_AVG_SQ, "")]
    assert distance(pair.i.theta, pair.j.theta) < gap


def _refused(pair: Pair, offer: Offer) -> EncodingRefused:
    event = pair.desk_j.handle(EncodeAnswer(offer=offer))
    assert isinstance(event, EncodingRefused)
    return event


def test_another_role_and_unknown_frozen_factors_are_not_ready(tmp_path: Path) -> None:
    """A digest that is not held, a factor that is not trained, none at all: no offence, and nothing moves."""
    pair = _pair(tmp_path)
    offer = pair.offer(Stream.PARAMS)
    before = copies(pair.j.theta)
    (plan,) = offer.plans
    stranger = dataclasses.replace(offer, plans=(dataclasses.replace(plan, frozen=OTHER_DIGEST),))

    found = [_refused(pair, stranger)]
    take([pair.j], tmp_path / "frozen-1.safetensors", Factor.B)
    found.append(_refused(pair, offer))
    newcomer = Pair(ab_manifest(tiny_meeting(codec="sparse", dtype="fp32")), steps=1)
    found.append(_refused(newcomer, offer))

    assert {event.reason for event in found} == {RefusalReason.NOT_READY}
    assert not any(event.is_offence for event in found)
    assert all(map(torch.equal, copies(pair.j.theta), before))


@pytest.mark.parametrize(
    "change",
    [
        {"stream": Stream.EXP_AVG},
        {"codec": Codec.SPARSE},
        {"codec": Codec.RANK1},
        {"omega": Omega.CACHED},
        {"dtype": Dtype.BF16},
        {"ranks": (-1,)},
        {"ranks": None},
    ],
)
def test_what_no_honest_node_plans_is_malformed(change: dict[str, object], tmp_path: Path) -> None:
    """Coordinates are of the parameters, dense, in the run's number format, and leave nothing out."""
    pair = _pair(tmp_path)
    offer = pair.offer(Stream.PARAMS)
    (plan,) = offer.plans
    if "ranks" in change and change["ranks"] is None:
        change = {"ranks": (0, *plan.ranks[1:])}

    event = _refused(pair, dataclasses.replace(offer, plans=(dataclasses.replace(plan, **change),)))  # type: ignore[arg-type]

    assert event.reason is RefusalReason.MALFORMED
    assert event.is_offence


def test_a_run_that_splits_nothing_takes_no_coordinates() -> None:
    """There a digest in a plan is a mistake."""
    pair = Pair(tiny_manifest(tiny_meeting(codec="dense", dtype="fp32"), OuterConfig(every_steps=0)))
    offer = pair.offer(Stream.PARAMS)
    plan = dataclasses.replace(offer.plans[0], frozen=DIGEST, factor=Factor.A)

    assert _refused(pair, dataclasses.replace(offer, plans=(plan,))).reason is RefusalReason.MALFORMED


def test_payloads_of_the_wrong_size_or_not_finite_are_refused(tmp_path: Path) -> None:
    """As in ordinary meetings; and a node sends no coordinates that are not finite."""
    pair = _pair(tmp_path)
    offer = pair.offer(Stream.PARAMS)
    (part,) = offer.parts

    short = _refused(pair, dataclasses.replace(offer, parts=(part[:-4],)))
    bad = _refused(pair, dataclasses.replace(offer, parts=(b"\xff" * len(part),)))

    assert (short.reason, bad.reason) == (RefusalReason.MALFORMED, RefusalReason.NONFINITE)
    assert is_finite_offer(pair.i, offer.plans[0], part)
    pair.i.theta[next(iter(held(pair.i).tensors))].fill_(torch.nan)
    spoilt = pair.offer(Stream.PARAMS)
    assert not is_finite_offer(pair.i, spoilt.plans[0], spoilt.parts[0])


@pytest.mark.parametrize("when", ["offer", "answer", "close"])
def test_a_stage_that_ends_within_a_meeting_does_not_end_it(when: str, tmp_path: Path) -> None:
    """The rebound comes, or the next epoch with frozen factors of its own: the correction goes through those it was made with."""
    pair = _pair(tmp_path)
    frozen, before = held(pair.i), [copies(replica.theta) for replica in (pair.i, pair.j)]

    def on() -> None:
        for replica in (pair.i, pair.j):
            replica.progress_steps = 112.0
        path = write_split(pair.i, tmp_path, epoch=2)
        take([pair.i, pair.j], path, Factor.B, epoch=2, digest=OTHER_DIGEST)

    offer = pair.offer(Stream.PARAMS)
    if when == "offer":
        on()
    answer = pair.answer(offer)
    if when == "answer":
        on()
    close = pair.close(answer)
    if when == "close":
        on()
    pair.apply(close)
    pair.settle(offer.meeting_id)

    inside, _ = parts(minus(pair.i.theta, pair.j.theta), frozen)
    assert size(inside) < _FP32_ROUNDING * size(before[0])
    _, outside = parts(minus(pair.i.theta, before[0]), frozen)
    assert size(outside) < _FP32_ROUNDING * size(before[0])
    assert pair.offer(Stream.PARAMS).plans[0].frozen == OTHER_DIGEST


def test_frozen_factors_that_are_gone_end_a_meeting_on_both_sides_or_neither(tmp_path: Path) -> None:
    """The answerer has taken two others before the close: it refuses, and nobody has moved. The initiator, once it has closed, follows."""
    pair = _pair(tmp_path)
    path = tmp_path / "frozen-1.safetensors"
    refused, applied = pair.offer(Stream.PARAMS), pair.offer(Stream.PARAMS)
    close = pair.close(pair.answer(applied))
    pair.apply(close)
    late = pair.close(pair.answer(refused))
    before = copies(pair.j.theta)
    for digest in (OTHER_DIGEST, "aa" * 32):
        take([pair.i, pair.j], path, Factor.A, digest=digest)

    event = pair.desk_j.handle(ApplyClose(close=late))
    pair.settle(applied.meeting_id)

    assert refusal(event) is RefusalReason.NOT_READY
    assert all(map(torch.equal, copies(pair.j.theta), before))
    unheard = pair.offer(Stream.PARAMS)
    answer = pair.answer(unheard)
    take([pair.i], path, Factor.B, digest="aa" * 32)
    assert refusal(pair.desk_i.handle(EncodeClose(answer=answer))) is RefusalReason.NOT_READY


def test_what_is_learnt_of_coordinates_stays_apart(tmp_path: Path) -> None:
    """Ranges and clip norms of whole tensors are what they were; frozen factors of another digest begin anew."""
    pair = _pair(tmp_path, dtype="int8", codec="dense")
    before = pair.desk_i.learnt()
    for _ in range(18):
        pair.step(1)
        pair.meet(Stream.PARAMS)

    after = pair.desk_i.learnt()

    assert after["energy"] == before["energy"]
    assert list(after["clip_norms"]) == ["params dense a"]
    assert len(after["clip_norms"]["params dense a"]) == 18
    norms = pair.desk_i._clip_norms
    own = norms.limit(Stream.PARAMS, Codec.DENSE, Factor.A)
    assert norms.limit(Stream.PARAMS, Codec.DENSE) == norms.limit(Stream.PARAMS, Codec.DENSE, Factor.B) == 16 * own
    fresh = MeetingDesk(pair.i, ab_manifest(tiny_meeting(codec="dense", dtype="int8")), RUN)
    fresh.recall(after)
    assert fresh.learnt()["clip_norms"] == after["clip_norms"]
    assert pair.offer(Stream.PARAMS).plans[0].dtype is Dtype.INT8
    take([pair.i, pair.j], write_split(pair.j, tmp_path), Factor.A, digest=OTHER_DIGEST)
    assert pair.offer(Stream.PARAMS).plans[0].dtype is Dtype.BF16


def test_two_nodes_of_a_role_and_one_of_the_other_come_together_in_the_rebound(tmp_path: Path) -> None:
    """In role only those of one factor agree; dense meetings of the last phase bring all to one point."""
    manifest = ab_manifest(tiny_meeting(codec="dense", dtype="fp32"))
    same, other = Pair(manifest, steps=22), Pair(manifest, steps=22)
    path = write_split(same.i, tmp_path)
    take([same.i, same.j], path, Factor.A)
    take([other.i], path, Factor.B)
    mixed = Pair.__new__(Pair)
    mixed.__dict__.update(same.__dict__, j=other.i, desk_j=other.desk_i, num_meetings=1000)
    for _ in range(20):
        same.step(2)
        other.step(2)
        same.meet(Stream.PARAMS)

    apart = distance(same.i.theta, other.i.theta)
    assert distance(same.i.theta, same.j.theta) < 0.8 * apart
    for replica in (same.i, same.j, other.i):
        replica.progress_steps = 195.0
    for _ in range(8):
        mixed.meet(Stream.PARAMS, is_dense=True)
        same.meet(Stream.PARAMS, is_dense=True)

    assert distance(same.i.theta, other.i.theta) < 0.01 * apart


@pytest.mark.parametrize("dtype", ["bf16", "int4"])
def test_a_rebound_is_not_measured_by_what_was_before(dtype: str, tmp_path: Path) -> None:
    """Two nodes that have trained a factor each are far apart as never before; they still meet unclipped, and nothing is void."""
    pair = Pair(ab_manifest(tiny_meeting(codec="dense", dtype=dtype)), steps=1)
    for _ in range(18):
        pair.meet(Stream.PARAMS, Stream.EXP_AVG_SQ)
        pair.step(1)
    usual = distance(pair.i.theta, pair.j.theta)
    path = write_split(pair.i, tmp_path)
    pair.i.progress_steps = pair.j.progress_steps = 20.0
    take([pair.i], path, Factor.A)
    take([pair.j], path, Factor.B)
    pair.step(80)
    apart = distance(pair.i.theta, pair.j.theta)
    assert apart > 5 * usual

    first = pair.offer(Stream.PARAMS)
    scales = [dict(pair.meet(Stream.PARAMS).scales)[Stream.PARAMS] for _ in range(3)]

    assert pair.i.ab is not None
    assert pair.i.ab.point(pair.i.progress_steps).stage is Stage.REBOUND
    assert first.plans[0].dtype is Dtype.BF16
    assert scales == [1.0, 1.0, 1.0]
    assert distance(pair.i.theta, pair.j.theta) < 0.1 * apart
    assert list(pair.desk_j.learnt()["clip_norms"]) == ["exp_avg_sq rank1", "params dense before", "params dense"]


def test_an_offer_in_role_leaves_nothing_out_and_is_smaller_than_all(tmp_path: Path) -> None:
    """By what the report calls compression, to the byte."""
    pair = _pair(tmp_path)
    assert pair.i.ab is not None
    in_role, whole = pair.offer(Stream.PARAMS), pair.offer(Stream.PARAMS, is_dense=True)

    compression = pair.i.ab.report(pair.i.progress_steps).compression

    assert in_role.plans[0].ranks == (-1,) * len(pair.i.names)
    assert len(whole.parts[0]) / len(in_role.parts[0]) == pytest.approx(compression)
    assert compression > 1.1
