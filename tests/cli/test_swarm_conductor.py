"""A swarm of scripted nodes: real processes, ports and sockets, but nodes that start in a blink."""

import dataclasses
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from lowcomm_node.cli.swarm import fleet as fleet_module
from lowcomm_node.cli.swarm.conductor import Conductor, SwarmError
from lowcomm_node.cli.swarm.fleet import IncidentKind
from lowcomm_node.cli.swarm.options import SwarmOptions
from lowcomm_node.cli.swarm.picture import Picture
from lowcomm_node.cli.swarm.timeline import Due
from tests.cli.scripted_swarm import TOTAL_STEPS, Impatient, Stage


def test_a_swarm_runs_until_its_nodes_have_finished(directory: Path) -> None:
    """The first node starts the run, the others join at its address, all leave in order with a state."""
    stage = Stage(directory, SwarmOptions(nodes=3, steps=TOTAL_STEPS))

    ending = stage.run().ending

    assert ending.reason == "finished"
    assert ending.live == ["n0", "n1", "n2"]
    assert ending.incidents == []
    assert stage.peers["n0"] == [[]]
    assert stage.peers["n1"] == stage.peers["n2"] == [["/ip4/first"]]
    ledger = stage.observer.ledger
    assert ledger.steps == 3 * TOTAL_STEPS
    assert ledger.bytes_sent == {"params": {"ab": 3 * TOTAL_STEPS}}
    assert stage.observer.memory_peak_bytes > 1 << 20
    assert stage.view.pictures[-1].spread > 0
    assert stage.view.pictures[-1].share_done == 1.0
    assert {row.state for row in stage.view.pictures[-1].nodes} == {"finished"}


