"""The nodes of a swarm as processes: starts, kills, brings back and stops them, and notices who ended unasked."""

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import psutil

from lowcomm_node.cli.swarm.launch import NodePlace, node_environment
from lowcomm_node.cli.swarm.processes import NodeProcess

__all__ = ["Fleet", "Incident", "IncidentKind", "Stage"]

_ORPHAN_PATIENCE_S = 15.0
"""A trainer and a p2pd have to notice within this time that their daemon was killed."""
_RETURN_AFTER_S = 1.0
_LOG_LINES = 12
_ORDERLY = frozenset({0, -signal.SIGTERM})
"""A node that is told to stop before it has begun to listen to signals ends by the signal itself."""
_STOP_LOOK_EVERY_S = 0.2


CommandOf = Callable[[NodePlace, Sequence[str]], list[str]]
"""Command line of a node, given where it lives and whom to ask; nobody to ask starts the run."""


class Stage(StrEnum):
    """Where a node stands as a process."""

    RUNNING = "running"
    KILLED = "killed"
    """Its daemon was killed, or has been asked to leave; there are still processes to end."""
    RETURNING = "returning"
    """All ended; a replacement starts in a moment."""
    ENDED = "ended"


class IncidentKind(StrEnum):
    """What the fleet noticed by itself."""

    DIED = "died"
    """A daemon ended though nobody had asked it to, or not with exit code 0 when asked."""
    RETURNED = "returned"
    """A killed node was started again."""
    LEFTOVER = "leftover"
    """A process or socket outlived its daemon; it was removed."""
    FORCED = "forced"
    """A node did not leave within the time it had; it was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """Something the swarm should show and count."""

    kind: IncidentKind
    node: str
    detail: str = ""
    exit_code: int | None = None
    log: tuple[str, ...] = ()


@dataclass(slots=True)
class _Berth:
    place: NodePlace
    process: NodeProcess
    stage: Stage = Stage.RUNNING
    since_s: float = field(default_factory=time.monotonic)
    return_after_s: float | None = None
    """Seconds from the order to end to its return, and at least a moment from its end; None: it does not."""
    ordered_s: float = 0.0
    return_peers: tuple[str, ...] = ()
    """Whom it asks then; empty: those who are there."""
    told: set[str] = field(default_factory=set)
    """Addresses it was given at its starts."""

    def go(self, return_after_s: float | None) -> None:
        self.return_after_s, self.ordered_s = return_after_s, time.monotonic()
        self.enter(Stage.KILLED)

    def enter(self, stage: Stage) -> None:
        self.stage = stage
        self.since_s = time.monotonic()


class Fleet:
    """Processes by node name. All methods but ``stop`` return at once."""

    def __init__(self, command: CommandOf) -> None:
        self._command = command
        self._berths: dict[str, _Berth] = {}

    def start(self, place: NodePlace, peers: Sequence[str]) -> None:
        """Start a node for the first time. Raises LowcommError when the process cannot be started."""
        self._berths[place.name] = _Berth(place, self._launch(place, peers), told=set(peers))

    def kill(self, name: str, *, return_after_s: float | None = 0.0, peers: Sequence[str] = ()) -> None:
        """kill -9 the node's daemon; ``tend`` brings it back once its children are gone and a moment, or ``return_after_s``, is over; never for None.

        It then asks ``peers``, or else those that ``tend`` is told of.
        """
        berth = self._berths[name]
        berth.process.kill_daemon()
        berth.return_peers = tuple(peers)
        berth.go(return_after_s)

    def send_away(self, name: str, *, return_after_s: float | None) -> None:
        """Ask the node to leave in order; it comes back as after ``kill``."""
        berth = self._berths[name]
        berth.process.look()
        berth.process.terminate()
        berth.return_peers = ()
        berth.go(return_after_s)

    def tend(self, peers: Sequence[str]) -> list[Incident]:
        """Look after all nodes; killed ones return through ``peers``."""
        incidents: list[Incident] = []
        for berth in self._berths.values():
            match berth.stage:
                case Stage.RUNNING:
                    incidents += self._tend_running(berth)
                case Stage.KILLED:
                    incidents += self._tend_killed(berth)
                case Stage.RETURNING if _is_due(berth) and (berth.return_peers or peers):
                    berth.process = self._launch(berth.place, berth.return_peers or peers)
                    berth.told.update(berth.return_peers or peers)
                    berth.enter(Stage.RUNNING)
                    incidents.append(Incident(kind=IncidentKind.RETURNED, node=berth.place.name))
                case _:
                    pass
        return incidents

    def places(self, *stages: Stage) -> dict[str, NodePlace]:
        """Places of the nodes in these stages, in order of their first start."""
        return {name: berth.place for name, berth in self._berths.items() if berth.stage in stages}

    def processes(self) -> list[NodeProcess]:
        """Processes of the nodes that are running."""
        return [berth.process for berth in self._berths.values() if berth.stage is Stage.RUNNING]

    def process(self, name: str) -> NodeProcess:
        """The node's newest process."""
        return self._berths[name].process

    def was_told(self, name: str, address: str) -> bool:
        """Was the node given this address, in any of its lives?"""
        return address in self._berths[name].told

    def log_tail(self, name: str) -> list[str]:
        """Last lines the node has written."""
        return self._berths[name].process.log_tail(_LOG_LINES)

    def stop(self, patience_s: Callable[[], float], look: Callable[[Mapping[str, NodePlace]], None]) -> list[Incident]:
        """End all nodes and wait for it: SIGTERM, then SIGKILL after ``patience_s()`` seconds.

        ``look`` is called several times a second with the nodes that still run, so that their last counters are seen.
        Afterwards no process and no socket of any node is left; what had to be removed by force is in the result.
        """
        incidents: list[Incident] = []
        begun_s = time.monotonic()
        for berth in self._berths.values():
            if berth.stage is Stage.RUNNING:
                berth.process.look()
                berth.process.terminate()
        while time.monotonic() - begun_s < patience_s():
            running = {
                n: b for n, b in self._berths.items() if b.stage is Stage.RUNNING and b.process.exit_code is None
            }
            if not running:
                break
            look({name: berth.place for name, berth in running.items()})
            time.sleep(_STOP_LOOK_EVERY_S)
        for berth in self._berths.values():
            incidents += self._finish(berth, patience_s)
            berth.enter(Stage.ENDED)
        return incidents

    def _launch(self, place: NodePlace, peers: Sequence[str]) -> NodeProcess:
        return NodeProcess(self._command(place, peers), place.log_file, node_environment(), place.entered)

    def _tend_running(self, berth: _Berth) -> list[Incident]:
        if berth.process.exit_code is None:
            return []
        incident = _death(berth)
        berth.process.kill_all()
        _unlink_sockets(berth.process)
        berth.enter(Stage.ENDED)
        return [incident]

    def _tend_killed(self, berth: _Berth) -> list[Incident]:
        left = berth.process.survivors()
        if left and time.monotonic() - berth.since_s < _ORPHAN_PATIENCE_S:
            return []
        incidents = _leftovers(berth)
        _unlink_sockets(berth.process)  # after kill -9 nobody else can
        berth.enter(Stage.ENDED if berth.return_after_s is None else Stage.RETURNING)
        return incidents

    def _finish(self, berth: _Berth, patience_s: Callable[[], float]) -> list[Incident]:
        if berth.stage not in {Stage.RUNNING, Stage.KILLED}:
            return []
        incidents: list[Incident] = []
        was_killed = berth.stage is Stage.KILLED
        if berth.process.exit_code is None:
            log = tuple(berth.process.log_tail(_LOG_LINES))
            incidents.append(Incident(kind=IncidentKind.FORCED, node=berth.place.name, log=log))
            berth.process.kill_daemon()
            was_killed = True
        elif berth.stage is Stage.RUNNING and berth.process.exit_code not in _ORDERLY:
            incidents.append(_death(berth))
        deadline_s = time.monotonic() + min(_ORPHAN_PATIENCE_S, patience_s())
        while berth.process.survivors() and time.monotonic() < deadline_s:
            time.sleep(_STOP_LOOK_EVERY_S)
        incidents += _leftovers(berth)
        left = _unlink_sockets(berth.process)
        if left and not was_killed:
            detail = f"sockets {', '.join(left)}"
            incidents.append(Incident(kind=IncidentKind.LEFTOVER, node=berth.place.name, detail=detail))
        return incidents


def _is_due(berth: _Berth) -> bool:
    if berth.return_after_s is None:
        return False
    now_s = time.monotonic()
    return now_s >= berth.since_s + _RETURN_AFTER_S and now_s >= berth.ordered_s + berth.return_after_s


def _death(berth: _Berth) -> Incident:
    log = tuple(berth.process.log_tail(_LOG_LINES))
    return Incident(kind=IncidentKind.DIED, node=berth.place.name, exit_code=berth.process.exit_code, log=log)


def _leftovers(berth: _Berth) -> list[Incident]:
    """Name and remove the processes that outlived their daemon."""
    left = berth.process.survivors()
    if not left:
        return []
    names = ", ".join(f"{process.pid} ({_name(process)})" for process in left)
    berth.process.kill_all()
    return [Incident(kind=IncidentKind.LEFTOVER, node=berth.place.name, detail=f"processes {names}")]


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return "ended"


def _unlink_sockets(process: NodeProcess) -> list[str]:
    left = process.left_sockets()
    for path in left:
        path.unlink(missing_ok=True)
    return [str(path) for path in left]
