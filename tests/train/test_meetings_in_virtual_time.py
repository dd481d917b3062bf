"""Whole swarms of real replicas, desks, cores and frames in virtual time: what no fault may break.

``tensor_trainer`` watches each replica at each command (nothing but a correction moves it, theta - phi stays, moments stay
positive, guarded and finite, payloads stay within the budget); the tests here look at the swarm as a whole.
"""

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import pytest
import torch

from lowcomm_node.core.node import NodeRules
from lowcomm_node.settings.manifest import (
    Manifest,
    MeetingConfig,
    ModelConfig,
    OptimizerConfig,
    OuterConfig,
    TrainingConfig,
)
from lowcomm_node.settings.streams import periods
from lowcomm_node.sim.swarm import Node, VirtualSwarm, rules
from lowcomm_node.units import Codec, Dtype, MeetingId, PeerId, Stream
from tests.train.tensor_trainer import TensorTrainer

Swarm = VirtualSwarm[TensorTrainer]

_STEPS = 40
"""Own steps of each node, about."""
_STEP_S = 0.5
_RUN_S = _STEPS * _STEP_S
_FP32_ROUNDING = 1e-6
"""Of a sum over a few nodes and some dozens of meetings, relative to the largest value in it."""


@dataclass(frozen=True)
class Case:
    codec: str
    dtype: str
    exp_avg_sq_codec: str
    mixing: str
    faults: float
    optimizer: str = "adamw"
    omega: str = "seeded"

    def __str__(self) -> str:
        words = [
            self.codec,
            self.dtype,
            self.exp_avg_sq_codec,
            self.mixing,
            str(self.faults),
            self.optimizer,
            self.omega,
        ]
        return "-".join(words)


CASES = [
    Case("dense", "fp32", "rank1", "momentum", 0.0),
    Case("dense", "fp32", "dense", "direct", 0.1),
    Case("dense", "fp32", "rank1", "direct", 0.3),
    Case("dense", "bf16", "dense", "direct", 0.0),
    Case("dense", "bf16", "rank1", "momentum", 0.1),
    Case("dense", "bf16", "dense", "momentum", 0.3),
    Case("ab", "fp32", "rank1", "direct", 0.0),
    Case("ab", "fp32", "dense", "momentum", 0.1),
    Case("ab", "fp32", "rank1", "momentum", 0.3),
    Case("ab", "bf16", "dense", "momentum", 0.0),
    Case("ab", "bf16", "rank1", "direct", 0.1),
    Case("ab", "bf16", "dense", "direct", 0.3),
    Case("ab", "bf16", "rank1", "direct", 0.1, "muon"),
    Case("dense", "fp32", "dense", "momentum", 0.3, "dion"),
    Case("ab", "fp32", "rank1", "momentum", 0.0, "sgd"),
    Case("ab", "bf16", "ab", "direct", 0.1),
    Case("ab", "fp32", "ab", "momentum", 0.3, "muon", "cached"),
    Case("ab", "int8", "ab", "direct", 0.0, "mtdao", "displacement"),
    Case("ab", "int4", "rank1", "direct", 0.1, "dion"),
    Case("sparse", "int4", "dense", "momentum", 0.0, "adopt"),
    Case("sparse", "bf16", "rank1", "direct", 0.3, "sgd"),
    Case("dense", "int8", "ab", "momentum", 0.1, "dion"),
]
"""Each codec of the signed streams under each rate of faults; the rest in turn, so that most pairs of words occur."""


def manifest_of(case: Case) -> Manifest:
    """The smallest model there is, all streams exchanged often, and an outer step now and then."""
    return Manifest(
        model=ModelConfig(num_layers=1, num_heads=2, d_model=8, d_ff=8, context_length=8),
        training=TrainingConfig(batch_size=1, total_steps=200, warmup_steps=5),
        optimizer=OptimizerConfig(kind=case.optimizer, lr=5e-2),
        outer=OuterConfig(every_steps=7, mixing=case.mixing),
        meeting=MeetingConfig(
            codec=case.codec,
            dtype=case.dtype,
            budget_bytes=4096,
            params_every_steps=2,
            exp_avg_every_steps=3,
            exp_avg_sq_every_steps=4,
            momentum_every_steps=3,
            exp_avg_sq_codec=case.exp_avg_sq_codec,
            omega=case.omega,
            dense_last_ratio=0.05,
        ),
    )


def make_swarm(case: Case, *, count: int = 4, seed: int = 0) -> Swarm:
    """Nodes that reach the dense last phase (step 190 of 200) shortly before the end."""
    return swarm_of(manifest_of(case), faults=case.faults, count=count, seed=seed)


