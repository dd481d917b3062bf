"""The simulator and the plan against a real loopback swarm: each kind of meeting weighs the same, to the byte.

How long meetings take is compared by the same command, and is no matter for a test: the machine may be busy. That real trainers
tell how long they work for each request, which that comparison lives on, is one.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.real_swarm import REPOSITORY, new_place, start_swarm

PATIENCE_S = 300
MOST_ERROR = 0.02

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(2 * PATIENCE_S + 60)]


@pytest.fixture
def place() -> Iterator[Path]:
    with new_place() as folder:
        yield folder


def test_a_simulated_meeting_weighs_what_a_real_one_does(place: Path) -> None:
    """Same manifest, same plans: from the recordings of five real nodes, and from the simulator that is told of their machine.

    And what ``plan`` says of the meetings that there were is what the nodes have counted on the wire, within 2 %.
    """
    recordings, out = place / "recordings", place / "comparison.json"
    swarm = start_swarm(place, ["--nodes", "5", "--minutes", "0.5", "--recordings", str(recordings)])
    try:
        output, _ = swarm.communicate(timeout=PATIENCE_S)
    finally:
        swarm.kill()
        swarm.wait()
    assert swarm.returncode == 0, output
    planned = subprocess.run(
        [sys.executable, "-m", "lowcomm_node", "plan", "--against", str(recordings), "--json"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert planned.returncode == 0, planned.stdout + planned.stderr
    checked = json.loads(planned.stdout)
    assert checked["nodes"] == 5, planned.stdout
    for direction in ("sent", "received"):
        assert checked[direction]["counted"] > 0, planned.stdout
        assert abs(checked[direction]["error"]) < MOST_ERROR, planned.stdout
        assert checked[direction]["completed"] > checked[direction]["in_vain"], planned.stdout
    words = ["--against", str(recordings), "--data", str(place / "text"), "--minutes", "0.25", "--json", str(out)]
    simulated = subprocess.run(
        [sys.executable, "-m", "lowcomm_node", "simulate", *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert simulated.returncode == 0, simulated.stdout + simulated.stderr
    assert "times as long as a real one" in simulated.stdout
    comparison = json.loads(out.read_text())["comparison"]
    assert comparison["has_equal_bytes"], simulated.stdout
    sides = {kind["kind"]: (kind["real"], kind["simulated"]) for kind in comparison["kinds"]}
    real, virtual = sides["params/sparse/int4"]
    assert real["meetings"] >= 8, simulated.stdout
    assert real["payload_bytes"] == virtual["payload_bytes"], simulated.stdout
    works = comparison["machine"]["works_s"]
    assert {work["request"] for work in works} == {"offer", "answer", "close", "apply", "settle"}, works
    assert all(work["mean_s"] > 0 for work in works), works
