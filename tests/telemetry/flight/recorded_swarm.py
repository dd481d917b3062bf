"""The swarm in virtual time with a flight recorder at every core."""

from fractions import Fraction
from random import Random

from lowcomm_node.core.events import Event
from lowcomm_node.core.node import NodeCore
from lowcomm_node.sim.swarm import Node, VirtualSwarm
from lowcomm_node.telemetry.flight.recorder import FlightRecorder
from tests.core.exact_trainer import ExactTrainer


class RecordedSwarm(VirtualSwarm[ExactTrainer]):
    def __init__(self, count: int, *, seed: int, faults: float, max_entries: int) -> None:
        self.recorders: dict[NodeCore, FlightRecorder] = {}
        """Of every life of every node."""
        self._max_entries = max_entries
        chance = Random(seed)
        trainers = [ExactTrainer(Fraction(chance.randrange(-1000, 1000))) for _ in range(count)]
        super().__init__(trainers, seed=seed, faults=faults)

    def feed(self, node: Node[ExactTrainer], event: Event) -> None:
        recorder = self.recorders.get(node.core)
        if recorder is None:
            recorder = self.recorders[node.core] = FlightRecorder(node.core, max_entries=self._max_entries)
        for command in recorder.handle(event, self.now):
            self._execute(node, command)


def troubled_swarm(seed: int, *, max_entries: int = 80, seconds: float = 40.0) -> RecordedSwarm:
    """Nodes that meet over a bad network, lose their trainers and are started again."""
    swarm = RecordedSwarm(4, seed=seed, faults=0.15, max_entries=max_entries)
    for index in range(4):
        swarm.run(swarm.now + seconds / 4)
        node = swarm[index]
        swarm.restart(node) if index % 2 else swarm.lose_trainer(node)
    swarm.run(swarm.now + seconds / 4)
    return swarm
