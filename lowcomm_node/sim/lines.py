"""The modelled network: what a message takes from one node to another; and the machines at its ends."""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from lowcomm_node.core.commands import Command
from lowcomm_node.sim.conditions import Passage
from lowcomm_node.sim.machines import AssumedMachines, Machines, RecordedMachines
from lowcomm_node.sim.profiles import PROFILES, LineProfile, Nat
from lowcomm_node.sim.scenario import Scenario
from lowcomm_node.units import PeerId, Reachability

__all__ = ["Line", "Lines"]

_PACKET_BYTES = 1460
_KEPT_S = 60.0
"""A connection that nothing has gone over for so long is gone, as with ``adapters.grpc_endpoints``."""
_MOST_KEPT = 64
_DIAL_TIMEOUT_S = 5.0
"""Until a dial that nobody answers is given up."""
_MATHIS = 1.22
"""Rate of a TCP connection under loss p: at most 1.22 packets / (round trip * sqrt(p)) (Mathis et al. 1997)."""

_T = TypeVar("_T")


@dataclass(slots=True)
class Line:
    """One node's connection, as drawn."""

    profile: LineProfile
    up_bytes_per_s: float
    down_bytes_per_s: float
    latency_s: float
    nat: Nat
    up_free_at: float = 0.0
    """One uplink, one message after the other."""
    connected: OrderedDict[PeerId, float] = field(default_factory=OrderedDict)
    """Those it has dialled, and when last, the longest ago first."""


