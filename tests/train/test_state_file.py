"""State files: whole, verified, atomic."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lowcomm_node.errors import StoreError
from lowcomm_node.settings.manifest import OptimizerConfig, OuterConfig
from lowcomm_node.train.replica import Replica
from lowcomm_node.train.state_file import TrainingState, read_state, state_bytes_bound, write_state
from lowcomm_node.units import RunId
from tests.train.pairs import RUN, tiny_manifest, tiny_session, train

_METADATA = {
    "format": "lowcomm-state-1",
    "run_id": RUN,
    "progress_steps": "3.5",
    "steps": "3",
    "optimizer_steps": "3",
    "tokens": "192",
    "data_cursor": "3",
}


_OPTIMIZERS = {
    "adamw": OptimizerConfig(kind="adamw", lr=1e-2),
    "sgd": OptimizerConfig(kind="sgd", lr=1e-2),
    "muon": OptimizerConfig(kind="muon", lr=1e-2, scalar="lion"),
    "dion": OptimizerConfig(kind="dion", lr=1e-2, state_dtype="bf16"),
}


def _replica(mixing: str = "direct", kind: str = "adamw") -> Replica:
    manifest = tiny_manifest(outer=OuterConfig(every_steps=2, mixing=mixing), optimizer=_OPTIMIZERS[kind])
    session = tiny_session(manifest)
    train(session, 3)
    return session.replica


def _read(path: Path, replica: Replica) -> TrainingState:
    return read_state(path, RUN, replica.layout())


@pytest.mark.parametrize("kind", _OPTIMIZERS)
@pytest.mark.parametrize("mixing", ["direct", "momentum"])
def test_what_is_written_is_read(tmp_path: Path, mixing: str, kind: str) -> None:
    """Every tensor and counter survives, within the stated size, and nothing else stays in the folder."""
    replica, path = _replica(mixing, kind), tmp_path / "state.safetensors"
    replica.progress_steps = 2.0 / 3.0

    write_state(path, replica.state(), RUN)
    found = _read(path, replica)

    expected = replica.state()
    assert found.counters == expected.counters
    assert found.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(found.tensors[key], expected.tensors[key]) for key in found.tensors)
    assert path.stat().st_size <= state_bytes_bound(replica.layout())
    assert list(tmp_path.iterdir()) == [path]


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """A state that cannot be written, here because its place is a folder, is one clear error and leaves no debris."""
    replica = _replica()
    (tmp_path / "state").mkdir()

    with pytest.raises(StoreError, match="state cannot be written"):
        write_state(tmp_path / "state", replica.state(), RUN)

    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "lowcomm-state-9"}, "format 'lowcomm-state-9'"),
        ({"run_id": "cd" * 32}, "belongs to run 'cdcd"),
        ({"progress_steps": "nan"}, "out of range"),
        ({"progress_steps": "-1"}, "out of range"),
        ({"steps": "-5"}, "out of range"),
        ({"tokens": "many"}, "not a number"),
        ({"data_cursor": "9" * 40}, "out of range"),
    ],
)
def test_wrong_metadata_is_refused(tmp_path: Path, change: dict[str, str], reason: str) -> None:
    """A stranger's file says nothing we believe unchecked."""
    replica, path = _replica(), tmp_path / "state"
    save_file(replica.state().tensors, path, _METADATA | change)

    with pytest.raises(StoreError, match=reason) as caught:
        _read(path, replica)

    assert str(path) in str(caught.value)


def test_wrong_tensors_are_refused(tmp_path: Path) -> None:
    """Missing, additional, misshapen, other-typed, non-finite and negative-variance tensors, each by name."""
    replica, path = _replica(), tmp_path / "state"
    good = replica.state().tensors
    key = "exp_avg_sq/embedding"
    poisoned = good[key].clone()
    poisoned[3, 3] = torch.inf
    wrong: dict[str, dict[str, torch.Tensor]] = {
        "is missing": {k: v for k, v in good.items() if k != key},
        "does not belong": good | {"params/backdoor": torch.zeros(1)},
        r"\(2, 2\) instead of": good | {key: torch.zeros(2, 2)},
        "float16": good | {key: good[key].half()},
        "not finite": good | {key: poisoned},
        "negative": good | {key: good[key] - 1},
    }

    for reason, tensors in wrong.items():
        save_file(tensors, path, _METADATA)
        with pytest.raises(StoreError, match=reason):
            _read(path, replica)


def test_the_file_holds_what_the_optimizer_declares_and_no_more(tmp_path: Path) -> None:
    """A tensor per stream and parameter in its scope, in the format it is kept in, and a bound that is not far above."""
    replica, path = _replica(kind="dion"), tmp_path / "state"
    write_state(path, replica.state(), RUN)

    found = load_file(path)

    matrices = {name for name in replica.names if name.startswith("blocks.") and "norm" not in name}
    assert {key.partition("/")[2] for key in found if key.startswith("momentum/")} == matrices
    assert {key.partition("/")[2] for key in found if key.startswith("exp_avg/")} == set(replica.names) - matrices
    assert {t.dtype for key, t in found.items() if key.startswith(("momentum/", "basis/"))} == {torch.bfloat16}
    assert list(replica.layout()) == list(replica.state().tensors)
    assert state_bytes_bound(replica.layout()) < path.stat().st_size + 4096 + 512 * len(found)


def test_state_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    """A donor's Dion state in float32 is not this run's in bf16: nothing is converted in silence."""
    replica, path = _replica(kind="dion"), tmp_path / "state"
    tensors = replica.state().tensors
    key = "momentum/blocks.0.mlp.up.weight"
    save_file(tensors | {key: tensors[key].float()}, path, _METADATA)

    with pytest.raises(StoreError, match=r"float32 \(32, 16\) instead of torch.bfloat16"):
        _read(path, replica)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    """Truncated, empty, not a state at all, oversized or absent: a StoreError, never another exception."""
    replica, path = _replica(), tmp_path / "state"
    write_state(path, replica.state(), RUN)
    whole = path.read_bytes()
    bound = state_bytes_bound(replica.layout())

    for content in (whole[: len(whole) // 2], whole[:4], b"", b"\xff" * 100, whole[:8] + b"[" * 200 + whole[208:]):
        path.write_bytes(content)
        with pytest.raises(StoreError, match="state cannot be read"):
            _read(path, replica)
    path.write_bytes(whole + bytes(bound))
    with pytest.raises(StoreError, match="more than the"):
        _read(path, replica)
    with pytest.raises(StoreError, match="No such file"):
        _read(tmp_path / "absent", replica)


def test_file_is_plain_safetensors(tmp_path: Path) -> None:
    """Other tools can open it, and it belongs to the run it says."""
    replica, path = _replica(), tmp_path / "state"
    write_state(path, replica.state(), RunId("other"))

    assert load_file(path)["params/embedding"].shape == (256, 16)
    with pytest.raises(StoreError, match="belongs to run 'other'"):
        _read(path, replica)
