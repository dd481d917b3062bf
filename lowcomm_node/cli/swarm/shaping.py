"""Networks whose lines are as slow, as long and as lossy as wanted: one device in each, and one process that carries the packets.

As in ``sandbox``, all of it hangs on this process and its children, and is gone with them.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

import psutil

from lowcomm_node.cli.swarm import kernel
from lowcomm_node.cli.swarm.emulator import Plug, plan_to_json
from lowcomm_node.cli.swarm.kernel import Namespace
from lowcomm_node.cli.swarm.lines import LineShape, Traffic
from lowcomm_node.cli.swarm.sandbox import Room, run_ip
from lowcomm_node.errors import LowcommError
from lowcomm_node.sim.profiles import Nat

__all__ = ["ShapedRoom", "Shaping", "ShapingError", "can_shape", "shaped_rooms"]

_PUBLIC, _PRIVATE = "11.77", "10.78"
"""libp2p tells addresses of the whole internet from those at home, and relays and punches holes with the former alone. Those for
documentation are of neither kind to it. No packet leaves these networks."""
_END_PATIENCE_S = 3.0


def can_shape() -> bool:
    """Are there networks and devices for the asking? Kernels may refuse them all the same."""
    return sys.platform == "linux" and not os.geteuid()


class ShapingError(LowcommError):
    """There can be no shaped networks here."""

    code = "shaping"


class ShapedRoom(Room):
    """The network of one node at the end of a line of its own."""

    def __init__(self, shaping: "Shaping", number: int, shape: LineShape, *, nat: Nat) -> None:
        """Raises OSError."""
        suffix = f"{(number + 1) // 250}.{(number + 1) % 250 + 1}"
        self.host = f"{_PUBLIC if nat is Nat.OPEN else _PRIVATE}.{suffix}"
        self._shaping = shaping
        self._number = number
        self._hub = shaping.home
        kernel.unshare(Namespace.NETWORK)
        try:
            self._network = kernel.own_network()
            device = kernel.open_tun("eth0")
            run_ip("link set lo up")
            run_ip(f"address add {self.host}/32 dev eth0")
            run_ip("link set eth0 txqueuelen 1000 up")
            run_ip("route add default dev eth0")
        finally:
            kernel.enter_network(self._hub)
        self.plug = Plug(
            device=device,
            address=f"{_PUBLIC}.{suffix}",
            inside="" if nat is Nat.OPEN else self.host,
            is_symmetric=nat is Nat.SYMMETRIC,
            shape=shape,
        )

    def cut(self) -> None:
        """Nothing gets in or out; the node itself sees a line that is still plugged in."""
        self._shaping.order(f"cut {self._number}")

    def mend(self) -> None:
        self._shaping.order(f"mend {self._number}")

    def lose(self, other: Room) -> None:
        """Whatever this node sends to ``other`` is lost on the way."""
        self._shaping.order(f"lose {self._number} {self._shaping.number_of(other)}")

    def find(self, other: Room) -> None:
        """The end of ``lose``."""
        self._shaping.order(f"find {self._number} {self._shaping.number_of(other)}")


class Shaping:
    """All shaped networks of one swarm or measurement. Rooms first, then ``start``."""

    def __init__(self, *, seed: int) -> None:
        """``seed`` decides which packets are lost. Raises ShapingError where there are no such networks."""
        if not can_shape():
            raise ShapingError("a shaped line (--line) needs Linux, and root for its networks and devices")
        self._seed = seed
        self._rooms: list[ShapedRoom] = []
        self._process: subprocess.Popen[str] | None = None
        self.home = kernel.own_network()
        """The network that the calling thread is in."""

    def room(self, shape: LineShape, *, nat: Nat = Nat.OPEN) -> ShapedRoom:
        """One more network, behind a router unless ``nat`` is open. Raises ShapingError."""
        try:
            room = ShapedRoom(self, len(self._rooms), shape, nat=nat)
        except OSError as error:
            raise ShapingError(f"no shaped networks are possible here: {error}") from error
        self._rooms.append(room)
        return room

    def start(self) -> None:
        """Connect the rooms: from now on packets pass."""
        plugs = [room.plug for room in self._rooms]
        words = ["lowcomm_node.cli.swarm.tether", str(os.getpid())]
        emulator = [sys.executable, "-m", "lowcomm_node.cli.swarm.emulator", plan_to_json(plugs, self._seed)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", *words, *emulator],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[plug.device for plug in plugs],
            start_new_session=True,
        )
        for plug in plugs:
            os.close(plug.device)

    def order(self, words: str) -> None:
        """Tell the process that carries the packets."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(f"{words}\n")
                self._process.stdin.flush()

    def traffic(self) -> list[Traffic]:
        """What each line has carried so far, in the order of the rooms; empty when the process has ended."""
        if self._process is None or self._process.stdout is None:
            return []
        self.order("tell")
        line = self._process.stdout.readline()
        return [Traffic(**told) for told in json.loads(line)] if line else []

    @property
    def cpu_s(self) -> float:
        """Processor time of the process that carries the packets."""
        if self._process is None:
            return 0.0
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(self._process.pid).cpu_times()
            return float(times.user + times.system)
        return 0.0

    def number_of(self, room: Room) -> int:
        """Of one of these rooms."""
        return self._rooms.index(room)  # type: ignore[arg-type]  # all rooms of one swarm are of one kind

    def close(self) -> None:
        """End the process, and with it the devices; the networks go with the last process in them."""
        if self._process is not None and self._process.stdin is not None and self._process.stdout is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            try:
                self._process.wait(_END_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process.stdout.close()
        for room in self._rooms:
            room.close()
        os.close(self.home)


@contextlib.contextmanager
def shaped_rooms(shapes: Sequence[LineShape], *, seed: int) -> Iterator[tuple[Shaping, list[ShapedRoom]]]:
    """Connected rooms with these lines, gone afterwards. Raises ShapingError."""
    shaping = Shaping(seed=seed)
    try:
        rooms = [shaping.room(shape) for shape in shapes]
        shaping.start()
        yield shaping, rooms
    finally:
        shaping.close()
