"""The lines between a swarm's networks, a process of its own: ``python -m lowcomm_node.cli.swarm.emulator PLAN``.

It gets one open TUN device per node and moves packets between them as ``lines`` and ``nat`` say. Kernels without netem can
do this too, and when the process ends, however it ends, the kernel takes the devices away. Orders come by standard input, one a
line: ``cut 1``, ``mend 1``, ``lose 1 2``, ``find 1 2``, ``tell``; its end ends the process.
"""

import json
import os
import select
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf
from socket import inet_aton

from lowcomm_node.cli.swarm.lines import Internet, LineShape
from lowcomm_node.cli.swarm.nat import Router

__all__ = ["Plug", "main", "plan_to_json"]

_STDIN = 0
_BURST = 64
"""Packets taken from one device before another has its turn."""
_MAX_PACKET_BYTES = 65535
_IPV4 = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Plug:
    """Where one node's line begins."""

    device: int
    """File descriptor of its TUN device."""
    address: str
    """IPv4 address that the others use."""
    inside: str = ""
    """The node's own address where it is behind a router; else empty."""
    is_symmetric: bool = False
    """The router gives each flow a port of its own."""
    shape: LineShape


class _Exchange:
    """Devices, routers and lines put together."""

    def __init__(self, plugs: Sequence[Plug], seed: int) -> None:
        self.internet = Internet([plug.shape for plug in plugs], seed)
        self._devices = [plug.device for plug in plugs]
        self._numbers = {inet_aton(plug.address): number for number, plug in enumerate(plugs)}
        self._routers = {
            number: Router(inet_aton(plug.inside), inet_aton(plug.address), is_symmetric=plug.is_symmetric)
            for number, plug in enumerate(plugs)
            if plug.inside
        }

    def take(self, number: int) -> None:
        """Packets that a node has sent go on their way."""
        device, router = self._devices[number], self._routers.get(number)
        now = time.monotonic()
        for _ in range(_BURST):
            try:
                sent = os.read(device, _MAX_PACKET_BYTES)
            except BlockingIOError:
                return
            if sent[0] >> 4 != _IPV4:
                continue
            packet = sent if router is None else router.outbound(sent, now)
            if packet is not None and (target := self._numbers.get(packet[16:20])) is not None:
                self.internet.send(number, target, packet, now)

    def give(self) -> float:
        """Packets that are due reach their nodes; returns seconds until there are more."""
        now = time.monotonic()
        for number, arrived in self.internet.due(now):
            router = self._routers.get(number)
            packet = arrived if router is None else router.inbound(arrived, now)
            if packet is not None:
                # A device whose queue is full, or whose node is gone, loses it, as any network may.
                try:
                    os.write(self._devices[number], packet)
                except OSError:
                    continue
        next_at = self.internet.next_at
        return 1.0 if next_at == inf else max(0.0, next_at - time.monotonic())

    def obey(self, order: str) -> None:
        """One line of standard input."""
        match order.split():
            case ["cut" | "mend" as word, number]:
                self.internet.cut(int(number), is_cut=word == "cut")
            case ["lose" | "find" as word, source, target]:
                self.internet.lose(int(source), int(target), is_lost=word == "lose")
            case ["tell"]:
                told = [asdict(self.internet.traffic(number)) for number in range(len(self._devices))]
                print(json.dumps(told), flush=True)

    def run(self) -> None:
        """Until standard input ends."""
        numbers = {device: number for number, device in enumerate(self._devices)}
        orders = b""
        wait_s = 1.0
        while True:
            # select and not epoll, which wakes on whole milliseconds.
            for ready in select.select([_STDIN, *self._devices], [], [], wait_s)[0]:
                if ready != _STDIN:
                    self.take(numbers[ready])
                    continue
                if not (words := os.read(_STDIN, 4096)):
                    return
                *lines, orders = (orders + words).split(b"\n")
                for line in lines:
                    self.obey(line.decode())
            wait_s = self.give()


def plan_to_json(plugs: Sequence[Plug], seed: int) -> str:
    """The process's argument."""
    return json.dumps({"seed": seed, "plugs": [asdict(plug) for plug in plugs]})


def main(arguments: list[str]) -> None:
    """Move packets until standard input ends."""
    plan = json.loads(arguments[0])
    plugs = [Plug(**{**plug, "shape": LineShape(**plug["shape"])}) for plug in plan["plugs"]]
    for plug in plugs:
        os.set_blocking(plug.device, False)
    _Exchange(plugs, plan["seed"]).run()


if __name__ == "__main__":
    main(sys.argv[1:])
