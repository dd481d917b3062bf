"""``bench overhead`` with groups in virtual time: whose turn it is, and what comes out."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from lowcomm_node.bench.overhead import BARE, LOOP, TRAINER, Reading
from lowcomm_node.cli.bench import overhead
from lowcomm_node.cli.bench.overhead import OverheadRequest, measure_overhead


class Machine:
    """A clock, and whose turn it was."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turns: list[str] = []
        self.awake: set[str] = set()


class Group:
    """Trains at its own speed while it is awake."""

    def __init__(self, machine: Machine, name: str, tokens_per_s: float, kind: str) -> None:
        self._machine, self._name, self._tokens_per_s, self._kind = machine, name, tokens_per_s, kind

    def wait_for_training(self, patience_s: float) -> None:
        pass

    def thaw(self) -> None:
        self._machine.turns.append(self._name)
        self._machine.awake.add(self._name)

    def freeze(self) -> None:
        self._machine.awake.remove(self._name)

    def reading(self) -> Reading:
        assert self._machine.awake == {self._name}
        now = self._machine.now
        taken = {self._kind: 2 * now} if self._kind == LOOP else {self._kind: 1.9 * now, "daemon": 0.05 * now}
        return Reading(at_s=now, tokens=int(now * self._tokens_per_s), processor_s=taken, machine_busy_s=2 * now)

    def memory(self) -> dict[str, int]:
        return {self._kind: 1 << 20}


def test_one_trains_at_a_time_forwards_and_backwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is read while another one is awake, and what is written down is what the groups did, period by period."""
    machine = Machine()
    groups = {
        BARE: Group(machine, BARE, 1000.0, LOOP),
        "nodes": Group(machine, "nodes", 900.0, TRAINER),
    }

    def pass_time(interrupts: object, seconds: float) -> None:
        del interrupts
        machine.now += seconds

    monkeypatch.setattr(overhead, "_start", lambda *args, **more: groups)
    monkeypatch.setattr(overhead, "wait", pass_time)
    console = Console(width=200, record=True)

    request = OverheadRequest(turns=2, window_s=10.0, every_steps=(5, 50))
    measure_overhead(request, None, tmp_path / "found.json", console)

    assert machine.turns == 2 * [BARE, "nodes", "nodes", BARE]
    assert machine.awake == set()
    found = json.loads((tmp_path / "found.json").read_text())
    assert [run["periods"].split(",")[0] for run in found["runs"]] == ["params every 5 steps", "params every 50 steps"]
    bare, nodes = found["runs"][0]["groups"]
    assert bare["group"] == BARE
    assert nodes["ratio"]["middle"] == pytest.approx(0.9)
    assert nodes["per_trainer_second"]["middle"] == pytest.approx(0.9 * 2 / 1.9)
    assert nodes["memory_bytes"] == {TRAINER: 1 << 20}
    assert "0.9000" in console.export_text()
