"""TCP ports for the nodes of a swarm."""

import random
import socket
from dataclasses import dataclass

from lowcomm_node.cli.swarm.options import PORTS_PER_NODE
from lowcomm_node.errors import ConfigError

__all__ = ["NodePorts", "choose_ports"]

_LOOPBACK = "127.0.0.1"
_SEARCH_FROM, _SEARCH_TO = 20_000, 32_000
"""Below the range that systems draw the ports of outgoing connections from: a dead node's port stays free."""
_SEARCHES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePorts:
    """The three ports of one node."""

    dht: int
    grpc: int
    metrics: int


def choose_ports(count: int, base: int | None) -> list[NodePorts]:
    """Ports for ``count`` nodes: node i has base + 3i (DHT), + 1 (gRPC), + 2 (metrics).

    Without a base one is searched whose whole range is free now. Raises ConfigError when a port is taken.
    """
    width = count * PORTS_PER_NODE
    if base is None:
        chance = random.SystemRandom()
        for _ in range(_SEARCHES):
            base = chance.randrange(_SEARCH_FROM, _SEARCH_TO - width)
            if not _taken(base, width):
                break
        else:
            raise ConfigError(f"no {width} free ports in a row between {_SEARCH_FROM} and {_SEARCH_TO}")
    elif taken := _taken(base, width):
        raise ConfigError(f"--port-base {base}: port {taken[0]} is in use; {width} ports from {base} on are needed")
    return [
        NodePorts(dht=first, grpc=first + 1, metrics=first + 2) for first in range(base, base + width, PORTS_PER_NODE)
    ]


def _taken(base: int, width: int) -> list[int]:
    return [port for port in range(base, base + width) if not _is_free(port)]


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOOPBACK, port))
        except OSError:
            return False
        return True