def swarm_of(manifest: Manifest, *, faults: float, count: int = 4, seed: int = 0) -> Swarm:
    """Nodes of a run of 200 steps that start near its end, from different places."""
    start = 200.0 - _STEPS
    trainers = [TensorTrainer(manifest, index, start + 4.0 * index) for index in range(count)]
    replica = trainers[0].replica
    return VirtualSwarm(
        trainers,
        seed=seed,
        faults=faults,
        make_rules=partial(_rules_that_heal_nobody, periods_of(manifest)),
        step_s=_STEP_S,
        max_payload_bytes=4 * 4 * sum(theta.numel() for theta in replica.theta),
        max_tensors=len(replica.theta),
    )


def _rules_that_heal_nobody(due_every: dict[Stream, int], own: PeerId, seed: bytes) -> NodeRules:
    """Some of these swarms clip everything on purpose."""
    return replace(rules(own, seed, periods=due_every, deadline_s=1.0), clip_ratio=0.0)


def periods_of(manifest: Manifest) -> dict[Stream, int]:
    """K of the streams that are exchanged."""
    return {period.stream: period.every_steps for period in periods(manifest) if period.every_steps}


def trainers_of(swarm: Swarm) -> list[TensorTrainer]:
    return [node.trainer for node in swarm.nodes.values()]


def applied_counts(swarm: Swarm) -> Counter[MeetingId]:
    return Counter(meeting for trainer in trainers_of(swarm) for meeting in trainer.moved)


def assert_conserved(swarm: Swarm, least_share: float = 0.3) -> None:
    """The sum over the swarm of every stream, of the outer accumulator and of progress is what own steps have made of it.

    Meetings that only one end has applied are taken out as what they did there. Entries at which a guard has ever
    acted on some node (|u| <= sqrt(v); a dense v no lower than a quarter of itself) are passed over; ``least_share`` of
    the entries must remain.
    """
    trainers, counts = trainers_of(swarm), applied_counts(swarm)
    for name in trainers[0].conserved:
        now = [trainer.quantities()[name] for trainer in trainers]
        own = [trainer.own[name] for trainer in trainers]
        rest = torch.stack(now).sum(0) - torch.stack(own).sum(0)
        for trainer in trainers:
            for meeting, moved in trainer.moved.items():
                if counts[meeting] == 1:
                    rest = rest - moved[name]
        is_held = torch.stack([trainer.held[name] for trainer in trainers]).all(0)
        is_used = torch.stack(now).any(0)
        scale = float(torch.stack(now + own).abs().max())
        assert float(rest[is_held].abs().max()) <= _FP32_ROUNDING * scale, name
        assert int((is_held & is_used).sum()) >= least_share * int(is_used.sum()), (
            f"{name}: hardly anything was looked at"
        )


def assert_nothing_pending(swarm: Swarm) -> None:
    assert all(node.core.is_settled() for node in swarm.nodes.values())
    assert not any(trainer.pending() for trainer in trainers_of(swarm))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_swarm_keeps_its_means_whatever_the_network_does(case: Case) -> None:
    """Any codec, drops, delays, repetitions, damaged chunks, dead links: applied by both ends or by neither, means kept."""
    swarm = make_swarm(case, seed=8)
    swarm.run(_RUN_S)
    swarm.settle()

    counts = applied_counts(swarm)
    plans = sum((trainer.num_plans for trainer in trainers_of(swarm)), Counter[tuple[Stream, Codec]]())
    reports = [report for node in swarm.nodes.values() for report in node.reports]
    assert set(counts.values()) == {2}
    assert_conserved(swarm)
    assert_nothing_pending(swarm)
    assert len(counts) >= (20 if case.faults == 0 else 5)
    assert {stream for stream, _ in plans} == set(periods_of(manifest_of(case)))
    assert plans[Stream.PARAMS, Codec.DENSE] > 0, "the last phase was not reached"
    assert case.codec == "dense" or plans[Stream.PARAMS, Codec(case.codec)] > 0
    assert case.faults < 0.3 or len(swarm.refused) > 0, "no damage was noticed"
    assert [report for report in reports if report.outcome == "half"] == []
    assert case.faults > 0 or {report.outcome for report in reports} == {"completed", "failed"}


def test_a_run_of_the_defaults_keeps_its_means() -> None:
    """Optimizer, codec, format, budget, periods and last phase as a new manifest has them; integers come into use."""
    smallest = manifest_of(CASES[0])
    swarm = swarm_of(Manifest(model=smallest.model, training=smallest.training), faults=0.1)
    swarm.run(_RUN_S)
    swarm.settle()

    trainers = trainers_of(swarm)
    plans = sum((trainer.num_plans for trainer in trainers), Counter[tuple[Stream, Codec]]())
    assert set(applied_counts(swarm).values()) == {2}
    assert_conserved(swarm)
    assert_nothing_pending(swarm)
    assert plans[Stream.PARAMS, Codec.SPARSE] > 10
    assert plans[Stream.PARAMS, Codec.DENSE] > 0, "the last phase was not reached"
    dtypes = [trainer.desk._planner.plan(Stream.PARAMS, is_dense=False).dtype for trainer in trainers]
    assert set(dtypes) == {Dtype.INT4}


