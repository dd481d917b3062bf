"""A network of its own on this computer: engines in it leave no bridge, rule or address in ours, and are asked from inside."""

import ctypes
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

__all__ = ["Namespace"]

_CLONE_NEWNET = 0x40000000
_T = TypeVar("_T")


class Namespace:
    """Made at once, gone with ``remove``. Needs root and the command ``ip``; raises OSError or CalledProcessError without."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = Path("/run/netns") / name
        _run("ip", "netns", "add", name)
        self._thread = ThreadPoolExecutor(max_workers=1, initializer=self._enter)
        self.call(int)  # now, so that the thread belongs to whoever makes this, not to whoever asks first
        self.run("ip", "link", "set", "lo", "up")

    @property
    def prefix(self) -> tuple[str, ...]:
        """What stands before a command that is to run in it. Not ``ip netns exec``, which would hide the control groups."""
        return ("nsenter", f"--net={self.path}", "--")

    def run(self, *command: str) -> str:
        """Run a command in it to its end; returns what it printed."""
        return _run(*self.prefix, *command)

    def call(self, function: Callable[[], _T]) -> _T:
        """Call it in a thread whose sockets are in this network."""
        return self._thread.submit(function).result()

    def link(self, other: "Namespace", own: str, others: str, device: str = "line") -> None:
        """A cable between two of them; both addresses with their prefix length."""
        _run("ip", "link", "add", device, "netns", self.name, "type", "veth", "peer", device, "netns", other.name)
        for namespace, address in ((self, own), (other, others)):
            namespace.run("ip", "address", "add", address, "dev", device)
            namespace.run("ip", "link", "set", device, "up")

    def remove(self) -> None:
        """Its devices and rules go with it, once the processes in it have ended."""
        self._thread.shutdown()
        _run("ip", "netns", "delete", self.name)

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        file = os.open(self.path, os.O_RDONLY)
        try:
            if libc.setns(file, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"cannot enter {self.path}")
        finally:
            os.close(file)


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
