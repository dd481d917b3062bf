"""What a world asks of its nodes' insides: vectors and replicas answer it alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol, TypeVar

from torch import Tensor

from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.core.messages import Message, StreamPlan
from lowcomm_node.core.node import NodeRules
from lowcomm_node.sim.swarm import VirtualTrainer
from lowcomm_node.units import Codec, MeetingId, PeerId

__all__ = ["Centre", "Look", "Population", "SimTrainer"]


class SimTrainer(VirtualTrainer, Protocol):
    """A trainer that can be looked at, and that a newcomer can copy."""

    is_hostile: bool
    frozen_files: dict[str, bytes]
    """Those with frozen factors that the machine can give, by digest."""

    @property
    def steps(self) -> int:
        """Own steps."""
        ...

    @property
    def progress_steps(self) -> float:
        """Swarm progress."""
        ...

    def fingerprint(self) -> Fingerprint | None:
        """Of the state as others get to see it; None when it is not finite, which nobody believes."""
        ...


_T = TypeVar("_T", bound=SimTrainer)


@dataclass(frozen=True, slots=True)
class Look:
    """What the honest nodes are like together, at one moment."""

    spread: float
    """Root mean square distance from their mean, per number."""
    progress_spread: float
    """Standard deviation of their progress, in steps."""
    consensus_error: float
    """Root mean square, per number, of what hostile partners have moved the honest mean by."""
    extra: Mapping[str, float]
    """Of this level: losses, or what theory expects of the spread."""


@dataclass(frozen=True, slots=True)
class Centre:
    """The mean of the honest nodes, flat, and their spread."""

    mean: Tensor
    spread: float


class Population(Protocol[_T]):
    """Makes trainers and compares them."""

    stride: int
    """Own steps between two reports of a trainer."""
    is_attacking: bool
    """Hostile trainers behave like honest ones before."""
    state_bytes: int
    """What a newcomer downloads."""
    initial_sketch: tuple[float, ...]
    """Of the state in which the run begins."""
    total_steps: int
    """Of the run, as those believe who look at a state."""

    def make(self, index: int, chance: Random, *, is_hostile: bool) -> _T:
        """A trainer in the state in which a run begins."""
        ...

    def make_rules(self, own: PeerId, seed: bytes) -> NodeRules:
        """Rules of one life of a node."""
        ...

    def weigh(self, message: Message) -> Sequence[int]:
        """Bytes that each payload part of a message takes on the wire."""
        ...

    def codec_of(self, plan: StreamPlan) -> Codec:
        """How a planned stream travels, as far as bytes are concerned."""
        ...

    def look(self, trainers: Sequence[_T], now: float) -> Look:
        """At the honest trainers that have state."""
        ...

    def centre(self, trainers: Sequence[_T]) -> Centre:
        """Where the honest trainers are, and how far apart."""
        ...

    def distance(self, newcomer: _T, centre: Centre) -> float:
        """Root mean square distance per number of one trainer from their mean."""
        ...

    def pushed(self, trainer: _T, meeting_id: MeetingId, *, is_by_hostile: bool) -> None:
        """A meeting is over for an honest trainer; what it did may count as an attack."""
        ...
