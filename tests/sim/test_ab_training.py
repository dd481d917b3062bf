"""AB-training in simulated swarms: frozen factors are announced, fetched over the lines, and taken, by newcomers too."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.manifest import AbTrainingConfig, OuterConfig, TrainingConfig
from lowcomm_node.sim.perform import simulate
from lowcomm_node.sim.replicas import ReplicaPopulation, ReplicaTrainer
from lowcomm_node.sim.report import report_json
from lowcomm_node.sim.scenario import Change, Level, Scenario
from lowcomm_node.sim.world import World
from tests.sim.test_replicas import scenario_of


def _scenario(folder: Path) -> Scenario:
    base = scenario_of(folder)
    manifest = replace(
        base.manifest,
        training=TrainingConfig(batch_size=2, total_steps=60, warmup_steps=5),
        outer=OuterConfig(method="ab"),
        ab_training=AbTrainingConfig(warm_up_ratio=0.1, epochs=2, rebound_ratio=0.1),
    )
    return replace(
        base, manifest=manifest, minutes=1.0, network="home", trace=(Change(10.0, "kill", 1), Change(14.0, "join", 1))
    )


def test_a_swarm_agrees_and_newcomers_with_it(tmp_path: Path) -> None:
    """One is killed, one comes late: all who are there at the end train by the same frozen factors, and paid for them."""
    population = ReplicaPopulation(_scenario(tmp_path))
    world: World[ReplicaTrainer] = World(
        population.scenario,
        population,
        max_payload_bytes=population.max_payload_bytes,
        max_tensors=population.num_tensors,
    )

    report = world.run_scenario(lambda _point: None)

    notes = [node.core.frozen.note for node in world.nodes.values()]
    assert len(notes) == 4
    assert None not in notes
    assert len({(note.epoch, note.digest) for note in notes if note is not None}) == 1
    assert report.traffic.by_message["frozen factors"] > 0
    assert report.meetings.completed > 0
    assert report.meetings.half == {}


def test_a_seed_gives_the_same_report(tmp_path: Path) -> None:
    """To the bit, splits and downloads among it."""
    first, again = (
        json.dumps(report_json(simulate(_scenario(tmp_path))), allow_nan=False, sort_keys=True) for _ in range(2)
    )

    assert first == again


def test_vectors_have_no_factors(tmp_path: Path) -> None:
    """A manifest that trains so is refused at the level where nothing would come of it."""
    with pytest.raises(ConfigError, match="--level training"):
        simulate(replace(_scenario(tmp_path), level=Level.CONSENSUS))
