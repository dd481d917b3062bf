"""A swarm of scripted nodes under a real conductor: real processes, ports and sockets, but nodes that start in a blink."""

import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from lowcomm_node.cli.swarm.attendance import Attendance
from lowcomm_node.cli.swarm.conductor import Conductor
from lowcomm_node.cli.swarm.fleet import Fleet
from lowcomm_node.cli.swarm.interrupts import Interrupts
from lowcomm_node.cli.swarm.launch import NodePlace
from lowcomm_node.cli.swarm.observe import Observer
from lowcomm_node.cli.swarm.options import SwarmOptions
from lowcomm_node.cli.swarm.picture import Picture
from lowcomm_node.cli.swarm.ports import choose_ports
from lowcomm_node.cli.swarm.watch import Watcher
from tests.cli.swarm_fakes import SCRIPTED_NODE

__all__ = ["TOTAL_STEPS", "Impatient", "Notebook", "Stage"]

TOTAL_STEPS = 200


class Impatient(Interrupts):
    """Waits a hundredth of the time: scripted nodes train as often as they are looked at."""

    def wait(self, seconds: float) -> None:
        super().wait(seconds / 100)


class Notebook:
    """A view that remembers; ``on_picture`` may act on what it sees."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.pictures: list[Picture] = []
        self.on_picture: Callable[[Picture], None] = lambda picture: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *arguments: object) -> None:
        pass

    def say(self, text: str) -> None:
        self.said.append(text)

    def show(self, picture: Picture) -> None:
        self.pictures.append(picture)
        self.on_picture(picture)

    def work(self, what: str, share_done: float) -> None:
        pass


class Stage:
    """A conductor with scripted nodes; ``characters`` says by node name what it is like (orderly).

    ``stop_when`` is asked at each look; once it says so, Ctrl+C is pressed.
    """

    def __init__(
        self,
        directory: Path,
        options: SwarmOptions,
        characters: dict[str, str] | None = None,
        *,
        total_steps: int = TOTAL_STEPS,
        stop_when: Callable[[Conductor], bool] | None = None,
        until_progress_steps: float = math.inf,
        attendance: Attendance | None = None,
    ) -> None:
        self.view = Notebook()
        self.options = options
        self.peers: dict[str, list[list[str]]] = {}
        self._characters = characters or {}
        self._total_steps = total_steps
        self._stop_when = stop_when
        self._until_progress_steps = until_progress_steps
        self._attendance = attendance
        self._has_pressed = False
        places = []
        for index, ports in enumerate(choose_ports(options.members_max, None)):
            (directory / f"n{index}").mkdir()
            places.append(NodePlace(name=f"n{index}", ports=ports, directory=directory / f"n{index}"))
        self.places = places
        self.fleet = Fleet(self._command)
        self.watcher = Watcher()
        self.observer = Observer(self.fleet, self.watcher, nodes=options.nodes)

    def run(self) -> Conductor:
        with Impatient() as interrupts, self.watcher:
            conductor = Conductor(
                self.options,
                places=self.places,
                fleet=self.fleet,
                observer=self.observer,
                view=self.view,
                interrupts=interrupts,
                first_address="/ip4/first",
                seed=3,
                until_progress_steps=self._until_progress_steps,
                attendance=self._attendance,
            )
            if self._stop_when is not None:
                self.view.on_picture = lambda picture: self._press_once(conductor)
            conductor.run()
        return conductor

    def _press_once(self, conductor: Conductor) -> None:
        # Once only: a second Ctrl+C means that the nodes shall not leave in order.
        if not self._has_pressed and self._stop_when is not None and self._stop_when(conductor):
            self._has_pressed = True
            os.kill(os.getpid(), signal.SIGINT)

    def _command(self, place: NodePlace, peers: Sequence[str]) -> list[str]:
        self.peers.setdefault(place.name, []).append(list(peers))
        character = self._characters.get(place.name, "orderly")
        what = [
            str(place.ports.metrics),
            str(place.final_state),
            str(self._total_steps),
            str(place.directory / "s"),
            character,
        ]
        return [sys.executable, str(SCRIPTED_NODE), *what]