def test_a_killed_node_comes_back_and_a_late_one_joins(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The killed life's counters stay, its children and socket go, its replacement asks living nodes only."""
    stage = Stage(directory, SwarmOptions(nodes=3, steps=TOTAL_STEPS, kill_every_s=5.0, join_late=1))
    dues = [Due(victim="n1"), Due(joiners=1)]

    def due(timeline: object, *, candidates: Sequence[str], **rest: object) -> Due:
        # The kill not before both train: what is asserted of the replacement's peers takes them all alive. The late node
        # at once after it: a swarm of scripted nodes has soon finished, and ends when nobody is on the way.
        return dues.pop(0) if len(dues) == 1 or (dues and {"n1", "n2"} <= set(candidates)) else Due()

    monkeypatch.setattr("lowcomm_node.cli.swarm.timeline.Timeline.due", due)

    ending = stage.run().ending

    ledger = stage.observer.ledger
    assert ending.reason == "finished"
    assert ending.live == ["n0", "n1", "n2", "n3"]
    assert ending.joined_late == 1
    assert ending.incidents == []
    assert ledger.count("killed") == 1
    assert [life.ending for life in ledger.lives if life.node == "n1"] == ["killed", "left"]
    assert ledger.lives[1].bytes_sent > 0
    living = [f"/ip4/127.0.0.1/{stage.places[index].ports.metrics}" for index in (0, 2)]
    assert stage.peers["n1"][1] == living
    assert stage.peers["n3"][0][0] == living[0]
    assert stage.observer.history.marks[0].kind == "killed"
    assert sorted(mark.kind for mark in stage.observer.history.marks) == ["joined late", "killed", "returned"]


def test_orphans_of_a_killed_node_are_reported_and_removed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that outlives its killed daemon is an error of the node, which the swarm clears away."""
    monkeypatch.setattr(fleet_module, "_ORPHAN_PATIENCE_S", 0.3)
    stage = Stage(directory, SwarmOptions(nodes=2, steps=TOTAL_STEPS, kill_every_s=5.0), {"n1": "stubborn"})
    dues = iter([Due(victim="n1")])
    monkeypatch.setattr(
        "lowcomm_node.cli.swarm.timeline.Timeline.due",
        lambda timeline, *, candidates, **rest: next(dues, Due()) if candidates else Due(),
    )
    monkeypatch.setattr("lowcomm_node.cli.swarm.conductor._STOP_PATIENCE_S", 0.5)

    ending = stage.run().ending

    kinds = [(incident.kind, incident.node) for incident in ending.incidents]
    assert (IncidentKind.LEFTOVER, "n1") in kinds
    assert (IncidentKind.FORCED, "n1") in kinds  # it ignores SIGTERM too
    assert ending.live == ["n0"]


def test_a_node_that_ends_unasked_is_shown_and_the_swarm_goes_on(directory: Path) -> None:
    """Exit code and last words are kept; the others finish."""
    stage = Stage(directory, SwarmOptions(nodes=2, steps=TOTAL_STEPS), {"n1": "broken"})

    ending = stage.run().ending

    assert ending.reason == "finished"
    assert ending.live == ["n0"]
    assert [(i.kind, i.node, i.exit_code, i.log) for i in ending.incidents] == [
        (IncidentKind.DIED, "n1", 3, ("this is why",))
    ]
    assert any("exit code 3" in line and "this is why" in line for line in stage.view.said)


def test_a_first_node_that_cannot_start_ends_it_with_its_log(directory: Path) -> None:
    """There is nothing to join: one error that says why."""
    stage = Stage(directory, SwarmOptions(nodes=2, steps=TOTAL_STEPS), {"n0": "broken"})

    with pytest.raises(SwarmError, match="the first node ended; the end of its log:\n  this is why"):
        stage.run()


def test_ctrl_c_ends_all_nodes_in_order(directory: Path) -> None:
    """After the signal every node leaves in order, and what was seen until then can be reported."""
    stage = Stage(directory, SwarmOptions(nodes=3, minutes=100))
    sent: list[int] = []

    def press_once(picture: Picture) -> None:
        # Once only: a second Ctrl+C means that the nodes shall not leave in order.
        if not sent and len(picture.nodes) == 3 and all(node.steps for node in picture.nodes):
            sent.append(signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    stage.view.on_picture = press_once

    conductor = stage.run()

    assert conductor.ending.reason == "interrupted"
    assert conductor.ending.live == ["n0", "n1", "n2"]
    assert stage.observer.ledger.steps > 0


def test_a_signal_before_the_start_starts_nothing(directory: Path) -> None:
    """Ctrl+C while the computer is measured."""
    stage = Stage(directory, SwarmOptions(nodes=3))
    with Impatient() as interrupts, stage.watcher:
        os.kill(os.getpid(), signal.SIGTERM)
        conductor = Conductor(
            stage.options,
            places=stage.places,
            fleet=stage.fleet,
            observer=stage.observer,
            view=stage.view,
            interrupts=interrupts,
            first_address="/ip4/first",
            seed=0,
        )
        conductor.run()

    assert conductor.ending.reason == "interrupted"
    assert interrupts.exit_code == 143
    assert stage.peers == {}


def test_the_time_ends_a_swarm(directory: Path) -> None:
    """Nodes that have not finished by then leave all the same."""
    stage = Stage(directory, SwarmOptions(nodes=1, minutes=0.1))
    stage.options = dataclasses.replace(stage.options, minutes=1e-9)

    assert stage.run().ending.reason == "time"


def test_a_swarm_whose_time_is_up_waits_for_nodes_on_their_way(directory: Path) -> None:
    """A slow computer's nodes all train and count, however short the time; what is waited for is said."""
    stage = Stage(directory, SwarmOptions(nodes=2, minutes=1e-9), {"n1": "slow"})

    ending = stage.run().ending

    assert ending.reason == "time"
    assert "time is up; waiting for n1 to come up" in stage.view.said
    assert stage.observer.ledger.current("n1").has_trained
    assert ending.live == ["n0", "n1"]


def test_the_wait_for_nodes_on_their_way_is_bounded(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that never comes up does not keep the others."""
    monkeypatch.setattr("lowcomm_node.cli.swarm.conductor._ARRIVAL_PATIENCE_S", 0.0)
    monkeypatch.setattr("lowcomm_node.cli.swarm.conductor._ARRIVAL_OVER_START", 0.0)
    stage = Stage(directory, SwarmOptions(nodes=2, minutes=1e-9), {"n1": "slow"})

    assert stage.run().ending.reason == "time"
    assert not stage.observer.ledger.current("n1").has_trained


def test_a_progress_ends_a_swarm(directory: Path) -> None:
    """A calm run is compared at the progress that the troubled one had."""
    stage = Stage(directory, SwarmOptions(nodes=1, steps=TOTAL_STEPS), until_progress_steps=50)

    ending = stage.run().ending

    assert ending.reason == "progress"
    assert 50 <= ending.progress_steps < TOTAL_STEPS
    assert ending.live == ["n0"]
