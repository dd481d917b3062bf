"""Faults as effects on real processes, and the guard that wakes what a dead swarm has frozen."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

import lowcomm_node
from lowcomm_node.cli.swarm.chaos import Blow, Fault
from lowcomm_node.cli.swarm.fleet import Fleet, Stage
from lowcomm_node.cli.swarm.inflict import Inflictor
from lowcomm_node.cli.swarm.launch import NodePlace
from lowcomm_node.cli.swarm.ports import NodePorts
from lowcomm_node.cli.swarm.processes import Part
from lowcomm_node.cli.swarm.thaw import Guard

_PATIENCE_S = 20.0
_NODE = """
import subprocess, sys, time
sleep = "import sys; sys.stdin.read()"
trainer = subprocess.Popen([sys.executable, "-c", sleep, "lowcomm_node.train.process"], stdin=subprocess.PIPE)
p2pd = subprocess.Popen([sys.argv[1]], stdin=subprocess.PIPE)
time.sleep(600)
"""
"""A daemon with a child that looks like a trainer and one that looks like p2pd; both end with it."""


def _wait_until(condition: Callable[[], object], what: str) -> None:
    until_s = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s, what
        time.sleep(0.01)


class Harness:
    """A fleet of one such node, and what the inflictor asked to have killed."""

    def __init__(self, folder: Path) -> None:
        (folder / "n1").mkdir()
        p2pd = folder / "p2pd"
        p2pd.symlink_to("/bin/cat")  # reads until its parent is gone
        self.place = NodePlace(name="n1", ports=NodePorts(dht=1, grpc=2, metrics=3), directory=folder / "n1")
        self.fleet = Fleet(lambda place, peers: [sys.executable, "-c", _NODE, str(p2pd)])
        self.fleet.start(self.place, ["/ip4/first"])
        self.killed: list[tuple[str, float | None, Sequence[str]]] = []
        self.inflictor = Inflictor(
            self.fleet, kill=lambda *words: self.killed.append(words), first="n0", first_address="/ip4/first"
        )
        _wait_until(lambda: all(self.part(part) for part in Part), "the node's processes start")

    def part(self, part: Part) -> list[psutil.Process]:
        return self.fleet.process("n1").part(part)

    def frozen(self) -> set[Part]:
        """Parts that are stopped."""
        return {p for p in Part if all(process.status() == psutil.STATUS_STOPPED for process in self.part(p))}


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    monkeypatch.setenv("PYTHONPATH", str(Path(lowcomm_node.__file__).parents[1]))
    harness = Harness(tmp_path)
    try:
        with harness.inflictor:
            yield harness
    finally:
        harness.fleet.process("n1").kill_all()
        assert harness.fleet.process("n1").exit_code is not None


@pytest.mark.parametrize(
    ("fault", "parts"),
    [
        (Fault.FREEZE, set(Part)),
        (Fault.SLEEP, set(Part)),
        (Fault.FREEZE_DAEMON, {Part.DAEMON}),
        (Fault.FREEZE_TRAINER, {Part.TRAINER}),
        (Fault.FREEZE_P2PD, {Part.P2PD}),
    ],
)
def test_the_right_processes_freeze_and_go_on(harness: Harness, fault: Fault, parts: set[Part]) -> None:
    """SIGSTOP to those that the fault names and to no others, SIGCONT at its end."""
    blow = Blow(fault=fault, node="n1", seconds=5)

    harness.inflictor.begin(blow)
    _wait_until(lambda: harness.frozen() == parts, f"{parts} are stopped")
    harness.inflictor.end(blow)
    _wait_until(lambda: harness.frozen() == set(), "all go on")

    assert harness.inflictor.has_returned(blow)


def test_a_killed_trainer_is_back_when_there_is_another(harness: Harness) -> None:
    """The dead process does not count, and neither does a zombie."""
    blow = Blow(fault=Fault.KILL_TRAINER, node="n1")
    (trainer,) = harness.part(Part.TRAINER)

    harness.inflictor.begin(blow)
    _wait_until(lambda: harness.part(Part.TRAINER) == [], "the trainer is dead")

    assert not harness.inflictor.has_returned(blow)
    assert harness.part(Part.DAEMON)
    assert harness.part(Part.P2PD)
    assert trainer.pid not in [process.pid for process in harness.part(Part.TRAINER)]


def test_kills_of_whole_nodes_say_when_and_how_they_return(harness: Harness) -> None:
    """A stranded node comes back late and knows only the first node's address; the first does not come back."""
    for fault, seconds in ((Fault.KILL, 0.0), (Fault.STRAND, 14.0), (Fault.END_FIRST, 0.0)):
        harness.inflictor.begin(Blow(fault=fault, node="n1", seconds=seconds))

    assert harness.killed == [("n1", 0.0, ()), ("n1", 14.0, ("/ip4/first",)), ("n1", None, ())]