@pytest.mark.parametrize("case", [CASES[4], CASES[9], CASES[18]], ids=str)
def test_clipped_meetings_keep_the_means_too(case: Case) -> None:
    """Nodes that find nearly every correction too large, each by a measure of its own: both ends take the same multiple."""
    swarm = make_swarm(case, seed=4)
    for index, trainer in enumerate(trainers_of(swarm)):
        for stream, codec in product(Stream, Codec):
            for _ in range(64):
                trainer.desk._clip_norms.observe(stream, codec, 0.01 * (1 + index))
    swarm.run(_RUN_S)
    swarm.settle()

    scales = [scale for node in swarm.nodes.values() for report in node.reports for _, scale in report.scales]
    assert sum(scale < 1 for scale in scales) > 0.8 * len(scales) > 10
    assert set(applied_counts(swarm).values()) == {2}
    assert_conserved(swarm)
    assert_nothing_pending(swarm)


def test_restarts_leave_only_halves_that_are_reported() -> None:
    """Daemons and trainers die in mid-meeting and come back with the state of that instant: only the answerer can be left alone.

    An end that is alone with its half says so, unless its daemon has died as well after it applied: then both have forgotten.
    Nothing else is lost: what one end alone has applied is all that the means are off by.
    """
    num_halves = num_silent = 0
    for seed, case in enumerate([*CASES[1::3], CASES[11]]):
        swarm = make_swarm(case, seed=seed)
        forgotten: set[MeetingId] = set()

        def restart(swarm: Swarm, forgotten: set[MeetingId], node: Node[TensorTrainer]) -> None:
            forgotten |= node.trainer.answered
            swarm.restart(node)

        for number in range(24):
            node = swarm[number % 4]
            at_s = 0.8 * number + 0.5
            swarm.at(
                at_s, partial(restart, swarm, forgotten, node) if number % 2 else partial(swarm.lose_trainer, node)
            )
        swarm.run(_RUN_S)
        swarm.settle()

        assert_conserved(swarm)
        assert_nothing_pending(swarm)
        halves = {meeting for meeting, count in applied_counts(swarm).items() if count == 1}
        reports = [report for node in swarm.nodes.values() for report in node.reports]
        silent = halves - {report.meeting_id for report in reports if report.outcome == "half"}
        assert halves <= {meeting for trainer in trainers_of(swarm) for meeting in trainer.answered}
        assert silent <= forgotten
        assert not [report for report in reports if report.meeting_id in silent]
        num_halves += len(halves)
        num_silent += len(silent)
    assert num_halves > num_silent, "the test never hit what it is about"


@pytest.mark.parametrize("has_applied", [True, False])
def test_a_verdict_outlives_the_daemon_that_gave_it(has_applied: bool) -> None:
    """The state that comes back says whether the correction is in it, and that is what the next life answers (decision 0008)."""
    swarm = make_swarm(Case("ab", "bf16", "rank1", "direct", 0.0), count=2)
    nodes = list(swarm.nodes.values())
    swarm.run_until(
        lambda: any(node.trainer.answered if has_applied else node.trainer.closed for node in nodes), _RUN_S
    )
    (initiator,) = (node for node in nodes if node.trainer.closed)
    (answerer,) = (node for node in nodes if node is not initiator)
    (meeting,) = initiator.trainer.closed

    swarm.restart(answerer)
    swarm.run(swarm.now + 1.0)
    swarm.settle()

    told = [(report.outcome, report.reason) for report in initiator.reports if report.meeting_id == meeting]
    assert applied_counts(swarm)[meeting] == (2 if has_applied else 0)
    assert told == [("completed", "") if has_applied else ("failed", "unknown_meeting")]
    assert_conserved(swarm, least_share=0.0)


def test_two_runs_of_one_seed_are_equal_to_the_bit() -> None:
    """Threads, dictionaries and time have no part in it: the same seed gives the same weights."""
    case = Case("ab", "bf16", "rank1", "momentum", 0.2)
    ends: list[dict[PeerId, torch.Tensor]] = []
    for _ in range(2):
        swarm = make_swarm(case, count=3, seed=5)
        swarm.run(8.0)
        swarm.settle()
        ends.append({name: node.trainer.quantities()["params"] for name, node in swarm.nodes.items()})

    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
