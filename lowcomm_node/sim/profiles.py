"""Lines that nodes may have, by name. Rates are lognormal around a median; a pair's latency is the sum of both ends'."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["PROFILES", "LineProfile", "Nat"]

_MBIT = 125_000.0


class Nat(StrEnum):
    """Whom a node can be connected to. Two nodes meet when one of them is open, or when both are behind cones."""

    OPEN = "open"
    """Anybody can dial it."""
    CONE = "cone"
    """Behind a router that lets through what was asked for; two of them reach each other by hole punching."""
    SYMMETRIC = "symmetric"
    """Behind a router that gives each connection another port: only open nodes are within reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineProfile:
    """A kind of line."""

    up_bytes_per_s: float
    down_bytes_per_s: float
    rate_sigma: float
    """Standard deviation of the rates' logarithm between nodes."""
    latency_s: float
    """One way from a node to the middle of the network."""
    latency_sigma: float
    loss_ratio: float
    """Of packets. Lost ones are sent again: they cost time, and bound the rate of a connection."""
    break_ratio: float
    """Of messages: the connection ends on the way, with or without the message having arrived."""
    nat: Mapping[Nat, float]
    """Share of each class."""
    handshake_round_trips: float = 2.0
    """Before a new connection carries anything: TCP, then TLS 1.3."""


_DATACENTRE = LineProfile(
    up_bytes_per_s=1000 * _MBIT,
    down_bytes_per_s=1000 * _MBIT,
    rate_sigma=0.1,
    latency_s=0.00025,
    latency_sigma=0.3,
    loss_ratio=0.0,
    break_ratio=0.0,
    nat={Nat.OPEN: 1.0},
)
_HOME = LineProfile(
    up_bytes_per_s=20 * _MBIT,
    down_bytes_per_s=100 * _MBIT,
    rate_sigma=0.7,
    latency_s=0.015,
    latency_sigma=0.5,
    loss_ratio=0.001,
    break_ratio=0.002,
    nat={Nat.OPEN: 0.3, Nat.CONE: 0.5, Nat.SYMMETRIC: 0.2},
)
_LOOPBACK = LineProfile(
    up_bytes_per_s=8000 * _MBIT,
    down_bytes_per_s=8000 * _MBIT,
    rate_sigma=0.0,
    latency_s=0.0001,
    latency_sigma=0.0,
    loss_ratio=0.0,
    break_ratio=0.0,
    nat={Nat.OPEN: 1.0},
    handshake_round_trips=1.0,  # latency is that of processes; to TCP the kernel answers at once
)

PROFILES: Mapping[str, tuple[tuple[float, LineProfile], ...]] = {
    "datacentre": ((1.0, _DATACENTRE),),
    "home": ((1.0, _HOME),),
    "mixed": ((0.5, _DATACENTRE), (0.5, _HOME)),
    "loopback": ((1.0, _LOOPBACK),),
}
"""Shares of line profiles in a network. Assumed figures, in the range that public speed measurements give."""
