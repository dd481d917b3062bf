"""The trainer over a node's life, with scripted trainer processes."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lowcomm_node.core import supervision
from lowcomm_node.core.events import Member
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.daemon import training as training_module
from lowcomm_node.daemon.children import Children
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.daemon.training import Training
from lowcomm_node.errors import LowcommError, StoreError, TrainerError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import CheckpointSettings, NodeSettings
from lowcomm_node.telemetry.metrics import Metrics
from lowcomm_node.train.messages import (
    CheckpointWritten,
    Configure,
    FingerprintTaken,
    FromTrainer,
    LoadState,
    Ready,
    Report,
    Run,
    SnapshotWritten,
    StateLoaded,
    Stop,
    Stopped,
    TakeFingerprint,
    ToTrainer,
    WriteCheckpoint,
    WriteSnapshot,
)
from lowcomm_node.units import PeerId, RunId, Stream

_READY = Ready(parameters=1, shapes=((1,),), snapshot_bytes_max=1000, train_tokens=1, validation_tokens=1, device="cpu")

_PRINT = Fingerprint(progress_steps=1.0, sketch=(1.0,), norms=())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path: str) -> None:
    Path(path).write_text("state")


def make(folder: str) -> None:
    if folder:
        Path(folder).mkdir()


@dataclass
class Script:
    """What the trainer processes of a test do, and what was asked of them."""

    fails_to_build: set[int] = field(default_factory=set)
    """Numbers of the lives that die while they build the model."""
    lives: "list[ScriptedSession]" = field(default_factory=list)
    asked: list[ToTrainer] = field(default_factory=list)
    may_write: asyncio.Event = field(default_factory=asyncio.Event)
    is_disk_full: bool = False


class ScriptedSession:
    """In place of a ``TrainerSession``."""

    script: Script

    def __init__(self, on_message: Callable[[FromTrainer], None]) -> None:
        del on_message
        self.number = len(self.script.lives)
        self.script.lives.append(self)
        self.lost = asyncio.Event()
        self.exit_status = 1
        self.pid = 0
        self.is_asked = False
        self.has_stopped = False

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
            case WriteCheckpoint(path=path) | Stop(path=path):
                await self.script.may_write.wait()
                if self.script.is_disk_full:
                    raise StoreError("no space left on device")
                make(path)
                if isinstance(question, Stop):
                    self.has_stopped = True
                    self.lost.set()
                    return Stopped(path=path)
                return CheckpointWritten(path=path, progress_steps=1.0, steps=1)
            case LoadState():
                return StateLoaded(progress_steps=1.0, steps=1, tokens=1)
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
    monkeypatch.setattr(supervision, "_FIRST_DELAY_S", 0.0)
    monkeypatch.setattr(training_module, "_PATIENCE_S", 0.0)
    return script


async def nobody() -> tuple[Member, ...]:
    return ()


def run(
    folder: Path,
    scenario: Callable[[Training], Coroutine[Any, Any, None]],
    checkpoint: CheckpointSettings | None = None,
    metrics: Metrics | None = None,
    is_sound: Callable[[], bool] = lambda: True,
) -> None:
    """Run ``scenario`` with a configured trainer."""

    async def bounded() -> None:
        training = Training(
            settings=NodeSettings(checkpoint=checkpoint or CheckpointSettings()),
            state_dir=folder,
            recorder=Recorder(metrics or Metrics()),
            children=Children(folder),
            on_message=lambda _: None,
            on_lost=lambda: None,
            enter=lambda _state, _detail: None,
            is_sound=is_sound,
        )
        async with asyncio.timeout(10):
            await training.configure(Manifest(), RunId("ab" * 32), PeerId("me"))
            await scenario(training)

    asyncio.run(bounded())


async def live(training: Training, script: Script, crashes: int) -> None:
    """Let the node train; each trainer that gets so far dies, ``crashes`` times in all."""
    began = asyncio.Event()
    life = asyncio.create_task(
        training.live(
            is_first=True, knows_nobody=True, find_donors=nobody, client=training_client(), on_training=began.set
        )
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


def test_a_trainer_that_dies_over_its_first_model_is_tried_again(tmp_path: Path, script: Script) -> None:
    """Before the node trains for the first time, a kill is no more final than later."""
    script.fails_to_build = {0, 1}

    run(tmp_path, lambda training: live(training, script, crashes=0))

    assert len(script.lives) == 3
    assert sum(isinstance(question, Run) for question in script.asked) == 1


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


async def until(condition: Callable[[], bool]) -> None:
    """Let everything else run until it is so."""
    while not condition():  # noqa: ASYNC110 - what the test waits for sets no event
        await asyncio.sleep(0)


async def a_while() -> None:
    """Many times as long as everything else needs to do what it is about to."""
    for _ in range(2000):
        await asyncio.sleep(0)


def _checkpoints(folder: Path) -> list[str]:
    return names(folder / "checkpoints") if (folder / "checkpoints").exists() else []


def _outcomes(metrics: Metrics) -> tuple[int, int]:
    lines = metrics.exposition().decode().splitlines()
    name = "lowcomm_checkpoint_writes_total"
    values = {line.split('"')[1]: float(line.split()[1]) for line in lines if line.startswith(name + "{")}
    return int(values["ok"]), int(values["failed"])


def _has_written(metrics: Metrics, count: int) -> bool:
    return _outcomes(metrics)[0] == count


_OFTEN = CheckpointSettings(every_s=1e-4, keep=2)


def _report(steps: int) -> Report:
    return Report(
        steps=steps, tokens=1, loss=1.0, validation_loss=1.0, learning_rate=0.1, gradient_norm=1.0,
        progress_steps=1.0, step_seconds=0.1, tokens_per_second=1.0,
    )  # fmt: skip


def test_checkpoints_are_written_as_long_as_training_moves(tmp_path: Path, script: Script) -> None:
    """The newest few are kept; with nothing new to keep nothing is written; the last one is written on leaving."""
    metrics = Metrics()
    due = {Stream.PARAMS: 7}

    async def scenario(training: Training) -> None:
        script.may_write.set()
        keeping = asyncio.create_task(training.keep_checkpoints(lambda: due))
        await a_while()
        assert _checkpoints(tmp_path) == []  # no state, nothing to keep
        training.has_state = True
        for steps in (10, 20, 30):
            training.report = _report(steps)
            await until(partial(_has_written, metrics, steps // 10))
        await a_while()
        assert _checkpoints(tmp_path) == ["00000002", "00000003"]
        await training.save(due)
        keeping.cancel()

    run(tmp_path, scenario, _OFTEN, metrics)

    assert _checkpoints(tmp_path) == ["00000003", "00000004"]
    assert _outcomes(metrics) == (4, 0)
    asked = [question for question in script.asked if isinstance(question, WriteCheckpoint | Stop)]
    assert [question.due for question in asked] == [due] * 4


def test_a_disk_that_is_full_costs_nothing_but_the_checkpoint(tmp_path: Path, script: Script) -> None:
    """Each failure is counted, the old ones stay, and when there is room again the next one is written."""
    metrics = Metrics()

    async def scenario(training: Training) -> None:
        script.may_write.set()
        training.has_state = True
        keeping = asyncio.create_task(training.keep_checkpoints(dict))
        await until(lambda: _outcomes(metrics) == (1, 0))
        script.is_disk_full = True
        training.report = _report(10)
        await until(lambda: _outcomes(metrics)[1] >= 3)
        assert _checkpoints(tmp_path) == ["00000001"]
        script.is_disk_full = False
        await until(lambda: _outcomes(metrics)[0] == 2)
        keeping.cancel()

    run(tmp_path, scenario, _OFTEN, metrics)

    assert _checkpoints(tmp_path) == ["00000001", "00000002"]


def test_leaving_waits_for_the_checkpoint_under_way(tmp_path: Path, script: Script) -> None:
    """The last one is another one: two writes never overlap, and neither takes the other's place."""

    async def scenario(training: Training) -> None:
        training.has_state = True
        keeping = asyncio.create_task(training.keep_checkpoints(dict))
        await until(lambda: any(isinstance(question, WriteCheckpoint) for question in script.asked))
        saving = asyncio.create_task(training.save({}))
        await a_while()
        assert not any(isinstance(question, Stop) for question in script.asked)
        script.may_write.set()
        await saving
        keeping.cancel()

    run(tmp_path, scenario, _OFTEN)

    assert _checkpoints(tmp_path) == ["00000001", "00000002"]


