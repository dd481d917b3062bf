"""AB-training in a swarm of real nodes: two epochs, one node killed and started again, one that joins in the middle of a stretch."""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.system.real_nodes import RealNode, wait_until

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.timeout(420)]

_STEPS = 2000
"""So many that who is started again in the first epoch is there long before the end of the second."""
_MANIFEST = f"""
name = "tiny-ab"
[model]
num_layers = 1
num_heads = 2
d_model = 32
d_ff = 64
context_length = 32
[training]
batch_size = 4
total_steps = {_STEPS}
warmup_steps = 10
[meeting]
params_every_steps = 12
exp_avg_sq_every_steps = 0
dense_last_ratio = 0.02
[outer]
method = "ab"
[ab_training]
warm_up_ratio = 0.32
epochs = 2
rebound_ratio = 0.04
"""
_SETTINGS = ("--set", "checkpoint.every_s=5")
_FIRST = 5
"""Nodes from the start on; the sixth comes late."""


class _Swarm:
    """Nodes of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._text = folder / "text"
        self._text.mkdir()
        for index in range(60):
            lines = (f"{index} times {other} is {index * other}" for other in range(60))
            (self._text / f"{index}.txt").write_text("\n".join(lines))
        (folder / "run.toml").write_text(_MANIFEST)
        self.nodes: list[RealNode] = [self.start("n0", "--manifest", str(folder / "run.toml"))]
        self.address = self.nodes[0].wait_for(lambda status: bool(status["join_address"]), 60, "joinable")[
            "join_address"
        ]

    def start(self, name: str, *arguments: str) -> RealNode:
        """A node, or one that is started again."""
        return RealNode(self._folder / name, *arguments, *_SETTINGS, text=self._text)

    def join(self, name: str) -> RealNode:
        """By way of the first one."""
        return self.start(name, "--peers", self.address)

    def clean_up(self) -> None:
        """Whatever a failed test left."""
        for node in self.nodes:
            node.clean_up()


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[_Swarm]:
    with ExitStack() as cleaning:
        found = _Swarm(tmp_path)
        cleaning.callback(found.clean_up)
        found.nodes += [found.join(f"n{index}") for index in range(1, _FIRST)]
        yield found


def _ab(node: RealNode) -> dict[str, Any]:
    found: dict[str, Any] = (node.status().get("training") or {}).get("ab") or {}
    return found


def _events(node: RealNode, name: str) -> list[dict[str, Any]]:
    lines = [line for line in node.log.read_text().splitlines() if f'"event": "{name}"' in line]
    return [json.loads(line) for line in lines]


def _all_hold_one(nodes: list[RealNode], epoch: int) -> bool:
    """Each trains a factor, with the same frozen factors of this epoch."""
    found = [_ab(node) for node in nodes]
    digests = {ab.get("digest") for ab in found}
    return all(ab.get("epoch") == epoch for ab in found) and len(digests) == 1 and digests != {""}


def _factors_that_meet(nodes: list[RealNode]) -> set[str]:
    """Trained now by nodes that have exchanged whole payloads, as only meetings in role are before the end of the run."""
    found = set()
    for node in nodes:
        status = node.status()
        factor = (status["training"]["ab"] or {}).get("factor", "")
        if factor and any(entry["codec"] == "dense" and entry["bytes"] for entry in status["meetings"]["bytes"]):
            found.add(factor)
    return found


def test_two_epochs_with_a_kill_and_a_late_joiner(swarm: _Swarm) -> None:
    """All end; in each epoch all hold the same frozen factors; meetings go on in both roles; no half meeting but by the kill."""
    nodes = swarm.nodes
    wait_until(lambda: _all_hold_one(nodes, 1), 150, "five nodes agree in the first epoch")
    killed = nodes[2]
    killed.end(signal.SIGKILL)
    nodes[2] = swarm.join("n2")  # with the folder that it had
    nodes.append(swarm.join("n5"))
    wait_until(lambda: _all_hold_one(nodes, 2), 200, "six nodes agree in the second epoch")
    wait_until(lambda: _factors_that_meet(nodes) == {"a", "b"}, 60, "meetings in role of both factors")
    last = [node.wait_for(lambda status: status["state"] == "finished", 150, "the run's end") for node in nodes]

    assert sum(status["meetings"]["half"] for status in last) <= 1
    assert all(status["training"]["validation_loss"] < 0.9 * last[0]["training"]["started_loss"] for status in last)
    taken = {epoch: set[str]() for epoch in (1, 2)}
    for node in nodes:
        newest = {event["epoch"]: event["digest"] for event in _events(node, "frozen_factors_taken")}
        for epoch, digest in newest.items():
            taken[epoch].add(digest)
    assert [len(digests) for digests in taken.values()] == [1, 1]
    late = _events(nodes[-1], "frozen_factors_fetched")
    assert late, nodes[-1].tail()
    assert all(event["digest"] in taken[event["epoch"]] for event in late)
    assert _events(nodes[-1], "weights_split") == []
    for node in nodes:
        assert node.end() == 0
        assert node.survivors() == []
