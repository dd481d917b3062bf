"""One node of a virtual swarm: its core, its trainer, and the rules it lives by."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Generic, Protocol, Self, TypeVar

from lowcomm_node.core.commands import Command, ReportMeeting
from lowcomm_node.core.events import Event, StepsTaken
from lowcomm_node.core.node import NodeCore, NodeRules
from lowcomm_node.core.schedule import Timing
from lowcomm_node.sim.link import VirtualLink
from lowcomm_node.units import MeetingId, PeerId, RunId, Stream
from lowcomm_node.wire.meeting import MeetingLimits

__all__ = ["VIRTUAL_RUN", "Node", "T", "VirtualTrainer", "rules"]

VIRTUAL_RUN = RunId("5a" * 32)
"""Where nobody cares which run it is."""

_MAX_KEPT = 64


class VirtualTrainer(Protocol):
    """What the swarm trains with. It survives a restart with the state of that instant, as from a perfect checkpoint."""

    def step(self, chance: Random) -> StepsTaken | None:
        """One own step; None when the run is over for this node."""
        ...

    def carry_out(self, command: Command) -> Event | None:
        """Do what the core asks for; what comes of it."""
        ...

    def forget(self) -> None:
        """The process died and came back: what it held of meetings is gone."""
        ...

    def take_over(self, donor: Self) -> None:
        """Its state becomes the donor's, as after a download; what it held of meetings is gone."""
        ...


T = TypeVar("T", bound=VirtualTrainer)


def rules(
    own: str,
    seed: bytes = b"s",
    *,
    run_id: RunId = VIRTUAL_RUN,
    periods: Mapping[Stream, int] | None = None,
    deadline_s: float = 5.0,
    verdict_keep_s: float = 30.0,
    max_peers: int = 16,
    num_bells: int = 8,
    timing: Timing = Timing.UNIFORM,
    clip_ratio: float = 4.0,
) -> NodeRules:
    """Rules of one life of a virtual node; ``seed`` is that life's."""
    return NodeRules(
        own=PeerId(own),
        run_id=run_id,
        protocol_version=1,
        periods={Stream.PARAMS: 4} if periods is None else periods,
        deadline_s=deadline_s,
        verdict_keep_s=verdict_keep_s,
        max_peers=max_peers,
        num_bells=num_bells,
        seed=seed + own.encode(),
        timing=timing,
        clip_ratio=clip_ratio,
    )


@dataclass(eq=False)
class Node(Generic[T]):
    """One node: core, trainer and what it reported."""

    name: PeerId
    core: NodeCore
    trainer: T
    limits: MeetingLimits
    reports: list[ReportMeeting] = field(default_factory=list)
    links: dict[MeetingId, VirtualLink] = field(default_factory=dict)
    """The newest connection of each meeting."""
    has_trainer: bool = False
    life: int = 0
    """Of the trainer: what was asked of an earlier one is lost."""
    served_until: float = 0.0
    answered: deque[MeetingId] = field(default_factory=lambda: deque(maxlen=_MAX_KEPT))
    """The newest meetings it has applied as their answerer: what a checkpoint tells of them."""
    is_gone: bool = False
    is_ticking: bool = False
