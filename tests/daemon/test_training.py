"""The trainer over a node's life, with scripted trainer processes."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lowcomm_node.core.events import Member
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.daemon import training as training_module
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.daemon.training import Training
from lowcomm_node.errors import LowcommError, StoreError, TrainerError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.telemetry.metrics import Metrics
from lowcomm_node.train.messages import (
    Configure,
    FingerprintTaken,
    FromTrainer,
    Ready,
    Run,
    SnapshotWritten,
    TakeFingerprint,
    ToTrainer,
    WriteSnapshot,
)
from lowcomm_node.units import PeerId, RunId

_READY = Ready(parameters=1, shapes=((1,),), snapshot_bytes_max=1000, train_tokens=1, validation_tokens=1, device="cpu")

_PRINT = Fingerprint(progress_steps=1.0, sketch=(1.0,), norms=())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path: str) -> None:
    Path(path).write_text("state")


@dataclass
class Script:
    """What the trainer processes of a test do, and what was asked of them."""

    fails_to_build: set[int] = field(default_factory=set)
    """Numbers of the lives that die while they build the model."""
    lives: "list[ScriptedSession]" = field(default_factory=list)
    asked: list[ToTrainer] = field(default_factory=list)
    may_write: asyncio.Event = field(default_factory=asyncio.Event)


class ScriptedSession:
    """In place of a ``TrainerSession``."""

    script: Script

    def __init__(self, on_message: Callable[[FromTrainer], None]) -> None:
        del on_message
        self.number = len(self.script.lives)
        self.script.lives.append(self)
        self.lost = asyncio.Event()
        self.exit_status = 1
        self.pid = 1

    def attach(self) -> None: ...

    def send(self, message: ToTrainer) -> None:
        self.script.asked.append(message)

    async def ask(self, question: ToTrainer, answer: type) -> Any:
        del answer
        self.script.asked.append(question)
        match question:
            case Configure() if self.number in self.script.fails_to_build:
                self.lost.set()
                raise self.error()
            case Configure():
                return _READY
            case WriteSnapshot(path=path):
                await self.script.may_write.wait()
                write(path)
                return SnapshotWritten(path=path, progress_steps=1.0, steps=1)
            case TakeFingerprint():
                return FingerprintTaken(fingerprint=_PRINT)
        raise TypeError(question)

    def error(self) -> LowcommError:
        return TrainerError(f"life {self.number} ended")

    async def end(self, grace_s: float) -> None:
        del grace_s
        self.lost.set()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    script = Script()
    monkeypatch.setattr(ScriptedSession, "script", script, raising=False)
    monkeypatch.setattr(training_module, "TrainerSession", ScriptedSession)
    monkeypatch.setattr(training_module, "_BACKOFF_S", 0.0)
    monkeypatch.setattr(training_module, "_PATIENCE_S", 0.0)
    return script


async def nobody() -> tuple[Member, ...]:
    return ()


def run(folder: Path, scenario: Callable[[Training], Coroutine[Any, Any, None]]) -> None:
    """Run ``scenario`` with a configured trainer."""

    async def bounded() -> None:
        training = Training(
            settings=NodeSettings(),
            state_dir=folder,
            recorder=Recorder(Metrics()),
            on_message=lambda _: None,
            on_lost=lambda: None,
            enter=lambda _state, _detail: None,
        )
        async with asyncio.timeout(10):
            await training.configure(Manifest(), RunId("ab" * 32), PeerId("me"))
            await scenario(training)

    asyncio.run(bounded())


async def live(training: Training, script: Script, crashes: int) -> None:
    """Let the node train; each trainer that gets so far dies, ``crashes`` times in all."""
    began = asyncio.Event()
    life = asyncio.create_task(
        training.live(is_first=True, find_donors=nobody, client=training_client(), on_training=began.set)
    )
    for _ in range(crashes):
        await began.wait()
        began.clear()
        script.lives[-1].lost.set()
    again = asyncio.create_task(began.wait())
    await asyncio.wait({life, again}, return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if life.done():
        await life
    life.cancel()


def training_client() -> Any:
    """Nobody has state to give, so the client is never asked."""
    return None


def test_a_trainer_that_fails_to_start_again_is_tried_again(tmp_path: Path, script: Script) -> None:
    """Memory may be short for a moment after a crash: dying while it builds the model is a failure like any other."""
    script.fails_to_build = {1, 2}

    run(tmp_path, lambda training: live(training, script, crashes=1))

    assert len(script.lives) == 4
    assert sum(isinstance(question, Run) for question in script.asked) == 2


def test_a_trainer_that_keeps_dying_ends_the_node(tmp_path: Path, script: Script) -> None:
    """Five times in a row, wherever it dies."""
    script.fails_to_build = set(range(1, 9))

    with pytest.raises(TrainerError, match="life 4 ended"):
        run(tmp_path, lambda training: live(training, script, crashes=1))


def test_asking_for_a_snapshot_and_going_away_fills_no_disk(tmp_path: Path, script: Script) -> None:
    """However often joiners ask and hang up, one file is written, and it is the one that the next joiner gets."""

    async def scenario(training: Training) -> None:
        training.has_state = True
        for _ in range(3):
            hasty = asyncio.create_task(training.take_snapshot())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            hasty.cancel()
            await asyncio.gather(hasty, return_exceptions=True)
        script.may_write.set()
        path, _ = await training.take_snapshot()
        assert names(tmp_path) == [path.name]
        assert sum(isinstance(question, WriteSnapshot) for question in script.asked) == 1
        await training.end(0.0)
        assert names(tmp_path) == []

    run(tmp_path, scenario)


def test_joiners_that_ask_do_not_keep_the_trainer_from_training(tmp_path: Path, script: Script) -> None:
    """A look at the state takes the trainer's time: within ten seconds everybody gets the same one."""

    async def scenario(training: Training) -> None:
        with pytest.raises(StoreError, match="no state yet"):
            await training.take_fingerprint()
        training.has_state = True
        looks = await asyncio.gather(*(training.take_fingerprint() for _ in range(3)))
        assert [*looks, await training.take_fingerprint()] == [_PRINT] * 4
        assert sum(isinstance(question, TakeFingerprint) for question in script.asked) == 1

    run(tmp_path, scenario)


def test_what_a_killed_life_left_is_removed(tmp_path: Path, script: Script) -> None:
    """Snapshots for joiners and half-written files of an earlier process go; the saved state stays."""
    del script
    left = ["snapshot-17.safetensors", ".final.safetensors.99.unfinished", "final.safetensors", "identity.key"]
    for name in left:
        (tmp_path / name).write_text("x")

    async def scenario(training: Training) -> None:
        assert training.ready == _READY

    run(tmp_path, scenario)
    assert names(tmp_path) == ["final.safetensors", "identity.key"]