class Lines:
    """Implements ``Conditions``. Everything is drawn from ``chance`` in the order in which it is asked."""

    def __init__(
        self, scenario: Scenario, chance: Random, are_apart: Callable[[PeerId, PeerId], bool], stride: int
    ) -> None:
        """``are_apart``: does a partition separate the two now? ``stride``: own steps between two reports of a trainer."""
        self._scenario = scenario
        self._chance = chance
        self._are_apart = are_apart
        machine = scenario.machine
        self._machines: Machines = (
            AssumedMachines(scenario, chance, stride) if machine is None else RecordedMachines(machine, chance)
        )
        self._lines: dict[PeerId, Line] = {}

    def __getitem__(self, node: PeerId) -> Line:
        return self._lines[node]

    def add(self, node: PeerId) -> None:
        """A node with a line and a machine of its own."""
        chance, scenario = self._chance, self._scenario
        profile = _pick(chance, PROFILES[scenario.network])
        up, down = (
            rate * math.exp(profile.rate_sigma * chance.gauss(0, 1))
            for rate in (profile.up_bytes_per_s, profile.down_bytes_per_s)
        )
        latency_s = profile.latency_s * math.exp(profile.latency_sigma * chance.gauss(0, 1))
        nat = _pick(chance, tuple((share, nat) for nat, share in profile.nat.items()))
        self._machines.add(node)
        self._lines[node] = Line(
            profile=profile,
            up_bytes_per_s=up if scenario.bytes_per_s is None else scenario.bytes_per_s,
            down_bytes_per_s=down if scenario.bytes_per_s is None else scenario.bytes_per_s,
            latency_s=latency_s if scenario.latency_s is None else scenario.latency_s / 2,
            nat=nat,
        )

    def remove(self, node: PeerId) -> None:
        """The node is gone."""
        del self._lines[node]
        self._machines.remove(node)

    def latency_s(self, one: PeerId, other: PeerId) -> float:
        """One way between two nodes."""
        return self._lines[one].latency_s + self._lines[other].latency_s

    def rate(self, sender: PeerId, receiver: PeerId) -> float:
        """Bytes per second of one connection."""
        up, down = self._lines[sender], self._lines[receiver]
        rate = min(up.up_bytes_per_s, down.down_bytes_per_s)
        loss = max(up.profile.loss_ratio, down.profile.loss_ratio)
        if loss:
            round_trip_s = 2 * (up.latency_s + down.latency_s)
            rate = min(rate, _MATHIS * _PACKET_BYTES / (max(round_trip_s, 1e-4) * math.sqrt(loss)))
        return rate

    def reachability(self, node: PeerId) -> Reachability:
        """As the node would measure it."""
        nat = self._lines[node].nat
        return Reachability.PUBLIC if nat is Nat.OPEN else Reachability.OUTBOUND_ONLY

    def dial(self, dialler: PeerId, answerer: PeerId, now: float) -> float | None:
        if dialler not in self._lines or answerer not in self._lines:
            return _DIAL_TIMEOUT_S
        if self._are_apart(dialler, answerer) or self._lines[answerer].nat is not Nat.OPEN:
            return _DIAL_TIMEOUT_S
        return None

    def can_punch(self, one: PeerId, other: PeerId, now: float) -> bool:
        if one not in self._lines or other not in self._lines or self._are_apart(one, other):
            return False
        classes = {self._lines[one].nat, self._lines[other].nat}
        return Nat.OPEN in classes or classes == {Nat.CONE}

    def carry(self, sender: PeerId, receiver: PeerId, frames: list[bytes], now: float) -> Passage:
        return self.ship(sender, receiver, frames, sum(map(len, frames)), now, is_first=False)

    def ship(
        self, sender: PeerId, receiver: PeerId, frames: list[bytes], num_bytes: int, now: float, *, is_first: bool
    ) -> Passage:
        """The fate of a message that is ``num_bytes`` long on the wire; ``is_first`` needs a connection, if there is none yet."""
        if receiver not in self._lines or self._are_apart(sender, receiver):
            return Passage()  # nothing comes back either: only deadlines tell
        chance, up = self._chance, self._lines[sender]
        profile = max(up.profile, self._lines[receiver].profile, key=lambda profile: profile.break_ratio)
        latency_s = self.latency_s(sender, receiver)
        is_new = is_first and self._connect(up, receiver, now)
        ready_at = now + (2 * latency_s * profile.handshake_round_trips if is_new else 0.0)
        up.up_free_at = max(ready_at, up.up_free_at) + num_bytes / self.rate(sender, receiver)
        delay_s = up.up_free_at - now + latency_s
        if profile.loss_ratio:
            # What is lost is noticed a round trip later; losses within a round trip are mended together.
            num_windows = 1 + int(num_bytes / self.rate(sender, receiver) / max(2 * latency_s, 1e-4))
            packets_each = num_bytes / _PACKET_BYTES / num_windows
            hit_ratio = 1 - (1 - profile.loss_ratio) ** max(packets_each, 1)
            hits = sum(chance.random() < hit_ratio for _ in range(min(num_windows, 32)))
            delay_s += 2 * latency_s * hits * num_windows / min(num_windows, 32)
        if profile.break_ratio and chance.random() < profile.break_ratio:
            arrivals = ((delay_s, frames),) if chance.random() < 0.5 else ()
            for one, other in ((up, receiver), (self._lines[receiver], sender)):
                one.connected.pop(other, None)
            return Passage(arrivals, delay_s * 1.001)
        return Passage(((delay_s, frames),))

    def _connect(self, dialler: Line, answerer: PeerId, now: float) -> bool:
        """Use the connection to ``answerer``; does it have to be made?"""
        is_new = dialler.connected.pop(answerer, -math.inf) < now - _KEPT_S
        dialler.connected[answerer] = now
        if len(dialler.connected) > _MOST_KEPT:
            dialler.connected.popitem(last=False)
        return is_new

    def step_s(self, node: PeerId, now: float) -> float:
        return self._machines.step_s(node, now)

    def put_off_s(self, node: PeerId, now: float) -> float:
        return self._machines.put_off_s(node, now)

    def serve_s(self, node: PeerId, command: Command, now: float) -> float:
        return self._machines.serve_s(node, command, now)


def _pick(chance: Random, shares: tuple[tuple[float, _T], ...]) -> _T:
    drawn = chance.random() * sum(share for share, _ in shares)
    for share, item in shares:
        drawn -= share
        if drawn < 0:
            return item
    return shares[-1][1]
