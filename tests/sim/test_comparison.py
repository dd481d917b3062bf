"""A simulation beside a recorded swarm: here both are simulated, and have to come out alike."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lowcomm_node.core.commands import Command
from lowcomm_node.core.events import AnswerEncoded, CloseEncoded, CorrectionApplied, Event, OfferEncoded
from lowcomm_node.errors import StoreError
from lowcomm_node.settings.manifest import Manifest, MeetingConfig, ModelConfig, TrainingConfig
from lowcomm_node.settings.presets import OPTIMIZERS
from lowcomm_node.sim.comparison import compare, comparison_json, scenario_like
from lowcomm_node.sim.node import Node
from lowcomm_node.sim.observed import Stage
from lowcomm_node.sim.recorded import RecordedSwarm, read_recorded
from lowcomm_node.sim.replicas import ReplicaPopulation, ReplicaTrainer
from lowcomm_node.sim.report import Report
from lowcomm_node.sim.scenario import Level, Scenario, Speeds
from lowcomm_node.sim.world import World
from lowcomm_node.telemetry.flight.dump import dump_text
from lowcomm_node.telemetry.flight.recorder import Entry, Recording, without_payload
from lowcomm_node.telemetry.flight.state import State, state_of
from lowcomm_node.telemetry.flight.values import Tree
from lowcomm_node.units import PeerId

_SERVE_S = 0.03
_STEP_S = 0.1


class Recorded(World[ReplicaTrainer]):
    """Writes down what its cores are told and say, as flight recorders do."""

    def __init__(self, scenario: Scenario, population: ReplicaPopulation) -> None:
        self.states: dict[PeerId, State] = {}
        self.entries: defaultdict[PeerId, list[Entry]] = defaultdict(list)
        super().__init__(
            scenario, population, max_payload_bytes=population.max_payload_bytes, max_tensors=population.num_tensors
        )

    def handled(self, node: Node[ReplicaTrainer], event: Event, commands: Sequence[Command]) -> None:
        entries = self.entries[node.name]
        self.states.setdefault(node.name, state_of(node.core))
        kept = tuple(without_payload(command) for command in commands)
        entries.append(Entry(number=len(entries) + 1, now=self.now, event=without_payload(event), commands=kept))


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    torch.set_num_threads(1)  # as ``simulate`` does: tiny models are slow with more
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("what one node learns, the others hear of sooner or later. " * 50)
    return Scenario(
        level=Level.TRAINING,
        nodes=3,
        minutes=0.4,
        network="loopback",
        speeds=Speeds.EQUAL,
        latency_s=0.01,
        step_s=_STEP_S,
        serve_s=_SERVE_S,
        manifest=Manifest(
            model=ModelConfig(num_layers=1, num_heads=2, d_model=8, d_ff=8, context_length=8),
            training=TrainingConfig(batch_size=2, total_steps=1000, warmup_steps=5),
            optimizer=OPTIMIZERS["adamw"],
            meeting=MeetingConfig(params_every_steps=6),
        ),
        data=(str(text),),
    )


@pytest.fixture(scope="module")
def recordings(scenario: Scenario, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    folder = tmp_path_factory.mktemp("recordings")
    return folder, record(scenario, folder)


def record(scenario: Scenario, folder: Path) -> Report:
    """Simulate, and leave what ``swarm --recordings`` would."""
    world = Recorded(scenario, ReplicaPopulation(scenario))
    report = world.run_scenario(lambda _point: None)
    served = (OfferEncoded, AnswerEncoded, CloseEncoded, CorrectionApplied)
    for index, (name, entries) in enumerate(world.entries.items()):
        num_served = sum(isinstance(entry.event, served) for entry in entries)
        recording = Recording(states=((1, world.states[name]),), draws={}, entries=tuple(entries))
        header: dict[str, Tree] = {"status": {"training": {"exchange_seconds": _SERVE_S * num_served}}}
        (folder / f"n{index}.json").write_text(dump_text(header, recording, names={}))
    return report


def like(recorded: RecordedSwarm, manifest: Manifest, data: tuple[str, ...]) -> Scenario:
    return scenario_like(recorded, manifest, Scenario(minutes=0.0, seed=1, data=data))


def test_a_recorded_swarm_is_found_again(scenario: Scenario, recordings: tuple[Path, Report]) -> None:
    """From its recordings alone: the machine, each meeting's bytes, and how long it took; and another seed is like it."""
    folder, report = recordings
    recorded = read_recorded(folder)
    _, comparison = compare(recorded, like(recorded, scenario.manifest, scenario.data))
    total = comparison.total

    assert recorded.nodes == 3
    assert recorded.machine.step_s == pytest.approx(_STEP_S, rel=0.1)
    assert recorded.machine.serve_s == pytest.approx(_SERVE_S)
    assert recorded.machine.latency_s == pytest.approx(0.01, rel=0.01)
    assert total.real.meetings > 20
    assert abs(total.real.meetings - report.meetings.completed) <= 1
    assert total.real.mean_s == pytest.approx(report.meetings.duration_s, rel=0.05)
    assert comparison.has_equal_bytes
    assert {kind.kind for kind in comparison.kinds if kind.is_on_both_sides} >= {"params/sparse/int4"}
    assert total.simulated.mean_s == pytest.approx(total.real.mean_s, rel=0.2)
    assert comparison_json(comparison)["has_equal_bytes"] is True


def test_bytes_that_differ_are_noticed(scenario: Scenario, recordings: tuple[Path, Report]) -> None:
    """A manifest with another budget gives other meetings of the same kind."""
    recorded = read_recorded(recordings[0])
    budget = MeetingConfig(params_every_steps=6, budget_bytes=2 * scenario.manifest.budget_bytes)
    manifest = replace(scenario.manifest, meeting=budget)
    _, comparison = compare(recorded, like(recorded, manifest, scenario.data))

    assert not comparison.has_equal_bytes


def test_stages_follow_each_other(recordings: tuple[Path, Report]) -> None:
    """Messages take the latency, a trainer at least its own work and at most a step more; nothing is negative."""
    for meeting in read_recorded(recordings[0]).meetings:
        assert min(meeting.stages) >= 0
        assert meeting.seconds_of(Stage.VERDICT_TRAVELS) == pytest.approx(0.01, rel=0.01)
        assert _SERVE_S <= meeting.seconds_of(Stage.CLOSE_ENCODED) <= _SERVE_S + 1.1 * _STEP_S


def test_recordings_that_tell_nothing_are_refused(tmp_path: Path) -> None:
    """With the command that makes some."""
    with pytest.raises(StoreError, match="swarm --nodes 8 --recordings"):
        read_recorded(tmp_path)
