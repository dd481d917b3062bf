"""A private world for a swarm under chaos: a network per node that can be cut, and disks that can be full.

Everything hangs on namespaces that only this process and its children hold. However they end, the kernel takes networks
and mounts away with the last of them; the machine's own network and mounts are never touched.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from lowcomm_node.cli.swarm import kernel
from lowcomm_node.cli.swarm.kernel import Namespace

__all__ = ["Disk", "Room", "Sandbox", "run_ip"]

_NET = "10.77"
_DISK_BYTES = 1 << 30
_NOBODY = "02:00:00:00:00:01"
"""A link address that no node has: what is sent there is lost without an error."""


class Sandbox:
    """What this process could get. ``no_rooms`` and ``no_disks`` say why not; empty when it could."""

    def __init__(self) -> None:
        """Enter it: from now on this thread and what it starts see only the sandbox's network and mounts.

        To be called before the process has other threads.
        """
        self.no_rooms = self.no_disks = ""
        self._hub: int | None = None
        self._rooms: list[Room] = []
        self._disks: list[Disk] = []
        if sys.platform != "linux":
            self.no_rooms = self.no_disks = "only Linux has namespaces"
            return
        try:
            kernel.unshare(Namespace.MOUNTS | (Namespace.USERS if os.geteuid() else Namespace(0)))
        except OSError as error:
            self.no_rooms = self.no_disks = f"namespaces are not allowed here ({error.strerror})"
            return
        if shutil.which("ip") is None:
            self.no_rooms = "there is no 'ip' command (package iproute2)"
            return
        home = kernel.own_network()
        try:
            kernel.unshare(Namespace.NETWORK)
            self._hub = kernel.own_network()
            run_ip("link set lo up")
            run_ip("link add hub type bridge")
            run_ip("link set hub up")
        except OSError as error:
            self.no_rooms = f"no network of its own: {error}"
            with contextlib.suppress(OSError):
                kernel.enter_network(home)
        finally:
            os.close(home)

    def room(self, index: int) -> "Room | None":
        """A network for node number ``index``, or None where there can be none."""
        if self._hub is None or self.no_rooms:
            return None
        room = Room(self._hub, index)
        self._rooms.append(room)
        return room

    def disk(self, path: Path) -> "Disk | None":
        """A file system of its own at the directory ``path``, or None where there can be none."""
        if self.no_disks:
            return None
        disk = Disk(path)
        self._disks.append(disk)
        return disk

    def close(self) -> None:
        """Move what is on the disks to the real one and let go. The process stays in its private, now empty, world."""
        for disk in self._disks:
            disk.close()
        for room in self._rooms:
            room.close()


class Room:
    """The network of one node: one interface, on a bridge with those of all others."""

    def __init__(self, hub: int, index: int) -> None:
        """Raises OSError."""
        self.host = f"{_NET}.{(index + 1) // 250}.{(index + 1) % 250 + 1}"
        self._hub = hub
        self._port = f"n{index}"
        kernel.unshare(Namespace.NETWORK)
        try:
            self._network = kernel.own_network()
            run_ip("link set lo up")
            run_ip(f"link add eth0 type veth peer name {self._port} netns /proc/{os.getpid()}/fd/{hub}")
            run_ip(f"address add {self.host}/16 dev eth0")
            run_ip("link set eth0 up")
        finally:
            kernel.enter_network(hub)
        run_ip(f"link set {self._port} master hub up")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets that the thread opens and processes that it starts within are the room's."""
        kernel.enter_network(self._network)
        try:
            yield
        finally:
            kernel.enter_network(self._hub)

    def cut(self) -> None:
        """Nothing gets in or out; the node itself sees a line that is still plugged in."""
        run_ip(f"link set {self._port} nomaster")

    def mend(self) -> None:
        run_ip(f"link set {self._port} master hub")

    def lose(self, other: "Room") -> None:
        """Whatever this node sends to ``other`` is lost on the way."""
        with self.entered():
            run_ip(f"neighbour replace {other.host} lladdr {_NOBODY} dev eth0 nud permanent")

    def find(self, other: "Room") -> None:
        """The end of ``lose``."""
        with self.entered():
            run_ip(f"neighbour delete {other.host} dev eth0")

    def close(self) -> None:
        os.close(self._network)


class Disk:
    """A file system in memory that can be made to have no room left."""

    def __init__(self, path: Path) -> None:
        """Mount it over ``path``. Raises OSError."""
        self._path = path
        kernel.mount_tmpfs(path, _DISK_BYTES)

    def fill(self) -> None:
        """No more room than what is used now."""
        state = os.statvfs(self._path)
        kernel.resize_tmpfs(self._path, max(1, state.f_blocks - state.f_bfree) * state.f_frsize)

    def empty(self) -> None:
        """There is room again; what was on it is still there."""
        kernel.resize_tmpfs(self._path, _DISK_BYTES)

    def close(self) -> None:
        """Take it away and leave its files in the directory below."""
        kept = self._path.with_name(f"{self._path.name}.kept")
        shutil.copytree(self._path, kept, ignore=_special_files)
        kernel.unmount(self._path)
        shutil.copytree(kept, self._path, dirs_exist_ok=True)
        shutil.rmtree(kept)


def _special_files(folder: str, names: list[str]) -> list[str]:
    paths = [Path(folder) / name for name in names]
    return [path.name for path in paths if not (path.is_file() or path.is_dir())]


def run_ip(words: str) -> None:
    """Run iproute2. Raises OSError with its words."""
    ip = shutil.which("ip")
    if ip is None:
        raise OSError("there is no 'ip' command (package iproute2)")
    done = subprocess.run([ip, *words.split()], check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {words}: {done.stderr.strip()}")