def test_a_trainer_that_ends_as_asked_is_not_started_again(tmp_path: Path, script: Script) -> None:
    """The incident: it had ended before the node let go of it, and a node that was leaving trained again, for ever."""

    async def scenario(training: Training) -> None:
        script.may_write.set()
        began = asyncio.Event()
        life = asyncio.create_task(
            training.live(
                is_first=True, knows_nobody=True, find_donors=nobody, client=training_client(), on_training=began.set
            )
        )
        await began.wait()
        await training.save({})
        await a_while()
        assert not life.done()
        life.cancel()
        await asyncio.wait({life})
        assert life.cancelled()

    run(tmp_path, scenario)

    assert len(script.lives) == 1


def test_a_cap_below_one_checkpoint_is_no_failure_to_leave(tmp_path: Path, script: Script) -> None:
    """Nothing is saved, as the settings want it, and the log says so; a disk that is full is another matter."""
    metrics = Metrics()

    async def scenario(training: Training) -> None:
        script.may_write.set()
        await training.save({})

    run(tmp_path, scenario, CheckpointSettings(max_bytes=1), metrics)
    assert Stop(path="") in script.asked
    assert _outcomes(metrics) == (0, 1)
    script.is_disk_full = True
    with pytest.raises(StoreError, match="could not be saved before leaving: no space left"):
        run(tmp_path, scenario)


