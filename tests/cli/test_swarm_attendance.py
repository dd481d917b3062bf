"""The absences that an undisturbed swarm has in order where another had faults."""

from dataclasses import replace
from pathlib import Path

from lowcomm_node.cli.swarm.attendance import Absence, Attendance, absences
from lowcomm_node.cli.swarm.chaos import Fault
from lowcomm_node.cli.swarm.chaos_report import BlowReport
from lowcomm_node.cli.swarm.options import SwarmOptions
from tests.cli.scripted_swarm import TOTAL_STEPS, Stage

KILL = BlowReport(
    fault=Fault.KILL,
    node="n1",
    other="",
    at_s=20.0,
    lasted_s=1.0,
    steps_after_s=12.0,
    meets_after_s=14.0,
    trained_through=None,
    lost_steps=3,
    came_back_with="donor",
    has_survived=True,
)
SLEEP = replace(KILL, fault=Fault.SLEEP, node="n2", at_s=30.0, lasted_s=18.0, steps_after_s=1.0)


def test_who_was_away_is_back_at_the_same_time() -> None:
    """A start takes what it took the killed one, twelve seconds; who slept 19 s in all is started seven after it has left."""
    assert absences([SLEEP, KILL]) == [
        Absence(node="n1", from_s=20.0, return_after_s=1.0),
        Absence(node="n2", from_s=30.0, return_after_s=7.0),
    ]


def test_only_absences_that_can_be_had_in_order() -> None:
    """Not those shorter than a start, of nodes that were there all the time, or that nobody came back from in time."""
    blows = [
        KILL,
        replace(SLEEP, fault=Fault.FREEZE, lasted_s=4.0),
        replace(SLEEP, fault=Fault.CUT_LINE, lasted_s=15.0),
        *(
            replace(SLEEP, fault=fault)
            for fault in (Fault.FULL_DISK, Fault.CUT_PAIR, Fault.KILL_P2PD, Fault.FREEZE_P2PD)
        ),
        replace(SLEEP, lasted_s=None),
        replace(SLEEP, steps_after_s=None),
    ]

    assert [(absence.node, absence.return_after_s) for absence in absences(blows)] == [("n1", 1.0), ("n2", 4.0)]


def test_who_ended_for_good_does_not_come_back() -> None:
    """The run's first node, of which a witness's signs of life are told."""
    assert absences([replace(KILL, fault=Fault.END_FIRST, node="n0")]) == [
        Absence(node="n0", from_s=20.0, return_after_s=None)
    ]


def test_each_leaves_once_and_only_who_is_there() -> None:
    """A second absence waits until its node is back from the first."""
    first, second = (
        Absence(node="n1", from_s=5.0, return_after_s=1.0),
        Absence(node="n1", from_s=6.0, return_after_s=None),
    )
    attendance = Attendance([first, second])

    assert attendance.due(elapsed_s=4.9, training=["n1"]) == []
    assert attendance.due(elapsed_s=7.0, training=["n0"]) == []
    assert attendance.due(elapsed_s=8.0, training=["n0", "n1"]) == [first]
    assert attendance.due(elapsed_s=9.0, training=["n0", "n1"]) == [second]
    assert attendance.due(elapsed_s=10.0, training=["n0", "n1"]) == []


def test_a_swarm_has_them_in_order(directory: Path) -> None:
    """One leaves for good with its state saved, one comes back through whoever is there; neither is a death."""
    leave = [Absence(node="n0", from_s=0.0, return_after_s=None), Absence(node="n1", from_s=0.0, return_after_s=0.0)]
    stage = Stage(directory, SwarmOptions(nodes=3, steps=TOTAL_STEPS), attendance=Attendance(leave))

    ending = stage.run().ending

    ledger = stage.observer.ledger
    assert ending.reason == "finished"
    assert ending.live == ["n1", "n2"]
    assert ending.incidents == []
    assert [(life.node, life.ending) for life in ledger.lives] == [
        ("n0", "left"),
        ("n1", "left"),
        ("n2", "left"),
        ("n1", "left"),
    ]
    assert stage.places[0].final_state.is_file()
    assert sorted(mark.kind for mark in stage.observer.history.marks) == ["left", "left", "returned"]
