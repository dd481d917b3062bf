"""What surrounds the nodes of a virtual swarm: lines that carry or break, machines that are fast or slow."""

from dataclasses import dataclass
from random import Random
from typing import Protocol

from lowcomm_node.core.commands import Command
from lowcomm_node.sim.link import damaged
from lowcomm_node.units import PeerId

__all__ = ["Conditions", "Passage", "Trouble"]


@dataclass(frozen=True, slots=True)
class Passage:
    """What becomes of one message that was sent."""

    arrivals: tuple[tuple[float, list[bytes]], ...] = ()
    """(seconds until it is there, its frames as they arrive); none when it is swallowed, two when it is doubled."""
    breaks_after_s: float | None = None
    """The connection ends then; None when it holds."""


class Conditions(Protocol):
    """Network and machines. Draws what it draws in the order it is asked, so that a seed gives one history."""

    def dial(self, dialler: PeerId, answerer: PeerId, now: float) -> float | None:
        """Seconds until a connection is found to be impossible; None when it can be made."""
        ...

    def can_punch(self, one: PeerId, other: PeerId, now: float) -> bool:
        """Can the two get a direct connection when both dial at once?"""
        ...

    def carry(self, sender: PeerId, receiver: PeerId, frames: list[bytes], now: float) -> Passage:
        """The fate of a message, its first connection's hand-shake included."""
        ...

    def step_s(self, node: PeerId, now: float) -> float:
        """Seconds until the node's next own step ends, if nothing puts it off."""
        ...

    def put_off_s(self, node: PeerId, now: float) -> float:
        """Seconds for which meetings have put off the end of the step that would be now; 0 when it ends."""
        ...

    def serve_s(self, node: PeerId, command: Command, now: float) -> float:
        """Seconds until its trainer has done a meeting's command, the wait for the end of a step included."""
        ...


class Trouble:
    """Machines of one speed behind a network that breaks in every way it can, at one rate.

    Messages are dropped with their connection, swallowed without a sign, damaged, doubled, and overtake each other.
    """

    def __init__(self, chance: Random, *, faults: float, step_s: float = 0.2) -> None:
        """``faults``: share of messages that break their connection; half as many are swallowed, half damaged. May be changed."""
        self._chance = chance
        self._step_s = step_s
        self.faults = faults

    def dial(self, dialler: PeerId, answerer: PeerId, now: float) -> float | None:
        return 0.05 if self._chance.random() < self.faults / 4 else None

    def can_punch(self, one: PeerId, other: PeerId, now: float) -> bool:
        return True

    def carry(self, sender: PeerId, receiver: PeerId, frames: list[bytes], now: float) -> Passage:
        chance = self._chance
        fate = chance.random()
        if fate < self.faults:  # the connection breaks, with or without the message having arrived
            arrivals = ((0.02, frames),) if chance.random() < 0.5 else ()
            return Passage(arrivals, 0.03)
        if fate < 1.5 * self.faults:
            return Passage()  # only deadlines help
        if fate < 2 * self.faults:
            frames = damaged(frames, chance)
        delay_s = 0.01 + chance.random() * 0.1
        if chance.random() < self.faults:
            return Passage(((delay_s, frames), (0.2, frames)))
        return Passage(((delay_s, frames),))

    def step_s(self, node: PeerId, now: float) -> float:
        return self._step_s * (0.5 + self._chance.random())

    def put_off_s(self, node: PeerId, now: float) -> float:
        return 0.0

    def serve_s(self, node: PeerId, command: Command, now: float) -> float:
        return self._chance.random() * 0.2
