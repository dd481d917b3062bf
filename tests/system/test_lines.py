"""Real nodes at the ends of slow, long, lossy lines, two of them behind routers that let nobody in."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lowcomm_node.cli.swarm.lines import parse_line
from lowcomm_node.cli.swarm.shaping import ShapingError, shaped_rooms
from tests.system.real_swarm import new_place, start_swarm

PATIENCE_S = 200

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.timeout(PATIENCE_S + 60)]


@pytest.fixture
def place() -> Iterator[Path]:
    try:
        with shaped_rooms([parse_line("1mbit")], seed=0):
            pass
    except ShapingError as error:
        pytest.skip(f"no shaped networks here: {error}")
    with new_place() as folder:
        yield folder


def test_a_swarm_meets_across_lines_and_routers(place: Path) -> None:
    """One node that can be dialled, two that cannot: all train and meet; no meeting is half; packets were lost, and nothing else was."""
    swarm = start_swarm(
        place, ["--nodes", "3", "--line", "20mbit,100ms,1%", "--behind-nat", "2", "--seed", "1", "--minutes", "0.2"]
    )
    try:
        output, _ = swarm.communicate(timeout=PATIENCE_S)
    finally:
        swarm.kill()
        swarm.wait()

    assert swarm.returncode == 0, output
    report = json.loads((place / "report.json").read_text())
    assert report["nodes_live"] == 3, output
    assert report["died"] == 0, output
    assert report["leftovers"] == [], output
    assert report["meetings_half"] == 0, output
    lines = report["line"]
    assert lines["behind_nat"] == ["n1", "n2"], output
    assert lines["meetings"] > 0, output
    assert lines["with_nat"] == lines["meetings"], output
    assert lines["packets_lost"] > 0, output
    assert lines["reachability"]["n0"] == "public", output
