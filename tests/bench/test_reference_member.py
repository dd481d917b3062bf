"""Reference runs of two real processes: they are what their names say, to the rounding of fp32."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lowcomm_node.bench.methods import optimizer_overrides
from lowcomm_node.bench.reference_load import MemberLoad, Reference, Telling
from lowcomm_node.bench.trial import make_manifest
from lowcomm_node.settings.canonical import run_id
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import DataSettings, DeviceSettings, NodeSettings
from lowcomm_node.settings.template import manifest_template
from lowcomm_node.train.evaluate import validation_loss
from lowcomm_node.train.exported import read_parameters
from lowcomm_node.train.session import Session, build_session
from lowcomm_node.units import PeerId
from tests.bench.tiny import TINY, text_in

pytestmark = pytest.mark.system

_PATIENCE_S = 90.0
_ROUNDING = 1e-4
_STEPS = 3
_ROOT = Path(__file__).parents[2]


@pytest.fixture
def manifest() -> Manifest:
    """A model small enough for a second, and an optimizer that does not blow rounding up."""
    return make_manifest(TINY, optimizer_overrides("sgd"), {"training.total_steps": _STEPS})


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Something to train on that needs no corpus."""
    (path,) = text_in(tmp_path)
    return Path(path)


def _run(
    tmp_path: Path, manifest: Manifest, text: Path, reference: Reference, every_steps: int = 0
) -> tuple[list[dict[str, Tensor]], list[Telling]]:
    """Last weights of both members, and what each said last."""
    (tmp_path / "run.toml").write_text(manifest_template(manifest), encoding="utf-8")
    loads = [
        MemberLoad(
            manifest=str(tmp_path / "run.toml"),
            peer_id=f"peer{rank}",
            rank=rank,
            size=2,
            rendezvous=str(tmp_path / "rendezvous"),
            reference=reference,
            diloco_every_steps=every_steps,
            state_dir=str(tmp_path / "state"),
            state_file=str(tmp_path / f"{rank}.safetensors"),
            data=(str(text),),
            patience_s=_PATIENCE_S,
        )
        for rank in range(2)
    ]
    members = [
        subprocess.Popen(
            [sys.executable, "-m", "lowcomm_node.bench.reference_member", load.to_json()],
            cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for load in loads
    ]  # fmt: skip
    said = [member.communicate(timeout=_PATIENCE_S) for member in members]
    assert [member.returncode for member in members] == [0, 0], said
    states = [read_parameters(Path(load.state_file), manifest, run_id(manifest))[0] for load in loads]
    return states, [Telling.from_json(out.splitlines()[-1]) for out, _ in said]


def _session(tmp_path: Path, manifest: Manifest, text: Path, rank: int) -> Session:
    settings = NodeSettings(
        state_dir=str(tmp_path / "own"), device=DeviceSettings(threads=1), data=DataSettings(paths=(str(text),))
    )
    return build_session(manifest, settings, run_id(manifest), PeerId(f"peer{rank}"))


def _assert_equal(found: dict[str, Tensor], names: Sequence[str], expected: Sequence[Tensor]) -> None:
    for name, tensor in zip(names, expected, strict=True):
        assert float((found[name] - tensor).norm()) <= _ROUNDING * float(tensor.norm()), name


def test_ddp_is_one_replica_with_both_batches(tmp_path: Path, manifest: Manifest, text: Path) -> None:
    """Two ranks take the steps of one with their batches put together; rank 0 looks, and the kernel has counted the ring."""
    states, tellings = _run(tmp_path, manifest, text, Reference.DDP)

    sessions = [_session(tmp_path, manifest, text, rank) for rank in range(2)]
    replica = sessions[0].replica
    for step in range(_STEPS):
        replica.train_step(torch.cat([_batch(session, step) for session in sessions]))
    assert all(torch.equal(states[0][name], states[1][name]) for name in replica.names)
    _assert_equal(states[0], replica.names, replica.theta)
    own_loss = validation_loss(replica.model, sessions[0].validation)
    assert tellings[0].loss == pytest.approx(own_loss, rel=_ROUNDING)
    assert tellings[1].loss is None
    received = tellings[0].received_bytes
    ring = 4 * manifest.model.num_parameters * _STEPS  # 2 (N - 1) / N = 1 of the gradient
    assert received is None or 0.9 * ring < received < 1.2 * ring


def test_diloco_of_one_step_is_nesterovs_step_on_the_average(tmp_path: Path, manifest: Manifest, text: Path) -> None:
    """Nesterov's first step from rest with momentum b moves by lr (1 + b) of the mean displacement, at both alike."""
    manifest = replace(manifest, training=replace(manifest.training, total_steps=1, warmup_steps=0))
    states, _ = _run(tmp_path, manifest, text, Reference.DILOCO, every_steps=1)

    sessions = [_session(tmp_path, manifest, text, rank) for rank in range(2)]
    replica = sessions[0].replica
    start = [tensor.clone() for tensor in replica.theta]
    for session in sessions:
        session.replica.train_step(_batch(session, 0))
    pairs = zip(sessions[0].replica.theta, sessions[1].replica.theta, strict=True)
    factor = 0.7 * 1.9
    expected = [phi + factor * ((a + b) / 2 - phi) for phi, (a, b) in zip(start, pairs, strict=True)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in replica.names)
    _assert_equal(states[0], replica.names, expected)


def test_local_members_never_talk(tmp_path: Path, manifest: Manifest, text: Path) -> None:
    """Each ends where its node would have ended alone, and has received next to nothing."""
    states, tellings = _run(tmp_path, manifest, text, Reference.LOCAL)

    for rank, found in enumerate(states):
        session = _session(tmp_path, manifest, text, rank)
        for step in range(_STEPS):
            session.replica.train_step(_batch(session, step))
        _assert_equal(found, session.replica.names, session.replica.theta)
    assert all((telling.received_bytes or 0) < 1000 for telling in tellings)


def _batch(session: Session, index: int) -> Tensor:
    batch = session.stream.batch(index)
    assert isinstance(batch, Tensor)
    return batch
