"""``lowcomm-node swarm`` with real nodes: kills, a comparison, interruptions, and nothing left behind. More trouble is in test_chaos.py."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.system.real_swarm import all_end, family_of, new_place, read_until, start_swarm

PATIENCE_S = 240
WAIT_SHARE = 0.05
"""Of the run, by all nodes together. Each of them is in a meeting for a good part of it, so training that waited for meetings
would wait for longer than the run lasts. What shows up is the interpreter's lock, held by a thread that an overloaded machine has put aside.
"""

pytestmark = [pytest.mark.system, pytest.mark.timeout(PATIENCE_S + 60)]


@pytest.fixture
def place() -> Iterator[Path]:
    with new_place() as folder:
        yield folder


@pytest.mark.alone
def test_a_swarm_survives_a_kill_and_a_late_join(place: Path) -> None:
    """Three nodes, one of them killed once and coming back, a fourth that joins late: all four end alive."""
    swarm = start_swarm(
        place, ["--nodes", "3", "--minutes", "0.4", "--kill-every", "12", "--join-late", "1", "--seed", "1"]
    )
    try:
        output, _ = swarm.communicate(timeout=PATIENCE_S)
    finally:
        swarm.kill()
        swarm.wait()

    assert swarm.returncode == 0, output
    report = json.loads((place / "report.json").read_text())
    assert report["ended_by"] in {"time", "finished"}, output
    assert report["killed"] == 1, output
    assert report["joined_late"] == 1, output
    assert report["died"] == 0, output
    assert report["leftovers"] == [], output
    assert report["nodes_live"] == 4, output
    assert report["meetings_completed"] > 0, output
    assert report["meetings_half"] <= report["killed"], output
    assert report["blocked_seconds"]["meeting"] < WAIT_SHARE * report["seconds"], output
    assert report["val_loss_end"] < report["val_loss_start"], output
    assert report["val_loss_consensus"] < report["val_loss_start"], output
    assert 0 < report["bytes_sent"]["params"]["sparse"] < report["ddp_bytes_equivalent"], output
    assert report["spread_end"] > 0, output
    assert set(report["tokens_per_second"]) == {"n0", "n1", "n2", "n3"}
    assert 0 < report["memory_peak_bytes"] < 6 << 30
    assert (place / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_comparison_trains_the_same_nodes_alone(place: Path) -> None:
    """A run by steps ends when they are done; the doubles get the same steps and their own loss."""
    swarm = start_swarm(place, ["--nodes", "2", "--steps", "60", "--compare", "local"])
    try:
        output, _ = swarm.communicate(timeout=PATIENCE_S)
    finally:
        swarm.kill()
        swarm.wait()

    assert swarm.returncode == 0, output
    report = json.loads((place / "report.json").read_text())
    assert report["ended_by"] == "finished", output
    assert report["total_steps"] == 60
    assert report["val_loss_local_only"] < report["val_loss_start"], output
    alone = [node["val_loss_local_only"] for node in report["per_node"].values()]
    assert report["val_loss_local_only"] == pytest.approx(sum(alone) / 2)


def test_ctrl_c_half_way_leaves_nothing(place: Path) -> None:
    """Status 130, a report of what was until then, and no process of the swarm lives on."""
    swarm = start_swarm(place, ["--nodes", "3", "--minutes", "10"])
    try:
        read_until(swarm, r"n2 training [1-9]")
        family = family_of(swarm)
        swarm.send_signal(signal.SIGINT)
        output, _ = swarm.communicate(timeout=PATIENCE_S)
    finally:
        swarm.kill()
        swarm.wait()

    assert swarm.returncode == 130, output
    assert len(family) > 6  # daemon, trainer and p2pd of each
    assert all_end(family), [p.cmdline() for p in family if p.is_running()]
    report = json.loads((place / "report.json").read_text())
    assert report["ended_by"] == "interrupted"
    assert report["nodes_live"] == 3, output
    assert report["steps_total"] > 0
    assert report["leftovers"] == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_killed_swarm_takes_its_nodes_along(place: Path) -> None:
    """kill -9 of the command itself: the nodes notice and end."""
    swarm = start_swarm(place, ["--nodes", "2", "--minutes", "10"])
    family: list[psutil.Process] = []
    try:
        read_until(swarm, r"n1 training [1-9]")
        family = family_of(swarm)
        os.kill(swarm.pid, signal.SIGKILL)
        swarm.wait(timeout=10)

        assert all_end(family), [p.cmdline() for p in family if p.is_running()]
    finally:
        swarm.kill()
        swarm.communicate()
        for process in family:
            if process.is_running():
                process.kill()
        for path in place.rglob("*"):  # who had to leave at once cleans up when it is started again
            if path.is_socket():
                path.unlink()
