"""Simulations of real replicas on real text."""

import json
from pathlib import Path
from random import Random

import torch

from lowcomm_node.core.events import StepsTaken
from lowcomm_node.settings.manifest import Manifest, MeetingConfig, ModelConfig, TrainingConfig
from lowcomm_node.sim.perform import simulate
from lowcomm_node.sim.replicas import ReplicaPopulation, ReplicaTrainer
from lowcomm_node.sim.report import Report, report_json
from lowcomm_node.sim.scenario import Attack, Level, Scenario, Speeds
from lowcomm_node.sim.world import World

_MODEL = ModelConfig(num_layers=1, num_heads=2, d_model=8, d_ff=8, context_length=8)
_FP32_ROUNDING = 1e-5


def scenario_of(folder: Path, *, codec: str = "sparse", hostile_ratio: float = 0.0) -> Scenario:
    text = folder / "text.txt"
    text.write_text("what one node learns, the others hear of sooner or later. " * 200)
    return Scenario(
        level=Level.TRAINING,
        nodes=4,
        minutes=0.75,
        network="loopback",
        speeds=Speeds.EQUAL,
        hostile_ratio=hostile_ratio,
        attack=Attack.SIGN_FLIP,
        manifest=Manifest(
            model=_MODEL,
            training=TrainingConfig(batch_size=2, total_steps=300, warmup_steps=5),
            meeting=MeetingConfig(params_every_steps=3, codec=codec),
        ),
        data=(str(text),),
    )


def test_the_mean_is_what_own_steps_have_made_of_it(tmp_path: Path) -> None:
    """Without faults, meetings of real replicas move the swarm's mean weights by nothing but rounding."""
    own: list[torch.Tensor] = []

    trainers: list[ReplicaTrainer] = []

    class Counting(ReplicaTrainer):
        """Adds up what own steps do."""

        def step(self, chance: Random) -> StepsTaken | None:
            before = flat(self)
            taken = super().step(chance)
            own[trainers.index(self)] += flat(self) - before
            return taken

    class Population(ReplicaPopulation):
        def make(self, index: int, chance: Random, *, is_hostile: bool) -> ReplicaTrainer:
            trainers.append(Counting(self, index, is_hostile=is_hostile))
            own.append(flat(trainers[-1]))
            return trainers[-1]

    population = Population(scenario_of(tmp_path, codec="dense"))
    world: World[ReplicaTrainer] = World(
        population.scenario,
        population,
        max_payload_bytes=population.max_payload_bytes,
        max_tensors=population.num_tensors,
    )
    report = world.run_scenario(lambda _point: None)
    world.settle()

    rest = torch.stack([flat(trainer) for trainer in trainers]).sum(0) - torch.stack(own).sum(0)
    assert report.meetings.completed > 20
    assert float(rest.abs().max()) < _FP32_ROUNDING * float(torch.stack(own).abs().max()) * len(own)


def flat(trainer: ReplicaTrainer) -> torch.Tensor:
    return torch.cat([theta.flatten() for theta in trainer.replica.theta]).double()


def test_a_seed_gives_the_same_report_and_loss_falls(tmp_path: Path) -> None:
    """Real training too is repeated to the bit, hostile replicas among it; bytes are named by stream and codec."""
    reports: list[Report] = [simulate(scenario_of(tmp_path, hostile_ratio=0.25)) for _ in range(2)]
    first, again = (json.dumps(report_json(report), allow_nan=False) for report in reports)
    losses = [point.extra["loss_averaged"] for point in reports[0].timeline]

    assert first == again
    assert losses[-1] < 0.95 * losses[0]
    assert "params/sparse" in reports[0].traffic.payload_per_completed
    assert reports[0].attack is not None
    assert reports[0].attack.hostile == 1
