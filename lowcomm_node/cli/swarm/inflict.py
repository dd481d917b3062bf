"""Faults as effects: what is done to a node's processes, network and disk, and undone again."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

import psutil

from lowcomm_node.cli.swarm.chaos import Blow, Fault
from lowcomm_node.cli.swarm.fleet import Fleet, Stage
from lowcomm_node.cli.swarm.launch import NodePlace
from lowcomm_node.cli.swarm.processes import Part
from lowcomm_node.cli.swarm.thaw import Guard

__all__ = ["Inflictor"]

_PARTS: Mapping[Fault, tuple[Part, ...]] = {
    Fault.FREEZE: tuple(Part),
    Fault.SLEEP: tuple(Part),
    Fault.FREEZE_DAEMON: (Part.DAEMON,),
    Fault.FREEZE_TRAINER: (Part.TRAINER,),
    Fault.FREEZE_P2PD: (Part.P2PD,),
    Fault.KILL_TRAINER: (Part.TRAINER,),
    Fault.KILL_P2PD: (Part.P2PD,),
}
_MEMORY_FILE = "run.json"
"""Where a node keeps its run and whom it knew, in its state directory."""


class Inflictor:
    """Carries out blows on a fleet. ``kill(node, return_after_s, peers)`` ends a daemon, as ``Fleet.kill`` does."""

    def __init__(
        self, fleet: Fleet, *, kill: Callable[[str, float | None, Sequence[str]], None], first: str, first_address: str
    ) -> None:
        self._fleet = fleet
        self._kill = kill
        self._first = first
        self._first_address = first_address
        self._guard = Guard()
        self._hit: dict[str, list[psutil.Process]] = {}
        """Node -> processes that are frozen, or were killed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._guard.close()

    def victims(self, healthy: Sequence[str]) -> dict[Fault, list[str]]:
        """Whom of the healthy nodes each fault could hit now; faults that are not possible here hit nobody.

        The first node is spared for its own end.
        """
        places = self._fleet.places(Stage.RUNNING)
        others = [name for name in healthy if name != self._first]
        victims = dict.fromkeys((*_PARTS, Fault.KILL), others)
        victims[Fault.CUT_LINE] = victims[Fault.CUT_PAIR] = [n for n in others if places[n].room is not None]
        victims[Fault.FULL_DISK] = [name for name in others if places[name].disk is not None]
        victims[Fault.STRAND] = [] if self._first in places else [n for n in others if self._can_find_back(places[n])]
        victims[Fault.END_FIRST] = [self._first] if self._first in healthy else []
        return victims

    def begin(self, blow: Blow) -> None:
        """Strike. A node that has just ended by itself is none to strike; that is the fleet's to notice."""
        place = self._place(blow.node)
        match blow.fault:
            case Fault.KILL:
                self._kill(blow.node, 0.0, ())
            case Fault.STRAND:
                self._kill(blow.node, blow.seconds, (self._first_address,))
            case Fault.END_FIRST:
                self._kill(blow.node, None, ())
            case Fault.KILL_TRAINER | Fault.KILL_P2PD:
                self._hit[blow.node] = self._processes(blow)
                for process in self._hit[blow.node]:
                    with contextlib.suppress(psutil.Error):
                        process.kill()
            case Fault.CUT_LINE if place.room is not None:
                place.room.cut()
            case Fault.CUT_PAIR if place.room is not None and (other := self._place(blow.other).room) is not None:
                place.room.lose(other)
                other.lose(place.room)
            case Fault.FULL_DISK if place.disk is not None:
                place.disk.fill()
            case _:
                self._hit[blow.node] = self._processes(blow)
                self._guard.freeze(self._hit[blow.node])

    def end(self, blow: Blow) -> None:
        """Undo what lasts."""
        place = self._place(blow.node)
        with contextlib.suppress(OSError):
            match blow.fault:
                case Fault.CUT_LINE if place.room is not None:
                    place.room.mend()
                case Fault.CUT_PAIR if place.room is not None and (other := self._place(blow.other).room) is not None:
                    place.room.find(other)
                    other.find(place.room)
                case Fault.FULL_DISK if place.disk is not None:
                    place.disk.empty()
                case _:
                    self._guard.thaw(self._hit.get(blow.node, ()))

    def has_returned(self, blow: Blow) -> bool:
        """What was killed runs again, as other processes."""
        if blow.fault not in {Fault.KILL_TRAINER, Fault.KILL_P2PD}:
            return blow.node in self._fleet.places(Stage.RUNNING)
        dead = {process.pid for process in self._hit.get(blow.node, ())}
        return any(process.pid not in dead for process in self._processes(blow))

    def _can_find_back(self, place: NodePlace) -> bool:
        """It has been told the first node's address, which so tells it which run is meant, and has written down whom it knew then."""
        return self._fleet.was_told(place.name, self._first_address) and (place.directory / _MEMORY_FILE).is_file()

    def _processes(self, blow: Blow) -> list[psutil.Process]:
        node = self._fleet.process(blow.node)
        return [process for part in _PARTS.get(blow.fault, ()) for process in node.part(part)]

    def _place(self, name: str) -> NodePlace:
        return self._fleet.places(*Stage)[name]
