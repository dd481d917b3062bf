"""A simulation beside a recorded swarm: here both are simulated, and have to come out alike, kind by kind."""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lowcomm_node.core.commands import Command, ReportMeeting, Role
from lowcomm_node.core.events import AnswerEncoded, CloseEncoded, CorrectionApplied, Event, OfferEncoded
from lowcomm_node.errors import StoreError
from lowcomm_node.settings.manifest import Manifest, MeetingConfig, ModelConfig, TrainingConfig
from lowcomm_node.settings.presets import OPTIMIZERS
from lowcomm_node.sim.comparison import compare, comparison_json, scenario_like
from lowcomm_node.sim.machine import Machine
from lowcomm_node.sim.node import Node
from lowcomm_node.sim.observed import Stage
from lowcomm_node.sim.recorded import RecordedSwarm, read_recorded
from lowcomm_node.sim.replicas import ReplicaPopulation, ReplicaTrainer
from lowcomm_node.sim.report import Report
from lowcomm_node.sim.requests import Request, Requests
from lowcomm_node.sim.scenario import Level, Scenario, Speeds
from lowcomm_node.sim.world import World
from lowcomm_node.telemetry.flight.dump import dump_text
from lowcomm_node.telemetry.flight.recorder import Entry, Recording, without_payload
from lowcomm_node.telemetry.flight.state import State, state_of
from lowcomm_node.units import MeetingId, PeerId

_STEPS_S = (0.05, 0.1, 0.15)
_WORK_S = {
    Request.OFFER: 0.06, Request.ANSWER: 0.08, Request.CLOSE: 0.03, Request.APPLY: 0.04, Request.SETTLE: 0.02,
}  # fmt: skip
_PARAMS, _MOMENTS = "params/sparse/int4", "exp_avg_sq/rank1/fp32"
_TIMES = {
    "params": 1, _PARAMS: 1, "params/sparse/bf16": 1, "exp_avg_sq": 1 / 8, _MOMENTS: 1 / 8,
    "params + exp_avg_sq": 9 / 8, f"{_PARAMS} + {_MOMENTS}": 9 / 8, f"params/sparse/bf16 + {_MOMENTS}": 9 / 8,
}  # fmt: skip
"""Second moments are much less work, as on a real machine."""
_MACHINE = Machine(
    steps_s=_STEPS_S,
    works_s={
        (request, kind): (work_s * times,) for request, work_s in _WORK_S.items() for kind, times in _TIMES.items()
    },
    latency_s=0.01,
)


