"""Chaos among scripted nodes: struck, followed back to health, and reported when they do not come back."""

from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from lowcomm_node.cli.swarm import conductor as conductor_module
from lowcomm_node.cli.swarm import nap as nap_module
from lowcomm_node.cli.swarm.chaos import Blow, Chaos, Fault
from lowcomm_node.cli.swarm.chaos_report import ChaosReport, make_chaos_report
from lowcomm_node.cli.swarm.conductor import Conductor
from lowcomm_node.cli.swarm.options import SwarmOptions
from tests.cli.scripted_swarm import TOTAL_STEPS, Stage

ENDLESS = 10**6
OPTIONS = SwarmOptions(nodes=4, steps=TOTAL_STEPS, chaos_every_s=1.0)


def _strike(monkeypatch: pytest.MonkeyPatch, *blows: Blow) -> None:
    """These, one after the other, as soon as all but the dead are healthy."""
    left = list(blows)

    def due(chaos: Chaos, *, healthy: Sequence[str], **rest: object) -> Blow | None:
        ended = any(blow.fault is Fault.END_FIRST for blow in blows) and len(left) < len(blows)
        return left.pop(0) if left and len(healthy) >= 4 - ended else None

    monkeypatch.setattr(Chaos, "due", due)


def _report(conductor: Conductor) -> ChaosReport:
    havoc = conductor.havoc
    assert havoc is not None
    return make_chaos_report(havoc.cases, hangs=havoc.hangs, halves=havoc.halves(60.0), skipped={}, is_complete=True)


def test_nodes_are_struck_and_come_back(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first dies for good and the others go on; a killed one returns; a frozen one wakes."""

    def all_are_back(conductor: Conductor) -> bool:
        havoc = conductor.havoc
        return havoc is not None and len(havoc.cases) == 3 and not havoc.coming()

    stage = Stage(directory, OPTIONS, total_steps=ENDLESS, stop_when=all_are_back)
    _strike(
        monkeypatch,
        Blow(fault=Fault.END_FIRST, node="n0"),
        Blow(fault=Fault.KILL, node="n1"),
        Blow(fault=Fault.FREEZE_DAEMON, node="n2", seconds=0.2),
    )

    conductor = stage.run()
    report = _report(conductor)

    assert report.broken == []
    assert report.injected == report.survived == {"kill node": 1, "freeze daemon": 1, "end first": 1}
    assert conductor.ending.live == ["n1", "n2", "n3"]
    assert stage.observer.ledger.count("killed") == 2
    assert [blow.lost_steps is None for blow in report.blows] == [False, False, True]


def test_a_node_sleeps_and_comes_back(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, with no other fault; in the report it stands with what followed."""
    monkeypatch.setattr(nap_module, "AWAKE_S", 0.0)

    def it_is_back(conductor: Conductor) -> bool:
        havoc = conductor.havoc
        return havoc is not None and len(havoc.cases) == 1 and not havoc.coming()

    stage = Stage(
        directory, SwarmOptions(nodes=3, steps=TOTAL_STEPS, sleep_s=1.0), total_steps=ENDLESS, stop_when=it_is_back
    )

    conductor = stage.run()
    report = _report(conductor)

    assert report.broken == []
    assert report.injected == report.survived == {"sleep": 1}
    assert [(blow.node, blow.lost_steps) for blow in report.blows] == [("n2", None)]
    assert conductor.ending.live == ["n0", "n1", "n2"]


def test_a_node_that_stays_away_breaks_the_promise(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, in bounds; then the report names node and fault, and does not judge the state it had before."""
    monkeypatch.setattr(conductor_module, "_ARRIVAL_PATIENCE_S", 0.5)
    monkeypatch.setattr(conductor_module, "_ARRIVAL_OVER_START", 0.0)
    monkeypatch.setattr(conductor_module, "_REST_S", 0.2)
    stage = Stage(directory, OPTIONS, {"n1": "mortal"})
    _strike(monkeypatch, Blow(fault=Fault.KILL, node="n1"))

    conductor = stage.run()
    report = _report(conductor)

    assert conductor.ending.live == ["n0", "n2", "n3"]
    assert report.broken[0].startswith("n1 (kill node at ")
    assert report.broken[0].endswith("did not take steps again")
    assert {hang.node for hang in report.hangs} <= {"n1"}


def test_a_node_that_comes_back_as_the_last_has_survived(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The incident: it came up with the state of a run that was over, the swarm ended at once, and the report called it lost."""
    stage = Stage(directory, OPTIONS, {"n1": "swift"})
    _strike(monkeypatch, Blow(fault=Fault.KILL, node="n1"))

    conductor = stage.run()
    report = _report(conductor)

    assert conductor.ending.reason == "finished"
    assert report.survived == report.injected == {"kill node": 1}
    assert report.broken == []


def test_a_node_that_takes_no_step_hangs(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though nothing disturbs it and it answers; each standstill is counted once."""
    monkeypatch.setattr(conductor_module, "_ARRIVAL_PATIENCE_S", 0.3)
    monkeypatch.setattr(conductor_module, "_ARRIVAL_OVER_START", 0.0)
    monkeypatch.setattr(conductor_module, "_REST_S", 1.0)
    stage = Stage(directory, OPTIONS, {"n3": "lame"})
    _strike(monkeypatch)

    report = _report(stage.run())

    assert [(hang.node, hang.state) for hang in report.hangs] == [("n3", "training")]
    assert "n3 took no step" in report.broken[0]


def test_an_interrupted_freeze_is_undone(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends the run, frozen processes go on first, and so leave in order."""
    frozen: list[str] = []

    def one_is_frozen(conductor: Conductor) -> bool:
        if psutil.Process(stage.fleet.process("n2").pid).status() == psutil.STATUS_STOPPED:
            frozen.append("n2")
        return bool(frozen)

    stage = Stage(directory, OPTIONS, total_steps=ENDLESS, stop_when=one_is_frozen)
    _strike(monkeypatch, Blow(fault=Fault.FREEZE_DAEMON, node="n2", seconds=600))

    ending = stage.run().ending

    assert frozen
    assert ending.live == ["n0", "n1", "n2", "n3"]
