"""Whole simulations of vectors: reproducible, as theory has it, and honest about trouble."""

import json
import math
from typing import Any

import pytest

from lowcomm_node.settings.manifest import Manifest, MeetingConfig
from lowcomm_node.sim.perform import simulate
from lowcomm_node.sim.report import Report, report_json
from lowcomm_node.sim.scenario import Attack, Change, Partition, Scenario, Speeds


def run(*, every_steps: int = 10, clip_ratio: float = 4.0, **changes: Any) -> Report:
    """A small swarm on good lines, unless said otherwise."""
    manifest = Manifest(meeting=MeetingConfig(params_every_steps=every_steps, clip_ratio=clip_ratio))
    scenario = {"nodes": 30, "minutes": 3.0, "network": "datacentre", "speeds": Speeds.EQUAL, "dimension": 16}
    return simulate(Scenario(manifest=manifest, **{**scenario, **changes}))


def test_a_seed_gives_the_same_report_to_the_bit() -> None:
    """Whatever happens in it: churn, hostile peers, a partition, wrong clocks, lines that break."""
    trouble: dict[str, Any] = {
        "network": "home",
        "speeds": Speeds.LOGNORMAL,
        "churn_per_minute": 0.5,
        "hostile_ratio": 0.2,
        "attack": Attack.GARBAGE,
        "partitions": (Partition(0.3, 60.0, 90.0),),
        "trace": (Change(20.0, "join", 3), Change(40.0, "kill", 2)),
        "skew_s": 2.0,
        "minutes": 2.0,
    }
    first, again, other = (json.dumps(report_json(run(**trouble, seed=seed)), allow_nan=False) for seed in (1, 1, 2))

    assert first == again
    assert first != other


def test_the_spread_is_what_theory_says() -> None:
    """Noise feeds it, meetings take it away: noise^2 / (completed meetings per node and own step)."""
    report = run(nodes=40, minutes=5.0)

    assert report.meetings.completed > 600
    assert report.meetings.completed_ratio > 0.8
    assert report.spread == pytest.approx(report.expected_spread, rel=0.1)
    assert report.meetings.half == {}


def test_a_quiet_swarm_loses_no_meeting_and_pays_what_messages_weigh() -> None:
    """Without trouble meetings fail for nothing but nodes that are taken, and bytes are those of the manifest's model."""
    report = run()
    (payload,) = report.traffic.payload_per_completed.items()

    assert set(report.meetings.failed) <= {"busy", "yielded", "no_partner"}
    assert payload[0] == "params/sparse"
    assert 0.5 < payload[1] / (2 * Manifest().budget_bytes) < 1.5
    assert report.attack is None
    assert report.refused_frames == {}


def test_newcomers_get_a_state_meet_and_are_informed() -> None:
    """Churn of half the swarm a minute: nearly all who come take part, and those who go leave no half meeting unseen."""
    report = run(churn_per_minute=0.5)
    joins = report.joins

    assert joins.joined > 20
    assert joins.left > 5
    assert joins.killed > 5
    assert joins.ready >= joins.met > 0.5 * joins.joined
    assert joins.ready_s <= joins.met_s
    assert joins.informed_s <= 2 * joins.met_s
    assert 20 <= report.timeline[-1].nodes <= 40
    assert report.spread < 2 * run().spread


def test_a_partition_parts_and_heals() -> None:
    """Two halves drift apart by their noise alone, meet nobody of the other side, and are one swarm again afterwards."""
    report = run(nodes=20, minutes=6.0, partitions=(Partition(0.5, 60.0, 240.0),))
    whole = run(nodes=20, minutes=6.0)
    parted = max(point.spread for point in report.timeline if 180 < point.at_s <= 240)

    assert parted > 1.15 * whole.spread
    assert report.timeline[-1].spread < 1.3 * whole.spread
    assert report.timeline[-1].completed_per_node_minute > 0.7 * whole.meetings.per_node_minute


def test_nan_is_refused_and_nobody_honest_is() -> None:
    """Not one number of such a peer is applied."""
    report = run(hostile_ratio=0.2, attack=Attack.NAN)

    assert report.attack is not None
    assert report.attack.consensus_error == 0.0
    assert report.attack.refused_of_hostile > 0.9
    assert report.attack.refused_of_honest == 0.0
    assert math.isfinite(report.spread)


def test_clipping_holds_a_sign_flip_back() -> None:
    """Without it two hostile nodes in ten pull the others to zero; with it their share in the mean is bounded by the clip."""
    errors = {}
    for clip_ratio in (0.0, 4.0):
        report = run(
            hostile_ratio=0.2, attack=Attack.SIGN_FLIP, clip_ratio=clip_ratio, minutes=5.0, attack_from_s=150.0
        )
        assert report.attack is not None
        errors[clip_ratio] = report.attack.consensus_error
        assert report.attack.refused_of_honest == 0.0

    assert errors[4.0] < 0.5 * errors[0.0]


def test_a_line_that_is_slow_but_alive_is_waited_for() -> None:
    """An offer that travels for longer than any deadline shows signs of life on its way."""
    seconds = 30
    report = run(nodes=4, minutes=12.0, every_steps=120, bytes_per_s=Manifest().budget_bytes / seconds)

    assert report.meetings.duration_s > 2 * seconds
    assert report.meetings.completed > 5
    assert "timeout" not in report.meetings.failed


def test_wrong_clocks_alone_break_nothing() -> None:
    """A few seconds of skew are a small part of a record's life."""
    report = run(skew_s=5.0, minutes=2.0)

    assert report.meetings.completed_ratio > 0.8


def test_nodes_behind_routers_meet_as_often_as_they_can() -> None:
    """Home lines: three in ten are open, two in ten reach nobody but those. All meet, and no meeting is wasted on a closed door."""
    report = run(nodes=40, minutes=3.0, network="home", every_steps=20)

    assert report.meetings.completed_ratio > 0.8
    assert report.meetings.failed.get("unreachable", 0) < 0.02 * report.meetings.completed
    assert report.meetings.half == {}


def test_attackers_states_are_refused_and_honest_ones_taken() -> None:
    """As in the daemon, by fingerprints: of twenty who come just after two in ten have begun to flip signs four would be poisoned by chance."""
    joins = (Change(185.0, "join", 20),)
    taken, refused = 0, 0
    for seed in range(3):
        report = run(
            hostile_ratio=0.2,
            attack=Attack.SIGN_FLIP,
            attack_from_s=180.0,
            minutes=3.5,
            every_steps=5,
            trace=joins,
            seed=seed,
        )
        assert report.attack is not None
        assert report.joins.ready == report.joins.joined == 20
        taken += report.attack.states_taken_of_hostile
        refused += report.attack.states_refused_of_hostile
        assert report.attack.states_taken_of_honest > 12

    assert refused > 5
    assert taken <= 2  # a majority of the references were hostile: one round in twenty


def test_nodes_that_nobody_can_dial_give_their_state_too() -> None:
    """Home lines, where seven in ten are closed: nobody waits for one of the others."""
    report = run(nodes=40, network="home", churn_per_minute=0.5)

    assert report.joins.joined > 20
    assert report.joins.ready > 0.8 * report.joins.joined
