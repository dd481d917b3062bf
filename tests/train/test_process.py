"""The real trainer process at the other end of a socket pair."""

import dataclasses
import math
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from lowcomm_node.core.commands import EncodeOffer
from lowcomm_node.core.events import OfferEncoded
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import DataSettings, DeviceSettings, NodeSettings
from lowcomm_node.train.child import EXIT_FAILED
from lowcomm_node.train.messages import (
    CheckpointWritten,
    Configure,
    Failed,
    FromTrainer,
    LoadState,
    Ready,
    Report,
    Run,
    SnapshotWritten,
    StateLoaded,
    Stop,
    Stopped,
    ToTrainer,
    WriteCheckpoint,
    WriteSnapshot,
)
from lowcomm_node.train.process import EXIT_ORPHANED
from lowcomm_node.units import MeetingId, PeerId, Stream
from tests.train.pairs import RUN, tiny_manifest, tiny_settings, write_text

_PATIENCE_S = 60.0
_Message = TypeVar("_Message")


class TrainerProcess:
    """What the daemon does with it, in the few words a test needs."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "lowcomm_node.train.process", str(theirs.fileno())]
        self.process = subprocess.Popen(command, pass_fds=(theirs.fileno(),))
        theirs.close()
        self.connection = Connection(ours.detach())

    def send(self, message: ToTrainer) -> None:
        self.connection.send(message)

    def next(self) -> FromTrainer:
        """The next message, whatever it is."""
        assert self.connection.poll(_PATIENCE_S), "no message came"
        message: FromTrainer = self.connection.recv()
        return message

    def limit_memory(self, more_bytes: int) -> None:
        """Let it have this much address space more than it has now, and allocations beyond that fail."""
        limit = psutil.Process(self.process.pid).memory_info().vms + more_bytes
        resource.prlimit(self.process.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))

    def expect(self, kind: type[_Message]) -> _Message:
        """The next message of this kind; others before it are passed over."""
        while True:
            message = self.next()
            if isinstance(message, kind):
                return message
            assert not isinstance(message, Failed), message

    def configure(self, folder: Path, manifest: Manifest | None = None, settings: NodeSettings | None = None) -> None:
        self.send(
            Configure(
                manifest=manifest or tiny_manifest(total_steps=100_000),
                settings=settings or tiny_settings(write_text(folder)),
                run_id=RUN,
                peer_id=PeerId("peer"),
            )
        )

    def exit_status(self) -> int:
        return self.process.wait(_PATIENCE_S)


@pytest.fixture
def trainer() -> Iterator[TrainerProcess]:
    process = TrainerProcess()
    yield process
    process.connection.close()
    if process.process.poll() is None:
        process.process.kill()
    process.process.wait(_PATIENCE_S)


def test_a_whole_life(trainer: TrainerProcess, tmp_path: Path) -> None:
    """Configure, train, meet, snapshot, load back, stop: each request has its answer, and the process ends with 0."""
    snapshot, kept, last = (str(tmp_path / name) for name in ("snapshot", "kept", "last"))

    (tmp_path / "text").mkdir()
    trainer.configure(tmp_path / "text")
    ready = trainer.expect(Ready)
    assert psutil.Process(trainer.process.pid).nice() == max(10, psutil.Process().nice())
    trainer.send(Run())
    while trainer.expect(Report).steps < 5:
        pass
    trainer.process.send_signal(signal.SIGINT)  # Ctrl+C in the daemon's terminal is the daemon's business
    trainer.send(EncodeOffer(meeting_id=MeetingId("7" * 32), streams=(Stream.PARAMS,)))
    offered = trainer.expect(OfferEncoded)
    trainer.send(WriteSnapshot(path=snapshot))
    trainer.expect(SnapshotWritten)
    trainer.send(WriteCheckpoint(path=kept))
    written = trainer.expect(CheckpointWritten)
    trainer.send(LoadState(path=kept, is_own=True))
    loaded = trainer.expect(StateLoaded)
    trainer.send(Stop(path=last))
    trainer.expect(Stopped)

    assert ready.parameters == sum(_numel(shape) for shape in ready.shapes)
    assert ready.device == "cpu"
    assert len(ready.initial_sketch) == 64
    assert len(offered.plans[0].ranks) == len(ready.shapes)
    assert (loaded.steps, loaded.progress_steps) == (written.steps, written.progress_steps)
    files = (snapshot, *(f"{folder}/state.safetensors" for folder in (kept, last)))
    assert all(0 < Path(path).stat().st_size <= ready.snapshot_bytes_max for path in files)
    assert trainer.exit_status() == 0


def test_missing_text_is_one_fatal_message(trainer: TrainerProcess, tmp_path: Path) -> None:
    """A data path that is not there: code data, the path in the text, exit status 1."""
    missing = tmp_path / "missing"

    trainer.configure(tmp_path, settings=NodeSettings(data=DataSettings(paths=(str(missing),))))
    failed = trainer.expect(Failed)

    assert (failed.code, failed.is_fatal) == ("data", True)
    assert str(missing) in failed.detail
    assert trainer.exit_status() == EXIT_FAILED


def test_absent_device_is_one_fatal_message(trainer: TrainerProcess, tmp_path: Path) -> None:
    """A CUDA device that this machine does not have: code config, and what to write instead."""
    trainer.configure(tmp_path, settings=NodeSettings(device=DeviceSettings(name="cuda:99")))

    failed = trainer.expect(Failed)

    assert (failed.code, failed.is_fatal) == ("config", True)
    assert '"auto"' in failed.detail
    assert trainer.exit_status() == EXIT_FAILED


def test_ends_when_the_daemon_is_gone(trainer: TrainerProcess, tmp_path: Path) -> None:
    """The other end closes, as it does when the daemon is killed: no orphan, in the middle of training."""
    trainer.configure(tmp_path)
    trainer.expect(Ready)
    trainer.send(Run())
    trainer.expect(Report)

    trainer.connection.close()

    assert trainer.exit_status() == EXIT_ORPHANED


@pytest.mark.skipif(sys.platform != "linux", reason="sets another process's limit")
def test_real_memory_that_runs_out_is_survived_in_the_same_process(trainer: TrainerProcess, tmp_path: Path) -> None:
    """A limit on the trainer's address space that leaves room for less than half a batch: it trains on, in more parts."""
    (tmp_path / "text").mkdir()
    manifest = tiny_manifest(total_steps=100_000, batch_size=64)
    manifest = dataclasses.replace(manifest, model=dataclasses.replace(manifest.model, context_length=256))
    settings = tiny_settings(write_text(tmp_path / "text"), eval_every_steps=0)
    trainer.configure(tmp_path / "text", manifest, settings)
    trainer.expect(Ready)
    # Some ten tensors of 16 MB each (64 examples of 256 bytes with 256 logits in fp32) are what a whole batch takes.
    trainer.limit_memory(60_000_000)
    trainer.send(Run())

    while (report := trainer.expect(Report)).steps < 1:
        pass

    assert report.micro_batches > 1
    assert math.isfinite(report.loss)
    trainer.send(Stop(path=""))
    trainer.expect(Stopped)
    assert trainer.exit_status() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="sets another process's limit")
def test_memory_that_never_suffices_has_a_code_of_its_own(trainer: TrainerProcess, tmp_path: Path) -> None:
    """Not even one example fits: the last words say out_of_memory, and the process ends."""
    (tmp_path / "text").mkdir()
    manifest = tiny_manifest(total_steps=100_000, batch_size=2)
    manifest = dataclasses.replace(manifest, model=dataclasses.replace(manifest.model, context_length=2048))
    settings = tiny_settings(write_text(tmp_path / "text", copies=10), eval_every_steps=0)
    trainer.configure(tmp_path / "text", manifest, settings)
    trainer.expect(Ready)
    trainer.limit_memory(1_000_000)
    trainer.send(Run())

    while not isinstance(failed := trainer.next(), Failed):
        pass

    assert (failed.code, failed.is_fatal) == ("out_of_memory", True), failed
    assert trainer.exit_status() == EXIT_FAILED


def test_first_message_must_be_configure(trainer: TrainerProcess) -> None:
    """Anything else is our own mistake, told as such."""
    trainer.send(Run())

    failed = trainer.expect(Failed)

    assert (failed.code, failed.is_fatal) == ("trainer", True)
    assert trainer.exit_status() == EXIT_FAILED


def _numel(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product
