"""What a swarm looked like over time, kept small however long it runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["History", "Mark", "NodePoint", "SwarmPoint"]

_MAX_MOMENTS = 1200


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePoint:
    """One node at one moment; losses in nats per token, NaN where unknown."""

    time_s: float
    loss: float
    validation_loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmPoint:
    """The swarm at one moment; NaN where unknown."""

    time_s: float
    loss: float
    validation_loss: float
    """Mean over the nodes."""
    spread: float
    bytes_sent: float
    ddp_bytes: float
    meetings: int
    tokens: int
    processor_s: Mapping[str, float] = field(default_factory=dict)
    """Processor time taken by then, by kind of process; empty where nobody wants to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something that happened to a node."""

    time_s: float
    kind: str
    """killed, returned, joined late, died, or a fault's word."""
    node: str


@dataclass(slots=True)
class History:
    """Moments in the order of time. Over 1200 of them, every other is dropped and only every second one is taken."""

    swarm: list[SwarmPoint] = field(default_factory=list)
    nodes: dict[str, list[NodePoint]] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)
    _stride: int = 1
    _seen: int = 0

    def add(self, swarm: SwarmPoint, nodes: dict[str, NodePoint]) -> None:
        """Take in one moment: the swarm's point and those of the nodes that answered."""
        self._seen += 1
        if self._seen % self._stride:
            return
        self.swarm.append(swarm)
        for name, point in nodes.items():
            self.nodes.setdefault(name, []).append(point)
        if len(self.swarm) > _MAX_MOMENTS:
            self._stride *= 2
            self.swarm = self.swarm[::2]
            self.nodes = {name: points[::2] for name, points in self.nodes.items()}

    def mark(self, time_s: float, kind: str, node: str) -> None:
        """Remember an incident; the oldest go when there are very many."""
        self.marks.append(Mark(time_s=time_s, kind=kind, node=node))
        del self.marks[:-_MAX_MOMENTS]
