"""Runs scenarios: the population of their level in a world of its own."""

from collections.abc import Callable, Sequence

import torch

from lowcomm_node.core.commands import Command
from lowcomm_node.core.events import Event
from lowcomm_node.sim.replicas import ReplicaPopulation, ReplicaTrainer
from lowcomm_node.sim.report import Point, Report
from lowcomm_node.sim.scenario import Level, Scenario
from lowcomm_node.sim.vectors import VectorPopulation, VectorTrainer
from lowcomm_node.sim.world import World

__all__ = ["simulate"]


def simulate(
    scenario: Scenario,
    on_look: Callable[[Point], None] = lambda _point: None,
    on_decision: Callable[[float, Event, Sequence[Command]], None] | None = None,
) -> Report:
    """Run one scenario; ``on_decision`` hears of all that cores are told and say. Raises ConfigError and DataError."""
    scenario.check()
    torch.set_num_threads(1)  # small tensors: more threads wait for each other, and sums come out as they are
    if scenario.level is Level.TRAINING:
        replicas = ReplicaPopulation(scenario)
        trained: World[ReplicaTrainer] = World(
            scenario,
            replicas,
            max_payload_bytes=replicas.max_payload_bytes,
            max_tensors=replicas.num_tensors,
            on_decision=on_decision,
        )
        return trained.run_scenario(on_look)
    vectors: World[VectorTrainer] = World(
        scenario,
        VectorPopulation(scenario),
        max_payload_bytes=4 * scenario.dimension,
        max_tensors=1,
        on_decision=on_decision,
    )
    return vectors.run_scenario(on_look)
