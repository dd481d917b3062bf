"""Wakes frozen processes when the swarm that froze them is gone: ``python -m lowcomm_node.cli.swarm.thaw``.

A stopped process gets no SIGTERM, so the nodes of a swarm that is killed outright while some are frozen would stay for
ever. This process reads ``PID CREATION_TIME`` lines, written before each freeze, until its input ends with the swarm,
and then lets all of them go on; they find their SIGTERM waiting. A reused pid is left alone.
"""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Sequence

import psutil

__all__ = ["Guard", "main"]


class Guard:
    """The swarm's end: a process that outlives it by a moment."""

    def __init__(self) -> None:
        # In a session of its own: Ctrl+C must not end it before the swarm.
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "lowcomm_node.cli.swarm.thaw"], stdin=subprocess.PIPE, start_new_session=True
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def freeze(self, processes: Sequence[psutil.Process]) -> None:
        """SIGSTOP to all of them, having told the guard. Those that have ended meanwhile are passed over."""
        for process in processes:
            with contextlib.suppress(psutil.Error):
                if self._popen.stdin is not None:
                    self._popen.stdin.write(f"{process.pid} {process.create_time()!r}\n".encode())
                    self._popen.stdin.flush()
                process.suspend()

    def thaw(self, processes: Sequence[psutil.Process]) -> None:
        """SIGCONT."""
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.resume()

    def close(self) -> None:
        """End the guard, which lets go on whatever is still frozen."""
        self._popen.communicate()


def main() -> None:
    """Read until the end, then wake."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in list(sys.stdin):
        pid, created = line.split()
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(int(pid))
            if process.create_time() == float(created):
                process.resume()


if __name__ == "__main__":
    main()
