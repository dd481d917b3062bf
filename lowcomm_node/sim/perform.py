"""Runs scenarios: the population of their level in a world of its own."""

from collections.abc import Callable

from lowcomm_node.sim.replicas import ReplicaPopulation, ReplicaTrainer
from lowcomm_node.sim.report import Point, Report
from lowcomm_node.sim.scenario import Level, Scenario
from lowcomm_node.sim.vectors import VectorPopulation, VectorTrainer
from lowcomm_node.sim.world import World

__all__ = ["simulate"]


def simulate(scenario: Scenario, on_look: Callable[[Point], None] = lambda _point: None) -> Report:
    """Run one scenario. Raises ConfigError and DataError."""
    scenario.check()
    if scenario.level is Level.TRAINING:
        replicas = ReplicaPopulation(scenario)
        trained: World[ReplicaTrainer] = World(
            scenario, replicas, max_payload_bytes=replicas.max_payload_bytes, max_tensors=replicas.num_tensors
        )
        return trained.run_scenario(on_look)
    vectors: World[VectorTrainer] = World(
        scenario, VectorPopulation(scenario), max_payload_bytes=4 * scenario.dimension, max_tensors=1
    )
    return vectors.run_scenario(on_look)
