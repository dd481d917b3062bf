"""The supervisor between its decisions and a scripted trainer: what is passed on, said, counted, remembered."""

import asyncio
import json
import math
from pathlib import Path
from typing import Any, cast

import pytest

from lowcomm_node.daemon import supervisor as module
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.daemon.supervisor import TrainerSupervisor
from lowcomm_node.daemon.trainer_session import TrainerSession
from lowcomm_node.errors import OutOfMemoryError, TrainerError, TrainerKilledError
from lowcomm_node.settings.manifest import Manifest, TrainingConfig
from lowcomm_node.settings.node import DeviceSettings, NodeSettings
from lowcomm_node.telemetry.metrics import Metrics
from lowcomm_node.train.messages import Configure, Report
from lowcomm_node.units import PeerId, RunId

_RUN = RunId("ab" * 32)
_MANIFEST = Manifest(training=TrainingConfig(batch_size=8))


def report(micro_batches: int = 1, step_seconds: float = 0.1) -> Report:
    return Report(
        steps=1,
        tokens=1,
        loss=1.0,
        validation_loss=math.nan,
        learning_rate=0.1,
        gradient_norm=1.0,
        progress_steps=1.0,
        step_seconds=step_seconds,
        tokens_per_second=1.0,
        micro_batches=micro_batches,
    )


class Home:
    """A state directory and a machine of one node; each ``life`` is a daemon on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 0.0
        self.metrics = Metrics()

    def life(self, micro_batches: int = 0, hang_after_s: float = 60.0) -> TrainerSupervisor:
        self.metrics = Metrics()
        device = DeviceSettings(micro_batches=micro_batches, hang_after_s=hang_after_s)
        supervisor = TrainerSupervisor(device, self.folder, Recorder(self.metrics), clock=lambda: self.now)
        supervisor.begin(_MANIFEST, _RUN)
        supervisor.starts()
        return supervisor

    def metric(self, line: str) -> bool:
        return f"lowcomm_{line}\n" in self.metrics.exposition().decode()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def asked_of(supervisor: TrainerSupervisor) -> int:
    """What the next trainer would be configured with."""
    question = Configure(manifest=_MANIFEST, settings=NodeSettings(), run_id=_RUN, peer_id=PeerId("me"))
    return supervisor.with_micro_batches(question).settings.device.micro_batches


def test_a_fall_for_want_of_memory_is_remembered_for_the_next_daemon(home: Home) -> None:
    """The next trainer takes smaller parts, and so does the next life of the daemon, which would fall again otherwise."""
    first = home.life()
    assert (asked_of(first), home.metric("train_micro_batches 1.0")) == (0, True)  # begin as you think best

    first.fell(OutOfMemoryError("full"), 1)

    assert asked_of(first) == 2
    assert home.metric("train_micro_batches 2.0")
    assert home.metric('trainer_restarts_total{reason="out_of_memory"} 1.0')
    assert asked_of(home.life()) == 2


def test_what_the_trainer_finds_out_without_falling_is_remembered_too(home: Home) -> None:
    """Its reports say in how many parts it takes a batch."""
    first = home.life()
    first.heard(report(micro_batches=4))

    assert home.metric("train_micro_batches 4.0")
    assert json.loads((home.folder / "micro_batches.json").read_text())["micro_batches"] == 4
    assert asked_of(home.life()) == 4


def test_who_says_a_number_is_not_overruled_by_memories(home: Home) -> None:
    """device.micro_batches is where each life begins: it neither reads the file nor writes it."""
    home.life().heard(report(micro_batches=8))

    chosen = home.life(micro_batches=2)
    assert asked_of(chosen) == 2
    chosen.fell(OutOfMemoryError("full"), 1)
    assert asked_of(chosen) == 4
    assert asked_of(home.life(micro_batches=2)) == 2
    assert asked_of(home.life()) == 8


def test_giving_up_is_an_error_that_says_what_to_do(home: Home) -> None:
    """The fifth kill in a row; none of the four before it raises."""
    life = home.life()
    waits = [life.fell(TrainerKilledError("killed"), -9) for _ in range(4)]

    with pytest.raises(TrainerError, match=r"5 times in a row: killed; .*device\.micro_batches"):
        life.fell(TrainerKilledError("killed"), -9)
    assert waits == [2.0, 4.0, 8.0, 16.0]
    assert home.metric('trainer_restarts_total{reason="killed"} 4.0')


class Silent:
    """A session whose trainer says nothing."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self.is_asked = False
        self.silences: list[float] = []

    def end_hanging(self, silent_s: float) -> None:
        self.silences.append(silent_s)
        self.lost.set()


def watch(home: Home, supervisor: TrainerSupervisor, story: Any, monkeypatch: pytest.MonkeyPatch) -> Silent:
    """Let the supervisor look once per second of ``home``'s clock until the trainer has ended; ``story`` happens before."""
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.0001)
    silent = Silent()

    async def bounded() -> None:
        def look() -> bool:
            home.now += 1.0
            return bool(story(silent))

        async with asyncio.timeout(20):
            await supervisor.watch(cast("TrainerSession", silent), look)

    asyncio.run(bounded())
    return silent


def test_a_trainer_that_is_silent_while_it_should_train_is_ended(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """After device.hang_after_s, counted from its last word."""
    life = home.life(hang_after_s=30.0)

    def story(_session: Silent) -> bool:
        if home.now <= 100:
            life.heard(report())
        return False

    silent = watch(home, life, story, monkeypatch)

    assert silent.silences == [30.0]
    assert home.now == pytest.approx(131.0, abs=2.0)


def test_a_finished_run_is_no_silence(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer with nothing to do has nothing to say, for hours; when it goes on, the silence counts from then."""
    life = home.life(hang_after_s=30.0)
    life.heard(report())

    def story(_session: Silent) -> bool:
        if home.now == 2.0:
            life.heard(report())
        return 2.0 < home.now < 800.0

    silent = watch(home, life, story, monkeypatch)

    assert home.now == pytest.approx(830.0, abs=2.0)
    assert silent.silences == [30.0]


def test_a_trainer_that_ends_by_itself_ends_the_watch(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is not blamed for hanging."""
    life = home.life()

    def story(session: Silent) -> bool:
        if home.now == 5.0:
            session.lost.set()
        return False

    assert watch(home, life, story, monkeypatch).silences == []


@pytest.mark.parametrize("turns", range(5))
def test_a_watch_that_is_cancelled_as_the_trainer_ends_is_cancelled(home: Home, turns: int) -> None:
    """The incident: it returned as if nobody had cancelled it, and a node that was leaving waited for itself."""
    life = home.life()

    async def scenario() -> bool:
        silent = Silent()
        watching = asyncio.create_task(life.watch(cast("TrainerSession", silent), lambda: True))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        silent.lost.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        is_over = watching.done()
        watching.cancel()
        await asyncio.wait({watching})
        return is_over or watching.cancelled()

    assert asyncio.run(scenario())
