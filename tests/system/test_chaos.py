"""``lowcomm-node swarm --chaos`` with real nodes: kills, frozen processes, cut lines, full disks; the promises are kept."""

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.system.real_swarm import new_place, start_swarm

PATIENCE_S = 480
"""A minute of training, the start before it, and on a busy computer as much again and more for those who are away."""
WAIT_SHARE = 0.05
"""Of the run, by all nodes together; training that waited for meetings would wait for longer than the run lasts."""

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.timeout(PATIENCE_S + 60)]


@pytest.fixture
def place() -> Iterator[Path]:
    with new_place() as folder:
        yield folder


def test_a_swarm_keeps_its_promises_under_chaos(place: Path) -> None:
    """Four nodes, the first of which dies for good, a fifth that joins after that, and a fault every few seconds.

    Nothing half that no kill explains, nothing that hangs, nothing left behind; every victim takes steps and meets again.
    """
    interfaces = set(psutil.net_if_addrs())
    swarm = start_swarm(place, ["--nodes", "4", "--minutes", "1", "--chaos", "4", "--join-late", "1", "--seed", "2"])
    try:
        output, _ = swarm.communicate(timeout=PATIENCE_S)
    finally:
        swarm.kill()
        swarm.wait()

    assert swarm.returncode == 0, output
    report = json.loads((place / "report.json").read_text())
    chaos = report["chaos"]
    assert report["ended_by"] == "time", output
    assert chaos["broken"] == [], output
    assert chaos["hangs"] == [], output
    assert [half for half in chaos["halves"] if not half["explanation"]] == [], output
    assert chaos["injected"]["end first"] == 1, output
    assert sum(chaos["injected"].values()) >= 2, output
    assert chaos["survived"] == chaos["injected"], output
    assert all(blow["lost_steps"] is None or blow["lost_steps"] >= 0 for blow in chaos["blows"])
    assert report["died"] == 0, output
    assert report["leftovers"] == [], output
    assert report["joined_late"] == 1, output
    assert report["nodes_live"] == 4, output
    assert report["blocked_seconds"]["meeting"] < WAIT_SHARE * report["seconds"], output
    assert all(
        node["val_loss_end"] < report["val_loss_start"] for node in report["per_node"].values() if node["is_live"]
    )
    # The report tells of the whole swarm, whatever became of its nodes.
    assert report["meetings_completed"] > 0, output
    assert report["val_loss_consensus"] < report["val_loss_start"], output
    assert 0 < report["bytes_sent"]["params"]["sparse"] < report["ddp_bytes_equivalent"], output
    assert report["spread_end"] > 0, output
    assert set(report["tokens_per_second"]) == {f"n{index}" for index in range(5)}
    assert 0 < report["memory_peak_bytes"] < 8 << 30
    assert (place / "plot.png").read_bytes().startswith(b"\x89PNG")
    # The sandbox, where there was one, went with the swarm.
    assert set(psutil.net_if_addrs()) == interfaces
    assert str(place) not in Path("/proc/self/mounts").read_text()
    assert set(chaos["skipped"]) <= {"cut line", "cut pair", "full disk"}
    print("skipped:", chaos["skipped"] or "nothing")