def test_victims_are_those_whom_a_fault_can_hit(harness: Harness) -> None:
    """No cut lines without networks, no full disks without disks, no stranding before a node has noted whom it knows."""
    victims = harness.inflictor.victims(["n1"])
    (harness.place.directory / "run.json").touch()

    assert victims[Fault.FREEZE] == victims[Fault.KILL_TRAINER] == victims[Fault.KILL] == ["n1"]
    assert victims[Fault.CUT_LINE] == victims[Fault.CUT_PAIR] == victims[Fault.FULL_DISK] == []
    assert victims[Fault.STRAND] == victims[Fault.END_FIRST] == []
    assert [fault for fault, names in harness.inflictor.victims(["n0"]).items() if names] == [Fault.END_FIRST]
    assert harness.inflictor.victims(["n1"])[Fault.STRAND] == ["n1"]
    # Who joined when the first node was gone has never had its address, and could not be told by it which run is meant.
    late = dataclasses.replace(harness.place, name="n2")
    harness.fleet.start(late, ["/ip4/other"])
    try:
        assert harness.inflictor.victims(["n1", "n2"])[Fault.STRAND] == ["n1"]
    finally:
        harness.fleet.process("n2").kill_all()
        assert harness.fleet.process("n2").exit_code is not None
    assert "n1" in harness.fleet.places(Stage.RUNNING)


def test_a_frozen_process_goes_on_when_the_guard_is_closed() -> None:
    """An end in order wakes all, whatever was forgotten."""
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as sleeper:
        process = psutil.Process(sleeper.pid)
        guard = Guard()
        guard.freeze([process])
        _wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "it is stopped")
        guard.close()
        _wait_until(lambda: process.status() != psutil.STATUS_STOPPED, "it goes on")
        sleeper.communicate()


def test_a_killed_swarm_leaves_nothing_frozen() -> None:
    """kill -9 of who froze: the guard notices, wakes the victim, and ends."""
    script = """
    import signal, subprocess, sys, psutil
    from lowcomm_node.cli.swarm.thaw import Guard
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    guard = Guard()
    guard.freeze([psutil.Process(sleeper.pid)])
    print(sleeper.pid, guard.pid, flush=True)
    signal.pause()
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True) as swarm:
        assert swarm.stdout is not None
        sleeper, guard = (psutil.Process(int(pid)) for pid in swarm.stdout.readline().split())
        try:
            _wait_until(lambda: sleeper.status() == psutil.STATUS_STOPPED, "it is stopped")
            os.kill(swarm.pid, signal.SIGKILL)
            _wait_until(lambda: sleeper.status() != psutil.STATUS_STOPPED, "it goes on")
            _wait_until(lambda: not guard.is_running() or guard.status() == psutil.STATUS_ZOMBIE, "the guard ends")
        finally:
            with contextlib.suppress(psutil.Error):
                sleeper.kill()
