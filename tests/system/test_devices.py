"""A node on two devices among ordinary ones: real processes."""

import json
from pathlib import Path

import psutil
import pytest

from tests.system.real_nodes import TINY_MANIFEST, RealNode

pytestmark = pytest.mark.system


def _text(folder: Path) -> Path:
    folder.mkdir()
    for index in range(40):
        (folder / f"{index}.txt").write_text(f"the quick brown fox {index} jumps over the lazy dog\n" * 60)
    return folder


def test_a_node_on_two_devices_meets_others(tmp_path: Path) -> None:
    """It is one member: it joins, meets, outlives the end of a device's process, and leaves nothing behind."""
    (tmp_path / "run.toml").write_text(TINY_MANIFEST)
    text = _text(tmp_path / "text")
    first = RealNode(tmp_path / "first", "--manifest", str(tmp_path / "run.toml"), text=text)
    nodes = [first]
    try:
        address = first.wait_for(lambda s: s["training"]["steps"] > 5, 40, "the first node trains")["join_address"]
        node = RealNode(tmp_path / "two", "--peers", address, "--set", "device.name=cpu,cpu", text=text)
        nodes.append(node)
        status = node.wait_for(lambda s: s["meetings"]["completed"] >= 3, 60, "it meets")
        assert status["training"]["tokens"] == status["training"]["steps"] * 2 * 4 * 32
        assert status["meetings"]["half"] == 0
        recorded = json.loads((node.state_dir / "processes.json").read_text())
        assert sorted(entry["kind"] for entry in recorded) == ["follower", "p2pd", "trainer"]

        node.child("lowcomm_node.train.device_follower").kill()
        node.wait_for(
            lambda s: s["training"]["restarts"] == 1 and s["state"] == "training" and s["training"]["steps"] > 5,
            60,
            "it trains again",
        )
        assert "training on 2 devices has stopped: cpu (device 2 of 2) ended with status -9" in node.log.read_text()
        assert sum(_follows(process) for process in node.family()) == 1

        assert node.end() == 0
        assert node.survivors() == []
    finally:
        for each in nodes:
            each.clean_up()


def _follows(process: psutil.Process) -> bool:
    return process.is_running() and "lowcomm_node.train.device_follower" in process.cmdline()
