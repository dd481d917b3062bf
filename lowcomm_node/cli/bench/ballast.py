"""Processes that compute for nobody: so that each node of a small swarm has no more of the machine than one of a large swarm."""

import os
import subprocess
import sys
from types import TracebackType
from typing import Self

__all__ = ["Ballast"]


class Ballast:
    """As a context it ends them all."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.carry(0)

    def carry(self, count: int) -> None:
        """From now on there are so many."""
        while len(self.processes) > count:
            process = self.processes.pop()
            process.kill()
            process.wait()
        tether = [sys.executable, "-m", "lowcomm_node.cli.swarm.tether", str(os.getpid())]
        while len(self.processes) < count:
            self.processes.append(
                subprocess.Popen([*tether, sys.executable, "-c", "while True: pass"], start_new_session=True)
            )