class Recorded(World[ReplicaTrainer]):
    """Writes down what its cores are told and say, as flight recorders do."""

    def __init__(self, scenario: Scenario, population: ReplicaPopulation) -> None:
        self.states: dict[PeerId, State] = {}
        self.entries: defaultdict[PeerId, list[Entry]] = defaultdict(list)
        self.requests = Requests()
        self.works_s: dict[tuple[MeetingId, Request], float] = {}
        super().__init__(
            scenario, population, max_payload_bytes=population.max_payload_bytes, max_tensors=population.num_tensors
        )

    def handled(self, node: Node[ReplicaTrainer], event: Event, commands: Sequence[Command]) -> None:
        entries = self.entries[node.name]
        self.states.setdefault(node.name, state_of(node.core))
        for command in commands:
            self.requests.saw(command)
            named = self.requests.named(command)
            if named is not None:
                meeting_id, key = named
                self.works_s[meeting_id, key[0]] = _MACHINE.works_s[key][0]
        kept = tuple(without_payload(command) for command in commands)
        told = without_payload(self.with_work(event, commands))
        entries.append(Entry(number=len(entries) + 1, now=self.now, event=told, commands=kept))

    def with_work(self, event: Event, commands: Sequence[Command]) -> Event:
        """As a real trainer tells it."""
        match event:
            case OfferEncoded():
                return replace(event, work_s=self.works_s[event.meeting_id, Request.OFFER])
            case AnswerEncoded():
                return replace(event, work_s=self.works_s[event.meeting_id, Request.ANSWER])
            case CloseEncoded():
                return replace(event, work_s=self.works_s[event.meeting_id, Request.CLOSE])
            case CorrectionApplied():
                roles = {command.role for command in commands if isinstance(command, ReportMeeting)}
                request = Request.SETTLE if Role.INITIATOR in roles else Request.APPLY
                return replace(event, work_s=self.works_s[event.meeting_id, request])
            case _:
                return event


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    torch.set_num_threads(1)  # as ``simulate`` does: tiny models are slow with more
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("what one node learns, the others hear of sooner or later. " * 50)
    return Scenario(
        level=Level.TRAINING,
        nodes=3,
        minutes=1.4,
        network="loopback",
        speeds=Speeds.EQUAL,
        latency_s=0.01,
        machine=_MACHINE,
        manifest=Manifest(
            model=ModelConfig(num_layers=1, num_heads=2, d_model=8, d_ff=8, context_length=8),
            training=TrainingConfig(batch_size=2, total_steps=2000, warmup_steps=5),
            optimizer=OPTIMIZERS["adamw"],
            meeting=MeetingConfig(params_every_steps=9, exp_avg_sq_every_steps=7),
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
    for index, (name, entries) in enumerate(world.entries.items()):
        recording = Recording(states=((1, world.states[name]),), draws={}, entries=tuple(entries))
        (folder / f"n{index}.json").write_text(dump_text({}, recording, names={}))
    return report


def like(recorded: RecordedSwarm, manifest: Manifest, data: tuple[str, ...]) -> Scenario:
    return scenario_like(recorded, manifest, Scenario(minutes=0.0, seed=1, data=data))


def test_a_recorded_swarm_is_found_again(scenario: Scenario, recordings: tuple[Path, Report]) -> None:
    """From its recordings alone: the machine, each meeting's bytes, and how long each kind took; and another seed is like it."""
    folder, report = recordings
    recorded = read_recorded(folder)
    _, comparison = compare(recorded, like(recorded, scenario.manifest, scenario.data))
    total = comparison.total

    assert recorded.nodes == 3
    assert recorded.machine.step_s == pytest.approx(_MACHINE.step_s, rel=0.03)
    assert {round(step_s, 6) for step_s in recorded.machine.steps_s} == {*_STEPS_S}
    for key, works_s in recorded.machine.works_s.items():
        assert set(works_s) == {*_MACHINE.works_s[key]}
    assert recorded.machine.latency_s == pytest.approx(0.01, rel=0.01)
    assert total.real.meetings > 20
    assert abs(total.real.meetings - report.meetings.completed) <= 1
    assert total.real.mean_s == pytest.approx(report.meetings.duration_s, rel=0.05)
    assert comparison.has_equal_bytes
    judged = {kind.kind: kind for kind in comparison.kinds if kind.is_judged}
    assert judged.keys() >= {_PARAMS, _MOMENTS}
    assert judged[_MOMENTS].real.mean_s < 0.8 * judged[_PARAMS].real.mean_s
    for kind in judged.values():
        assert kind.mean_ratio == pytest.approx(1, abs=0.1)
    plain = json.loads(json.dumps(comparison_json(comparison), allow_nan=False))
    assert plain["has_equal_bytes"] is True
    assert plain["duration_ratios_by_kind"].keys() == judged.keys()


def test_bytes_that_differ_are_noticed(scenario: Scenario, recordings: tuple[Path, Report]) -> None:
    """A manifest with another budget gives other meetings of the same kind."""
    recorded = read_recorded(recordings[0])
    budget = MeetingConfig(
        params_every_steps=9, exp_avg_sq_every_steps=7, budget_bytes=2 * scenario.manifest.budget_bytes
    )
    manifest = replace(scenario.manifest, meeting=budget)
    _, comparison = compare(recorded, like(recorded, manifest, scenario.data))

    assert not comparison.has_equal_bytes


def test_stages_follow_each_other(recordings: tuple[Path, Report]) -> None:
    """Messages take the latency, a trainer its own work, a step before it and other requests; nothing is negative."""
    for meeting in read_recorded(recordings[0]).meetings:
        assert min(meeting.stages) >= 0
        assert meeting.seconds_of(Stage.VERDICT_TRAVELS) == pytest.approx(0.01, rel=0.01)
        work_s = _WORK_S[Request.CLOSE] * _TIMES[meeting.kind]
        most_s = max(_STEPS_S) + 2 * sum(_WORK_S.values())
        assert work_s - 1e-9 <= meeting.seconds_of(Stage.CLOSE_ENCODED) <= work_s + most_s


def test_recordings_without_a_trainer_s_work_are_refused(recordings: tuple[Path, Report], tmp_path: Path) -> None:
    """Those of an older version can be replayed, and cannot tell how fast their machine was."""
    for path in recordings[0].glob("n*.json"):
        (tmp_path / path.name).write_text(re.sub(r'"work_s": [0-9.e-]+', '"work_s": null', path.read_text()))
    with pytest.raises(StoreError, match="how long a trainer works"):
        read_recorded(tmp_path)


def test_recordings_that_tell_nothing_are_refused(tmp_path: Path) -> None:
    """With the command that makes some."""
    with pytest.raises(StoreError, match="swarm --nodes 8 --recordings"):
        read_recorded(tmp_path)
