"""What checkpoints cost: sizes as asked for, real files, and ratios that say what they mean."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from lowcomm_node.bench import checkpoints
from lowcomm_node.bench.checkpoint_report import CHECKPOINT_COLUMNS, checkpoint_cells
from lowcomm_node.bench.checkpoints import CheckpointCost, manifest_of_size, measure_checkpoints
from lowcomm_node.bench.plan import CheckpointRequest
from lowcomm_node.errors import ConfigError, StoreError
from lowcomm_node.settings.canonical import run_id
from lowcomm_node.settings.node import DeviceSettings
from lowcomm_node.train.checkpoint import read_checkpoint
from lowcomm_node.train.replica import Replica
from lowcomm_node.train.session import choose_device

_MIB = 1 << 20
_REQUEST = CheckpointRequest(mib=(1.0,), writes=2, device="cpu")


def _cost(*busy_steps_s: tuple[float, ...]) -> CheckpointCost:
    return CheckpointCost(
        device="cpu",
        parameters=1_000_000,
        state_bytes=20 * _MIB,
        memory_s=0.5,
        first_pause_s=0.3,
        pauses_s=(0.1, 0.2, 0.9),
        writes_s=(2.0, 4.0, 100.0),
        in_place_s=(3.0,),
        quiet_steps_s=((1.0, 1.0, 50.0),) * len(busy_steps_s),
        busy_steps_s=busy_steps_s,
    )


@pytest.mark.parametrize("mib", [1, 64, 512, 4096])
def test_the_state_has_the_size_that_was_asked_for(mib: int) -> None:
    """To a few percent, whatever the size: widths come in steps."""
    parameters = manifest_of_size(mib * _MIB).model.num_parameters

    assert 20 * parameters / _MIB == pytest.approx(mib, rel=0.1)


def test_what_is_measured_is_a_checkpoint_of_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last folder is one that a node could go on from; each write and each pause is there, steps beside them."""
    monkeypatch.setattr(checkpoints, "_QUIET_S", 0.0)

    (cost,) = measure_checkpoints(_REQUEST, tmp_path)

    assert (len(cost.pauses_s), len(cost.writes_s), len(cost.in_place_s)) == (1, 2, 2)
    assert [len(steps) for steps in cost.quiet_steps_s] == [2 * checkpoints._QUIET_STEPS] * 2
    assert len(cost.busy_steps_s) == 2
    (folder,) = (tmp_path / "1" / "checkpoints").iterdir()
    manifest = manifest_of_size(_MIB)
    replica = Replica(manifest, choose_device(DeviceSettings(name="cpu")))
    state, _ = read_checkpoint(folder, run_id(manifest), replica.layout())
    assert sum(tensor.nbytes for tensor in state.tensors.values()) == cost.state_bytes


def test_what_is_lost_is_the_pause_and_the_slower_steps() -> None:
    """At half the speed for four seconds, two seconds of training are lost; a single slow moment moves no median."""
    cost = _cost((2.0, 2.0, 9.0), (), (2.0,), (7.0,))

    assert cost.slowdowns == (2.0, 2.0, 7.0)
    assert cost.slowdown == 2.0
    assert cost.lost_s == pytest.approx(0.2 + 4.0 / 2)
    assert cost.bytes_per_s == 5 * _MIB
    assert len(checkpoint_cells(cost)) == len(CHECKPOINT_COLUMNS)


def test_what_no_step_lies_within_is_not_guessed() -> None:
    """A write that is shorter than a step says nothing about the speed meanwhile; a faster machine loses nothing but the pause."""
    cost = _cost((), ())

    assert (cost.slowdown, cost.lost_s) == (None, None)
    assert checkpoint_cells(cost)[-3:] == ("-", "-", "-")
    assert _cost((0.5,)).lost_s == pytest.approx(0.2)


def test_what_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the memory, before it is taken; onto the disk, with the store's own words."""
    with monkeypatch.context() as patch:
        patch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2 * _MIB))
        with pytest.raises(ConfigError, match="--mib 1 needs about"):
            next(measure_checkpoints(_REQUEST, tmp_path))
    monkeypatch.setattr(checkpoints, "_QUIET_S", 0.0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(StoreError, match="the disk has 1000 left"):
        next(measure_checkpoints(_REQUEST, tmp_path))
