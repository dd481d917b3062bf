"""Networks of their own for what is measured, so that every byte in them belongs to it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lowcomm_node.cli.swarm.sandbox import Room, Sandbox

__all__ = ["counted_networks", "loopback_bytes", "room_bytes"]

_DEVICES = Path("/proc/thread-self/net/dev")
_SENT = 8
"""Column of the bytes that a device has sent."""


@contextlib.contextmanager
def counted_networks() -> Iterator[Sandbox | None]:
    """From now on this thread and what it starts are in a network of their own, if there can be one; None where there cannot.

    To be entered before the process has other threads. They stay in it afterwards: it is for the rest of a command.
    """
    sandbox = Sandbox()
    try:
        yield None if sandbox.no_rooms else sandbox
    finally:
        sandbox.close()


def loopback_bytes(sandbox: Sandbox | None) -> int | None:
    """What processes that share the sandbox's network have sent each other so far, headers included."""
    return None if sandbox is None else _sent("lo")


def room_bytes(room: Room) -> int:
    """What one node in a network of its own has sent so far, headers included."""
    with room.entered():
        return _sent("eth0")


def _sent(device: str) -> int:
    for line in _DEVICES.read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == device:
            return int(numbers.split()[_SENT])
    return 0
