"""Bare training loops as processes: started together, frozen and woken together, ended together."""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from lowcomm_node.bench.bare import BareLoad, Tally
from lowcomm_node.bench.overhead import LOOP, Reading
from lowcomm_node.cli.bench.trial_swarm import machine_busy_s, wait
from lowcomm_node.cli.swarm.interrupts import Interrupts
from lowcomm_node.cli.swarm.launch import Workshop, node_environment
from lowcomm_node.cli.swarm.processes import memory_bytes
from lowcomm_node.cli.swarm.thaw import Guard
from lowcomm_node.errors import LowcommError

__all__ = ["BareLoops"]

_LOOK_EVERY_S = 0.05


@dataclass(slots=True)
class _Loop:
    popen: subprocess.Popen[bytes]
    tally: Tally
    log_file: Path
    process: psutil.Process = field(init=False)

    def __post_init__(self) -> None:
        self.process = psutil.Process(self.popen.pid)


class BareLoops:
    """As many loops as a swarm has nodes, with its manifest and its settings. As a context it ends them all."""

    def __init__(self, directory: Path, workshop: Workshop, count: int, interrupts: Interrupts) -> None:
        """``directory`` is made."""
        directory.mkdir()
        self._directory = directory
        self._workshop = workshop
        self._count = count
        self._interrupts = interrupts
        self._loops: list[_Loop] = []
        self._guard: Guard | None = None

    def __enter__(self) -> Self:
        self._guard = Guard()
        for index in range(self._count):
            self._loops.append(self._start(f"bare{index}"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for loop in self._loops:
            loop.popen.kill()  # also of one that is frozen
            loop.popen.wait()
            loop.tally.close()
        if self._guard is not None:
            self._guard.close()

    def wait_for_training(self, patience_s: float) -> None:
        """Until all loops have taken a step. Raises LowcommError."""
        until = time.monotonic() + patience_s
        while not all(loop.tally.tokens for loop in self._loops):
            self._check()
            if time.monotonic() > until:
                raise LowcommError(f"not all bare loops train after {patience_s:.0f} s")
            wait(self._interrupts, _LOOK_EVERY_S)

    def freeze(self) -> None:
        """All stand still from now on."""
        if self._guard is not None:
            self._guard.freeze(self._processes)

    def thaw(self) -> None:
        """The end of ``freeze``."""
        if self._guard is not None:
            self._guard.thaw(self._processes)

    def reading(self) -> Reading:
        """Counters of all loops together. Raises LowcommError when one has ended."""
        self._check()
        taken = [process.cpu_times() for process in self._processes]
        return Reading(
            at_s=time.monotonic(),
            tokens=sum(loop.tally.tokens for loop in self._loops),
            processor_s={LOOP: sum(times.user + times.system for times in taken)},
            machine_busy_s=machine_busy_s(),
        )

    def memory(self) -> dict[str, int]:
        """Bytes of one loop: the mean."""
        return {LOOP: sum(map(memory_bytes, self._processes)) // max(1, self._count)}

    @property
    def _processes(self) -> Sequence[psutil.Process]:
        return [loop.process for loop in self._loops]

    def _start(self, name: str) -> _Loop:
        log_file, tally_file = self._directory / f"{name}.log", self._directory / f"{name}.tally"
        tally = Tally(tally_file)
        load = BareLoad(
            name=name,
            manifest_file=str(self._workshop.manifest_file),
            config_file=str(self._workshop.config_file),
            state_dir=str(self._directory / name),
            tally_file=str(tally_file),
        )
        with log_file.open("wb") as log:
            popen = subprocess.Popen(
                [sys.executable, "-m", "lowcomm_node.bench.bare", load.to_json()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=node_environment(),
                start_new_session=True,
            )
        return _Loop(popen, tally, log_file)

    def _check(self) -> None:
        for loop in self._loops:
            if loop.popen.poll() is not None:
                said = loop.log_file.read_text(encoding="utf-8", errors="replace")[-500:]
                raise LowcommError(f"a bare loop has ended with exit code {loop.popen.returncode}: {said}")