def test_an_unfit_state_is_not_saved_on_leaving(tmp_path: Path, script: Script) -> None:
    """It is finite, so it could be written and read: the next life would begin with it instead of with the one before."""
    metrics = Metrics()
    sound = asyncio.Event()

    async def scenario(training: Training) -> None:
        script.may_write.set()
        sound.set()
        training.has_state = True
        keeping = asyncio.create_task(training.keep_checkpoints(dict))
        await until(lambda: _outcomes(metrics) == (1, 0))
        keeping.cancel()
        sound.clear()
        await training.save({})

    run(tmp_path, scenario, _OFTEN, metrics, is_sound=sound.is_set)

    assert script.asked[-1] == Stop(path="")
    assert _checkpoints(tmp_path) == ["00000001"]
    assert _outcomes(metrics) == (1, 1)


def test_checkpoints_can_be_left_to_the_end(tmp_path: Path, script: Script) -> None:
    """every_s = 0: none while training."""

    async def scenario(training: Training) -> None:
        training.has_state = True
        await training.keep_checkpoints(dict)

    run(tmp_path, scenario, CheckpointSettings(every_s=0.0))

    assert _checkpoints(tmp_path) == []


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
    """Snapshots for joiners and half-written files of an earlier process go; the checkpoints stay."""
    del script
    for name in ("snapshot-17.safetensors", ".snapshot-17.safetensors.99.unfinished", "identity.key"):
        (tmp_path / name).write_text("x")
    for name in ("00000001", ".00000002.unfinished"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)

    async def scenario(training: Training) -> None:
        assert training.ready == _READY
        assert training.has_state is False

    run(tmp_path, scenario)
    assert names(tmp_path) == ["checkpoints", "identity.key"]
    assert _checkpoints(tmp_path) == ["00000001"]


def test_an_unfit_state_is_not_given_away(tmp_path: Path, script: Script) -> None:
    """Neither a new look at it nor one of the last seconds: what made it unfit may have begun before."""
    sound = asyncio.Event()

    async def scenario(training: Training) -> None:
        script.may_write.set()
        sound.set()
        training.has_state = True
        await training.take_snapshot()
        await training.take_fingerprint()
        sound.clear()
        with pytest.raises(StoreError, match="unfit"):
            await training.take_snapshot()
        with pytest.raises(StoreError, match="unfit"):
            await training.take_fingerprint()

    run(tmp_path, scenario, is_sound=sound.is_set)


def test_an_unfit_state_takes_no_checkpoints_place(tmp_path: Path, script: Script) -> None:
    """It may last until the node may heal again, and few are kept: those from before are what is left of its work."""
    metrics = Metrics()
    sound = asyncio.Event()

    async def scenario(training: Training) -> None:
        script.may_write.set()
        training.has_state = True
        training.report = _report(10)
        keeping = asyncio.create_task(training.keep_checkpoints(dict))
        await a_while()
        assert _checkpoints(tmp_path) == []
        sound.set()
        await until(partial(_has_written, metrics, 1))
        keeping.cancel()

    run(tmp_path, scenario, _OFTEN, metrics, sound.is_set)

    assert _checkpoints(tmp_path) == ["00000001"]


def test_between_release_and_wake_there_is_no_trainer_and_nothing_to_give(tmp_path: Path, script: Script) -> None:
    """The state is on disk, the process is gone; the next one is built and trains again, and is no fallen one."""
    metrics = Metrics()

    async def scenario(training: Training) -> None:
        script.may_write.set()
        training.has_state = True
        await training.release({Stream.PARAMS: 7})
        assert script.lives[0].lost.is_set()
        assert script.asked[-1] == Stop(path=str(tmp_path / "checkpoints" / "00000001"), due={Stream.PARAMS: 7})
        assert _checkpoints(tmp_path) == ["00000001"]
        with pytest.raises(StoreError, match="no state"):
            await training.take_snapshot()
        training._said(_report(10))  # its last words
        training.wake()
        assert training.beat is None
        await live(training, script, crashes=0)

    run(tmp_path, scenario, metrics=metrics)

    assert len(script.lives) == 2
    assert [type(question) for question in script.asked[-2:]] == [Configure, Run]
    assert b'lowcomm_trainer_restarts_total{reason="trainer"} 0.0' in metrics.exposition()


def test_the_owner_goes_first_when_the_disk_is_full(tmp_path: Path, script: Script) -> None:
    """What cannot be saved does not keep the machine from its owner; the failure is counted."""
    metrics = Metrics()

    async def scenario(training: Training) -> None:
        script.may_write.set()
        script.is_disk_full = True
        training.has_state = True
        await training.release({})
        assert script.lives[0].lost.is_set()
        assert not training.has_state

    run(tmp_path, scenario, metrics=metrics)

    assert _outcomes(metrics) == (0, 1)


def test_a_trainer_without_state_is_ended_without_saving(tmp_path: Path, script: Script) -> None:
    """A pause while it builds or syncs: there is nothing to lose yet."""

    async def scenario(training: Training) -> None:
        await training.release({})
        assert script.lives[0].lost.is_set()

    run(tmp_path, scenario)

    assert not any(isinstance(question, Stop) for question in script.asked)
