"""The owner first: a real node gives the machine back when it is told to, loses nothing, and goes on by itself."""

from pathlib import Path

import psutil
import pytest

from tests.system.real_nodes import TINY_MANIFEST, RealNode, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

_PATIENCE_S = 100.0
"""On a machine that does much else; each of these takes a few seconds on one that does not."""


def trainers_of(node: RealNode) -> list[psutil.Process]:
    children = psutil.Process(node.process.pid).children(recursive=True)
    return [child for child in children if "lowcomm_node.train.process" in child.cmdline()]


def test_a_node_pauses_loses_nothing_and_meets_again(tmp_path: Path) -> None:
    """Its trainer is gone and its state on disk, also over a restart; then it trains on from there, and counts on from there."""
    (tmp_path / "run.toml").write_text(TINY_MANIFEST)
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 2000)
    first = RealNode(tmp_path / "first", "--manifest", str(tmp_path / "run.toml"), text=text)
    node = again = None
    try:
        first.wait_for(lambda s: s["state"] == "training", _PATIENCE_S, "the first node trains")
        peers = ("--peers", first.status()["join_address"])
        node = RealNode(tmp_path / "node", *peers, text=text)
        node.wait_for(lambda s: s["meetings"]["completed"] >= 1, _PATIENCE_S, "it meets")

        asked = node.cli("pause")
        assert asked.returncode == 0, asked.stderr
        assert "its trainer has ended" in asked.stdout
        paused = node.status()
        assert (paused["state"], paused["pause"]["reasons"]) == ("paused", ["command"])
        assert trainers_of(node) == []
        assert len(list((node.state_dir / "checkpoints").iterdir())) >= 1
        assert node.get(f"http://{paused['http_address']}/livez") == "ok\n"
        wait_until(lambda: first.status()["training"]["steps"] > 0, _PATIENCE_S, "the others train")
        assert node.status()["training"]["tokens"] == paused["training"]["tokens"] > 0

        assert node.cli("resume").returncode == 0
        resumed = node.wait_for(
            lambda s: (
                s["state"] == "training"
                and s["training"]["tokens"] > paused["training"]["tokens"]
                and s["meetings"]["completed"] > paused["meetings"]["completed"]
            ),
            _PATIENCE_S,
            "it trains on and meets again",
        )
        assert resumed["training"]["steps"] > paused["training"]["steps"]
        assert resumed["training"]["restarts"] == 0
        assert resumed["meetings"]["half"] == first.status()["meetings"]["half"] == 0

        assert node.cli("pause").returncode == 0
        assert node.end() == 0
        assert node.survivors() == []
        again = RealNode(tmp_path / "node", *peers, text=text)
        still = again.wait_for(lambda s: s["state"] == "paused", _PATIENCE_S, "it is still paused")
        assert still["run_id"] == ""
        wait_until(lambda: trainers_of(again) == [], _PATIENCE_S, "no trainer waits")
        again.cli("resume")
        again.wait_for(lambda s: s["state"] == "training", _PATIENCE_S, "it trains at last")
        assert again.end() == 0
    finally:
        for each in (first, node, again):
            if each is not None:
                each.clean_up()
