"""The flight recorder of real nodes: two that meet and are asked for their dumps, one whose core has a bug."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lowcomm_node.core.commands import ReportMeeting
from lowcomm_node.core.events import Ticked
from lowcomm_node.telemetry.flight.dump import read_dump
from lowcomm_node.telemetry.flight.replay import CommandsDiffer, replay
from tests.system.real_nodes import TINY_MANIFEST, RealNode

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


_BROKEN_NODE = Path(__file__).with_name("broken_node.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest and a little text."""
    folder = tmp_path_factory.mktemp("f")
    (folder / "run.toml").write_text(TINY_MANIFEST)
    (folder / "text").mkdir()
    for index in range(20):
        (folder / "text" / f"{index}.txt").write_text(f"the quick brown fox {index} jumps over the lazy dog\n" * 60)
    return folder


@pytest.fixture(scope="module")
def pair(folder: Path) -> Iterator[tuple[RealNode, RealNode]]:
    """Two nodes that have met a few times."""
    text = folder / "text"
    nodes = [RealNode(folder / "a", "--manifest", str(folder / "run.toml"), text=text)]
    try:
        status = nodes[0].wait_for(lambda s: s["state"] == "training", 90, "the first node trains")
        nodes.append(RealNode(folder / "b", "--peers", status["join_address"], text=text))
        for node in reversed(nodes):
            node.wait_for(lambda s: s["meetings"]["completed"] >= 4, 90, "the nodes meet")
        yield nodes[0], nodes[1]
    finally:
        for node in nodes:
            node.clean_up()


def test_a_dump_of_a_running_node_replays(pair: tuple[RealNode, RealNode], tmp_path: Path) -> None:
    """From the command line alone: dump, replay, all equal; and nobody is named in the file."""
    for index, node in enumerate(pair):
        out = tmp_path / f"{index}.json"
        done = node.cli("debug", "dump", "--out", str(out))
        assert done.returncode == 0, done.stderr
        again = subprocess.run(
            [sys.executable, "-m", "lowcomm_node", "replay", str(out)], capture_output=True, text=True, check=False
        )
        assert again.returncode == 0, again.stdout + again.stderr
        assert re.search(r"\d+ events over .*, \d+ commands: all equal\.", again.stdout)
        text = out.read_text()
        for other in pair:
            assert other.status()["peer_id"] not in text
            assert str(other.state_dir) not in text
        recording = read_dump(out).recording
        assert recording is not None
        assert any(isinstance(c, ReportMeeting) for entry in recording.entries for c in entry.commands)
        assert node.process.poll() is None


def test_a_bug_in_the_core_leaves_a_dump(folder: Path) -> None:
    """The node ends; its last words name a dump whose last event is the one that brought it down."""
    node = RealNode(
        folder / "c", "--manifest", str(folder / "run.toml"), text=folder / "text", program=(str(_BROKEN_NODE),)
    )
    try:
        node.family()
        assert node.process.wait(120) == 1, node.tail()
        (path,) = node.state_dir.glob("crash-*.json")
        assert f"What led to this is in {path}" in node.tail()
        dump = read_dump(path)
        assert dump.recording is not None
        assert (dump.recording.entries[-1].event, dump.recording.entries[-1].raised) == (Ticked(), "KeyError")
        sound = replay(dump.recording)
        assert isinstance(sound.difference, CommandsDiffer)
        assert sound.difference.entry is dump.recording.entries[-1]
        assert node.survivors() == []
    finally:
        node.clean_up()
