"""Machines that train: how long their own steps take, and when a trainer has done what a meeting asks of it."""

import math
from dataclasses import dataclass
from random import Random
from typing import Protocol

from lowcomm_node.core.commands import Command
from lowcomm_node.sim.machine import Machine
from lowcomm_node.sim.requests import Requests
from lowcomm_node.sim.scenario import Scenario, Speeds
from lowcomm_node.units import PeerId

__all__ = ["AssumedMachines", "Machines", "RecordedMachines"]

_SLOWEST = 1 / 8
_SPEED_SIGMA = 0.5
_STEP_JITTER = 0.1


class Machines(Protocol):
    """One of each node of a swarm. Draws what it draws in the order it is asked, so that a seed gives one history."""

    def add(self, node: PeerId) -> None:
        """A node with a machine of its own."""
        ...

    def remove(self, node: PeerId) -> None:
        """The node is gone."""
        ...

    def step_s(self, node: PeerId, now: float) -> float:
        """As in ``Conditions``, and the two below."""
        ...

    def put_off_s(self, node: PeerId, now: float) -> float: ...

    def serve_s(self, node: PeerId, command: Command, now: float) -> float: ...


class AssumedMachines:
    """All steps of a machine take about the same time, all requests the same work, and no request puts off a step."""

    def __init__(self, scenario: Scenario, chance: Random, stride: int) -> None:
        """``stride``: own steps between two reports of a trainer."""
        self._scenario = scenario
        self._chance = chance
        self._stride = stride
        self._steps_s: dict[PeerId, float] = {}

    def add(self, node: PeerId) -> None:
        slowness = 1.0
        if self._scenario.speeds is Speeds.LOGNORMAL:
            slowness = math.exp(_SPEED_SIGMA * self._chance.gauss(0, 1))
        elif self._scenario.speeds is Speeds.UNEQUAL:
            slowness = _SLOWEST ** -self._chance.random()
        self._steps_s[node] = self._scenario.step_s * slowness

    def remove(self, node: PeerId) -> None:
        del self._steps_s[node]

    def step_s(self, node: PeerId, now: float) -> float:
        jitter = 1 + _STEP_JITTER * (2 * self._chance.random() - 1)
        return self._steps_s[node] * self._stride * jitter

    def put_off_s(self, node: PeerId, now: float) -> float:
        return 0.0

    def serve_s(self, node: PeerId, command: Command, now: float) -> float:
        """A trainer answers between two steps: it finishes the one it is at first."""
        return self._steps_s[node] * self._chance.random() + self._scenario.serve_s


@dataclass(slots=True)
class _Trainer:
    """What it is at; times of the swarm's clock."""

    step_from: float = 0.0
    """The step it is at has begun then, or will when what is asked of it is done."""
    step_until: float = 0.0
    served_until: float = 0.0


class RecordedMachines:
    """As ``train.loop`` does it: one step after the other, and between two of them whatever was asked for, in that order.

    Lengths of steps and work are drawn from those that were seen on ``machine``. A trainer reports each step.
    """

    def __init__(self, machine: Machine, chance: Random) -> None:
        self._machine = machine
        self._chance = chance
        self._requests = Requests()
        self._trainers: dict[PeerId, _Trainer] = {}

    def add(self, node: PeerId) -> None:
        self._trainers[node] = _Trainer()

    def remove(self, node: PeerId) -> None:
        del self._trainers[node]

    def step_s(self, node: PeerId, now: float) -> float:
        trainer = self._trainers[node]
        self._go_on(trainer, now)
        return trainer.step_until - now

    def put_off_s(self, node: PeerId, now: float) -> float:
        return max(0.0, self._trainers[node].step_until - now)

    def serve_s(self, node: PeerId, command: Command, now: float) -> float:
        trainer = self._trainers[node]
        work_s = self._work_s(command)
        self._go_on(trainer, now)  # who is asked because a step has ended is at the next one already
        if now < trainer.step_from:  # still busy with other requests: this one comes before the next step as well
            trainer.served_until += work_s
            trainer.step_from += work_s
            trainer.step_until += work_s
        else:
            trainer.served_until = max(trainer.step_until, trainer.served_until) + work_s
        return trainer.served_until - now

    def _go_on(self, trainer: _Trainer, now: float) -> None:
        """The next step, when the one before is over."""
        if now >= trainer.step_until:
            trainer.step_from = max(now, trainer.served_until)
            trainer.step_until = trainer.step_from + self._chance.choice(self._machine.steps_s)

    def _work_s(self, command: Command) -> float:
        self._requests.saw(command)
        named = self._requests.named(command)
        return self._chance.choice(self._machine.like(named[1])) if named is not None else 0.0
