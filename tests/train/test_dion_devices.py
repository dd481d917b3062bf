"""Two real processes on loopback train one model by Dion in a group, and notice when the other is gone."""

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from lowcomm_node.train.device_group import ProcessGroup
from tests.train.dion_member import gradients, trained

pytestmark = pytest.mark.system

_PATIENCE_S = 60.0
_STEPS = 10
_ROUNDING = 1e-4
_ROOT = Path(__file__).parents[2]


def _start(folder: Path, rank: int, *, steps: int = _STEPS, timeout_s: float = _PATIENCE_S) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.train.dion_member", str(folder), str(rank), str(steps), str(timeout_s)]
    return subprocess.Popen(command, cwd=_ROOT, stderr=subprocess.PIPE, text=True)


def _end(member: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit status and what was said on the way."""
    _, complaint = member.communicate(timeout=_PATIENCE_S)
    return member.returncode, complaint


def test_two_processes_are_one_run(tmp_path: Path) -> None:
    """The same bits of X and Q in both, which are those of one replica with the mean gradient up to rounding."""
    members = [_start(tmp_path, rank) for rank in range(2)]

    assert [_end(member) for member in members] == [(0, ""), (0, "")]
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    means = [
        [(a + b) / 2 for a, b in zip(gradients(step, 0), gradients(step, 1), strict=True)] for step in range(_STEPS)
    ]
    expected = trained(means)
    assert first.keys() == second.keys() == expected.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name])
        assert float((tensor - expected[name]).norm()) < _ROUNDING * float(expected[name].norm())


def test_member_that_leaves_is_noticed(tmp_path: Path) -> None:
    """One is done after five steps: the other does not wait for its sixth mean but says so and ends, without a crash."""
    quitter, other = _start(tmp_path, 0, steps=5), _start(tmp_path, 1)

    assert _end(quitter) == (0, "")
    status, complaint = _end(other)
    assert status == 1
    assert "refused: a replica on this machine left the group" in complaint


def test_nobody_waits_for_ever(tmp_path: Path) -> None:
    """A member that nobody joins gives up after its time-out."""
    status, complaint = _end(_start(tmp_path, 0, timeout_s=1.0))

    assert status == 1
    assert "refused: the 2 replicas of this machine did not find one another" in complaint


def test_listens_on_loopback_alone(tmp_path: Path) -> None:
    """Gloo asks nobody who he is, so nobody from outside may be able to ask."""
    before = _listeners()

    with closing(ProcessGroup(tmp_path / "rendezvous", 0, 1, _PATIENCE_S)) as group:
        tensor = torch.ones(3)
        group.mean_(tensor)
        opened = _listeners() - before

    assert torch.equal(tensor, torch.ones(3))
    assert {address for address, _ in opened} == {"127.0.0.1"}


def _listeners() -> set[tuple[str, int]]:
    """Address and port of everything on which this process takes connections."""
    links = psutil.Process().net_connections()
    return {(link.laddr.ip, link.laddr.port) for link in links if link.status == psutil.CONN_LISTEN}
