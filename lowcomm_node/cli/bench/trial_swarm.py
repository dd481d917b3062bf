"""A swarm that is measured: real nodes that come up when told to, train with nothing in the way, and all end with it."""

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from lowcomm_node.bench.overhead import EMULATOR, Reading
from lowcomm_node.cli.swarm.fleet import Fleet, Stage
from lowcomm_node.cli.swarm.interrupts import Interrupts
from lowcomm_node.cli.swarm.launch import Workshop
from lowcomm_node.cli.swarm.lines import LineShape
from lowcomm_node.cli.swarm.lives import Status
from lowcomm_node.cli.swarm.ports import choose_ports
from lowcomm_node.cli.swarm.processes import memory_bytes, processor_seconds
from lowcomm_node.cli.swarm.shaping import Shaping
from lowcomm_node.cli.swarm.thaw import Guard
from lowcomm_node.cli.swarm.watch import Watcher
from lowcomm_node.errors import LowcommError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import DeviceSettings, NodeSettings

__all__ = ["TrialSwarm", "machine_busy_s", "wait"]

_LOOK_EVERY_S = 0.5
_STOP_PATIENCE_S = 40.0


class TrialSwarm:
    """Nodes with the settings that a node has by default, but for checkpoints, niceness and what ``sets`` says.

    As a context it ends all that it has started, frozen or not.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        *,
        most: int,
        threads: int,
        interrupts: Interrupts,
        line: LineShape | None = None,
        seed: int = 0,
        sets: Sequence[str] = (),
    ) -> None:
        """``directory`` is made. ``most``: nodes that there may be. Raises LowcommError where lines cannot be emulated."""
        directory.mkdir()
        self.directory = directory
        self._interrupts = interrupts
        self._shaping = None if line is None else Shaping(seed=seed)
        shaping = self._shaping
        self.workshop = Workshop(
            directory,
            manifest,
            settings=NodeSettings(device=DeviceSettings(threads=threads)),
            room_of=None if shaping is None or line is None else lambda _: shaping.room(line),
            is_patient=True,
        )
        self._sets = [
            word for setting in ("checkpoint.every_s=0", "log.level=info", *sets) for word in ("--set", setting)
        ]
        self.places = [self.workshop.place(f"n{i}", ports) for i, ports in enumerate(choose_ports(most, None))]
        self._first_address = self.workshop.address(self.places[0])
        self.fleet = Fleet(lambda place, peers: [*self.workshop.command(place, peers), *self._sets])
        self._watcher = Watcher()
        self._guard: Guard | None = None
        self._frozen: list[psutil.Process] = []

    def __enter__(self) -> Self:
        if self._shaping is not None:
            self._shaping.start()
        self._guard = Guard()
        self._watcher.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.thaw()
            self.fleet.stop(lambda: _STOP_PATIENCE_S, lambda _: None)
        finally:
            self._watcher.__exit__(kind, error, trace)
            if self._guard is not None:
                self._guard.close()
            if self._shaping is not None:
                self._shaping.close()

    @property
    def names(self) -> list[str]:
        """Of the nodes that have been started."""
        return list(self.fleet.places(*Stage))

    def start(self, count: int) -> list[str]:
        """So many more nodes, all at once. The very first one begins the run."""
        started = self.places[len(self.names) : len(self.names) + count]
        for place in started:
            self.fleet.start(place, [] if place is self.places[0] else [self._first_address])
        return [place.name for place in started]

    def statuses(self) -> Mapping[str, Status]:
        """Of the nodes that answer. Raises LowcommError when one has ended by itself."""
        for process, place in zip(self.fleet.processes(), self.fleet.places(Stage.RUNNING).values(), strict=True):
            if process.exit_code is not None:
                raise LowcommError(f"{place.name} has ended: " + " / ".join(process.log_tail(3)))
        return self._watcher.look(self.fleet.places(Stage.RUNNING))

    def wait_for_training(self, patience_s: float) -> None:
        """Until all nodes have taken steps; all their processes are known then. Raises LowcommError when it takes longer."""
        until = time.monotonic() + patience_s
        while True:
            statuses = self.statuses()
            missing = [name for name in self.names if name not in statuses or not _trains(statuses[name])]
            if not missing:
                for node in self.fleet.processes():
                    node.look()
                return
            if time.monotonic() > until:
                raise LowcommError(f"not all nodes train after {patience_s:.0f} s: {', '.join(missing)}")
            wait(self._interrupts, _LOOK_EVERY_S)

    def freeze(self) -> None:
        """All processes of all nodes stand still from now on."""
        for process in self.fleet.processes():
            process.look()
        self._frozen = [process for node in self.fleet.processes() for _, process in node.parts()]
        if self._guard is not None:
            self._guard.freeze(self._frozen)

    def thaw(self) -> None:
        """The end of ``freeze``."""
        if self._guard is not None:
            self._guard.thaw(self._frozen)
        self._frozen = []

    def reading(self, statuses: Mapping[str, Status] | None = None) -> Reading:
        """Counters of all nodes together, as they say now or have just said. Raises LowcommError when not all of them answer."""
        statuses = self.statuses() if statuses is None else statuses
        if missing := [name for name in self.names if name not in statuses]:
            raise LowcommError(f"no answer from {', '.join(missing)}")
        said = list(statuses.values())
        emulator = {} if self._shaping is None else {EMULATOR: self._shaping.cpu_s}
        return Reading(
            at_s=time.monotonic(),
            tokens=sum(status.training.tokens for status in said),
            processor_s=processor_seconds(self.fleet.processes()) | emulator,
            machine_busy_s=machine_busy_s(),
            meetings=sum(status.meetings.completed for status in said) // 2,
            failed=sum(sum(status.meetings.failed.values()) for status in said),
            sent_bytes=sum(
                entry.bytes for status in said for entry in status.meetings.bytes if entry.direction == "sent"
            ),
            exchange_s=math.fsum(status.training.exchange_seconds for status in said),
        )

    def memory(self) -> dict[str, int]:
        """Bytes of one node, by kind of process: the mean."""
        sums: dict[str, int] = defaultdict(int)
        for node in self.fleet.processes():
            node.look()
            for part, process in node.parts():
                sums[part.value] += memory_bytes(process)
        return {kind: count // max(1, len(self.names)) for kind, count in sums.items()}


def _trains(status: Status) -> bool:
    return status.state == "training" and status.training.steps > 0


def machine_busy_s() -> float:
    """Processor time of everything on this machine since it started."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def wait(interrupts: Interrupts, seconds: float) -> None:
    """Raises KeyboardInterrupt when somebody wants an end."""
    interrupts.wait(seconds)
    if interrupts:
        raise KeyboardInterrupt
