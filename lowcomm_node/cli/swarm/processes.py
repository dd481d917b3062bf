"""One life of one node as an operating-system process, with everything that belongs to it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

import psutil

from lowcomm_node.errors import LowcommError

__all__ = ["NodeProcess", "Part", "memory_bytes", "memory_of_all", "processor_seconds"]

_LOG_TAIL_BYTES = 8192
_KILL_PATIENCE_S = 5.0
_KILL_LOOK_EVERY_S = 0.02


class Part(StrEnum):
    """The processes of a node."""

    DAEMON = "daemon"
    TRAINER = "trainer"
    """With those of further devices."""
    P2PD = "p2pd"


class NodeProcess:
    """A started node: its daemon, its children and the sockets they have bound.

    The daemon leads a session of its own, so that Ctrl+C in the terminal reaches only the swarm, which then stops
    its nodes in order. Processes are remembered with their creation time: a reused pid is never signalled.
    """

    def __init__(
        self,
        command: Sequence[str],
        log_file: Path,
        environment: Mapping[str, str],
        entered: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """Start ``command``, output appended to ``log_file``. Raises LowcommError when it cannot be started.

        Within ``entered()`` the calling thread is in the node's network.
        """
        self.log_file = log_file
        self._entered = entered
        tethered = [sys.executable, "-m", "lowcomm_node.cli.swarm.tether", str(os.getpid()), *command]
        try:
            with log_file.open("ab") as log, entered():
                self._popen = subprocess.Popen(
                    tethered,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=dict(environment),
                    start_new_session=True,
                )
        except OSError as error:
            raise LowcommError(f"cannot start {command[0]}: {error}") from error
        self.pid = self._popen.pid
        self.sockets: set[Path] = set()
        self._family: dict[int, psutil.Process] = {}
        self.look()

    @property
    def exit_code(self) -> int | None:
        """None while the daemon lives; negative numbers are signals."""
        return self._popen.poll()

    @property
    def family(self) -> list[psutil.Process]:
        """The daemon and all processes seen under it, ended ones included."""
        return list(self._family.values())

    def look(self) -> None:
        """Remember the children and Unix sockets there are now; what appears between two looks is found by session."""
        with contextlib.suppress(psutil.Error), self._entered():
            daemon = psutil.Process(self.pid)
            for process in (daemon, *daemon.children(recursive=True)):
                self._family[process.pid] = process
                self._look_at_sockets(process)

    def part(self, part: Part) -> list[psutil.Process]:
        """The living processes of one part."""
        self.look()
        return [process for process in self._family.values() if _is_alive(process) and self._part_of(process) is part]

    def parts(self) -> list[tuple[Part, psutil.Process]]:
        """The processes known by the last look that are of some part; asking costs little."""
        found = [(self._part_of(process), process) for process in self._family.values()]
        return [(part, process) for part, process in found if part is not None]

    def survivors(self) -> list[psutil.Process]:
        """Processes of this node that are still alive, the daemon included."""
        for pid in psutil.pids():
            with contextlib.suppress(OSError, psutil.Error):
                if pid not in self._family and os.getsid(pid) == self.pid:
                    self._family[pid] = psutil.Process(pid)
        self._popen.poll()
        return [process for process in self._family.values() if _is_alive(process)]

    def left_sockets(self) -> list[Path]:
        """Socket files of this node that still exist."""
        return [path for path in sorted(self.sockets) if path.is_socket()]

    def terminate(self) -> None:
        """Ask the daemon to drain and leave."""
        self._signal_daemon(signal.SIGTERM)

    def kill_daemon(self) -> None:
        """kill -9 the daemon alone, as a crash would; its children have to notice."""
        self.look()
        self._signal_daemon(signal.SIGKILL)

    def kill_all(self) -> None:
        """kill -9 everything that belongs to this node and wait for its end."""
        survivors = self.survivors()
        for process in survivors:
            with contextlib.suppress(psutil.Error):
                process.kill()
        until_s = time.monotonic() + _KILL_PATIENCE_S
        # Not psutil.wait_procs: an orphan stays a zombie where the first process of a container does not wait for it.
        while any(_is_alive(process) for process in survivors) and time.monotonic() < until_s:
            time.sleep(_KILL_LOOK_EVERY_S)

    def log_tail(self, lines: int) -> list[str]:
        """The last lines of the node's output."""
        with contextlib.suppress(OSError), self.log_file.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").splitlines()[-lines:]
        return []

    def _part_of(self, process: psutil.Process) -> Part | None:
        if process.pid == self.pid:
            return Part.DAEMON
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if any(word.startswith("lowcomm_node.train.") for word in words):
                return Part.TRAINER
            if words and Path(words[0]).name == "p2pd":
                return Part.P2PD
        return None

    def _signal_daemon(self, number: signal.Signals) -> None:
        if self._popen.poll() is None:
            self._popen.send_signal(number)

    def _look_at_sockets(self, process: psutil.Process) -> None:
        for connection in process.net_connections(kind="unix"):
            path = str(connection.laddr)  # of a Unix socket: its path, or nothing
            if path.startswith("/"):
                self.sockets.add(Path(path))


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def memory_of_all(nodes: Sequence[NodeProcess]) -> int:
    """Memory of these nodes with all their children and of this process, in bytes.

    Proportional set size on Linux: a page that n processes share counts 1/n in each, so that the sum is honest.
    Elsewhere the unique set size.
    """
    for node in nodes:
        node.look()
    return sum(memory_bytes(process) for node in nodes for process in node.family) + memory_bytes(psutil.Process())


def processor_seconds(nodes: Sequence[NodeProcess]) -> dict[str, float]:
    """Processor time that these nodes' living processes have taken so far, by part."""
    seconds = dict.fromkeys([part.value for part in Part], 0.0)
    for node in nodes:
        for part, process in node.parts():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                seconds[part.value] += times.user + times.system
    return seconds


def memory_bytes(process: psutil.Process) -> int:
    """Proportional set size, or the unique one where there is none; 0 of a process that is gone."""
    try:
        with Path(f"/proc/{process.pid}/smaps_rollup").open() as rollup:
            for line in rollup:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return int(process.memory_full_info().uss)
    except psutil.Error:
        return 0
