"""The life of a node in one process: real control socket and HTTP port, scripted network and trainer."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from lowcomm_node.adapters.vitals_book import VitalsBook
from lowcomm_node.core.events import Member, RecordRenewed, TrainerReady
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.core.places import Fullness
from lowcomm_node.daemon import lifecycle
from lowcomm_node.daemon.join_options import JoinOptions
from lowcomm_node.daemon.lifecycle import Node
from lowcomm_node.daemon.notify import ServiceNotifier
from lowcomm_node.errors import DataError, LowcommError, TrainerError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import MetricsSettings, NodeSettings
from lowcomm_node.telemetry.flight.dump import read_dump
from lowcomm_node.telemetry.flight.replay import replay
from lowcomm_node.telemetry.flight.values import stand_in
from lowcomm_node.telemetry.metrics import Metrics
from lowcomm_node.train.messages import Ready
from lowcomm_node.units import Reachability, RunId, Stream

_READY = Ready(parameters=1, shapes=((1,),), snapshot_bytes_max=1000, train_tokens=1, validation_tokens=1, device="cpu")


async def _at_once() -> None: ...


class FakeTraining:
    """A trainer that is ready at once and trains for ever."""

    newest: "FakeTraining"

    def __init__(self, **_: object) -> None:
        FakeTraining.newest = self
        self.ready = self.report = self.beat = None
        self.started_loss = float("nan")
        self.has_state = False
        self.has_ended = False
        self.pids: tuple[int, ...] = ()
        self.failure: LowcommError | None = None
        self.saving: Callable[[], Awaitable[None]] = _at_once
        self.story: list[str] = []

    def attach(self) -> None: ...

    def kill(self) -> None: ...

    async def release(self, due: Mapping[Stream, int]) -> None:
        self.story.append("release with state" if self.has_state else "release")
        self.has_state = False
        await self.saving()

    def wake(self) -> None:
        self.story.append("wake")

    def send(self, message: object) -> None: ...

    async def configure(self, *_: object) -> Ready:
        return _READY

    async def live(self, *, on_training: Callable[[], None], **_: object) -> None:
        if self.failure is not None:
            raise self.failure
        self.has_state = True
        on_training()
        await asyncio.Event().wait()

    async def take_snapshot(self) -> tuple[Path, float]:
        raise NotImplementedError

    def has_checkpoint(self, run: RunId) -> bool:
        return False

    async def keep_checkpoints(self, due: object) -> None: ...

    async def tell(self) -> None: ...

    def began_with(self) -> TrainerReady:
        return TrainerReady()

    async def save(self, due: Mapping[Stream, int]) -> None:
        self.due_at_end = due
        await self.saving()

    async def take_fingerprint(self) -> Fingerprint:
        raise NotImplementedError

    async def end(self, grace_s: float) -> None:
        del grace_s
        self.has_ended = True


class FakeOutreach:
    """Nobody to reach."""

    def carry_out(self, command: object) -> None: ...

    async def watch(self, on_change: object) -> None: ...


class FakePulse:
    """Nobody to ask for the time."""

    async def run(self) -> None: ...


class FakeNetwork:
    """A directory of nobody that writes down what it was asked for."""

    newest: "FakeNetwork"

    def __init__(self, **_: object) -> None:
        FakeNetwork.newest = self
        self.join_address = self.grpc_address = ""
        self.link, self.states = None, SimpleNamespace(client=None)
        self.outreach, self.reachability = FakeOutreach(), Reachability.PUBLIC
        self.pulse = FakePulse()
        self.record = b""
        self.vitals = VitalsBook()
        self.story: list[str] = []
        self.announcing: Callable[[], Awaitable[None]] = _at_once
        self.starting: Callable[[], Awaitable[None]] = _at_once

    async def start(self, remembered: Sequence[str] = (), *, may_be_alone: bool = False) -> bool:
        await self.starting()
        return False

    known_addresses: tuple[str, ...] = ()

    def num_peers(self) -> tuple[int, int]:
        return 0, 0

    def fullness(self) -> dict[str, Fullness]:
        return {}

    def offended(self, peer: object, error: object) -> None: ...

    async def enter(self, *_: object) -> None: ...

    async def open(self, *_: object, **__: object) -> None: ...

    def verify(self, record: bytes) -> Member:
        raise NotImplementedError

    async def announce(self, **_: object) -> None:
        self.story.append("announce")
        try:
            await self.announcing()
        finally:
            self.story.append("announce ended")

    async def members(self) -> tuple[Member, ...]:
        return ()

    donors = members

    async def withdraw(self) -> None:
        self.story.append("withdraw")

    async def stop(self) -> None: ...


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(lifecycle, "Training", FakeTraining)
    monkeypatch.setattr(lifecycle, "Network", FakeNetwork)
    monkeypatch.setattr(lifecycle, "_TICK_S", 0.0)
    options = JoinOptions(
        manifest=Manifest(),
        peers=(),
        run_id="",
        settings=NodeSettings(metrics=MetricsSettings(port=0)),
        state_dir=tmp_path,
        invite="",
        say=lambda _: None,
    )
    return Node(options, Metrics())


async def _stop_at_once(node: Node) -> Ready:
    node._stop_requested.set()
    return _READY


def run(life: Awaitable[Any]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await life

    asyncio.run(bounded())


def test_the_loop_shows_that_it_is_alive_while_it_looks_for_the_run(node: Node) -> None:
    """Peers may take a minute to answer; a supervisor that reads /livez must not end the node for that."""
    first = node._health().loop_beat_s

    async def slow_start() -> None:
        while node._health().loop_beat_s == first:  # noqa: ASYNC110 - the tick sets no event
            await asyncio.sleep(0)
        node._stop_requested.set()

    FakeNetwork.newest.starting = slow_start

    run(node.run())

    assert FakeTraining.newest.has_ended


def test_the_log_says_once_what_is_exchanged_and_why(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Periods that follow from half-lives stand nowhere in the manifest; the node says each of them once, and nothing beside the log."""
    told: list[str] = []
    monkeypatch.setattr(node, "_options", replace(node._options, say=told.append))
    monkeypatch.setattr(FakeTraining.newest, "configure", lambda *_: _stop_at_once(node))

    with capture_logs() as lines:
        run(node.run())

    said = [line for line in lines if line["event"] == "exchange_period"]
    assert [(line["stream"], line["every_steps"], line["reason"]) for line in said] == [
        ("params", 5, "set in the manifest"),
        ("momentum", 0, "beta 0.95 forgets half in 13.5 steps, so an exchanged value is gone before it matters"),
        ("exp_avg", 0, "beta 0.9 forgets half in 6.6 steps, so an exchanged value is gone before it matters"),
        ("exp_avg_sq", 69, "half-life of beta 0.99"),
    ]
    assert not any("exchang" in line for line in told)


def test_nothing_is_announced_once_the_node_has_said_good_bye(node: Node) -> None:
    """Neither by an announcement that was under way nor by the next one: saving can take longer than a renewal."""
    network, training = FakeNetwork.newest, FakeTraining.newest

    async def leave_meanwhile() -> None:
        if training.has_state:
            node._stop_requested.set()
            await asyncio.Event().wait()

    async def save_slowly() -> None:
        node._presence.renew()
        for _ in range(20):
            await asyncio.sleep(0)

    network.announcing, training.saving = leave_meanwhile, save_slowly

    run(node.run())

    assert network.story[-2:] == ["announce ended", "withdraw"]


def test_offers_carry_a_renewed_record_while_the_directory_is_slow(node: Node) -> None:
    """Storing it can take longer than the old one lives, and partners refuse an offer with an expired record."""
    network = FakeNetwork.newest

    async def store_slowly() -> None:
        network.record = b"renewed"
        while node._core is None or node._core._initiator.member != b"renewed":  # noqa: ASYNC110
            await asyncio.sleep(0)
        node._stop_requested.set()
        await asyncio.Event().wait()

    network.announcing = store_slowly

    run(node.run())

    assert network.story == ["announce", "announce ended", "withdraw"]


def test_what_ends_the_training_ends_the_node_with_its_own_error(node: Node) -> None:
    """Not with a group of errors, and not before everything else has been stopped."""
    FakeTraining.newest.failure = DataError("no text left")

    with pytest.raises(DataError, match="no text left"):
        run(node.run())

    assert FakeTraining.newest.has_ended
    assert node.status().state == "failed"


def test_a_service_manager_hears_ready_status_and_stopping_in_order(node: Node, tmp_path: Path) -> None:
    """Ready when the run is joined, not before the network is up; the last word of a node in order is that it stops."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        node._service = ServiceNotifier(str(tmp_path / "notify"), watchdog_s=30.0)
        heard: list[str] = []

        def listen() -> list[str]:
            with suppress(BlockingIOError):
                while True:
                    heard.extend(manager.recv(4096).decode().split("\n"))
            return heard

        async def slow_start() -> None:
            while not any(line.startswith("STATUS=connecting") for line in listen()):  # noqa: ASYNC110 - the tick sets no event
                await asyncio.sleep(0)
            assert "READY=1" not in heard

        FakeNetwork.newest.starting = slow_start

        async def leave_when_told() -> None:
            while "READY=1" not in listen():  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
            node._stop_requested.set()

        async def life() -> None:
            await asyncio.gather(node.run(), leave_when_told())

        run(life())

        words = [line.partition("=")[0] for line in listen()]
        assert words.index("READY") < words.index("STOPPING")
        assert (words.count("READY"), words.count("STOPPING"), words.count("WATCHDOG")) == (1, 1, 1)


def test_a_node_that_fails_says_where_its_dump_is(node: Node, tmp_path: Path) -> None:
    """The error carries the path; what the core was told stands in the file."""
    FakeTraining.newest.failure = TrainerError("it keeps dying")

    with pytest.raises(TrainerError) as raised:
        run(node.run())

    (path,) = tmp_path.glob("crash-*.json")
    assert str(path) in raised.value.__notes__[0]
    dump = read_dump(path)
    assert isinstance(dump.header["status"], dict)
    assert dump.header["status"]["state"] == "failed"
    assert dump.recording is not None
    assert replay(dump.recording).difference is None


def test_our_record_goes_through_the_core_and_its_recorder(node: Node) -> None:
    """What changes a core is an event, or a replay would not know of it; the same record again is none."""

    async def leave_after_a_few_ticks() -> None:
        FakeNetwork.newest.record = b"record"
        for _ in range(20):
            await asyncio.sleep(0)
        node._stop_requested.set()

    FakeNetwork.newest.announcing = leave_after_a_few_ticks

    run(node.run())

    recorder = node._black_box._recorder
    assert recorder is not None
    events = [entry.event for entry in recorder.recording().entries]
    assert events.count(RecordRenewed(member=stand_in(b"record"))) == 1


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - a state sets no event
        await asyncio.sleep(0)


def test_a_pause_takes_the_record_back_and_rests_the_trainer(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved, ended, not ready and alive, nothing to meet or to give; and all of it again by a word."""
    training, network = FakeTraining.newest, FakeNetwork.newest
    told: list[bool] = []
    plain_announce = network.announce

    async def announce(**standing: object) -> None:
        told.append(bool(standing["has_state"]))
        await plain_announce(**standing)

    monkeypatch.setattr(network, "announce", announce)

    async def life() -> None:
        living = asyncio.create_task(node.run())
        await _until(lambda: training.has_state)
        node._owner_watch.pause(0.0)
        await _until(lambda: node.status().state == "paused")
        await _until(lambda: not told[-1])
        health = node._health()
        assert health.reasons_not_live(health.loop_beat_s) == []
        assert health.reasons_not_ready() == ["paused: its owner has said so, until 'lowcomm-node resume'"]
        assert list(node.status().pause.reasons) == ["command"]
        node._owner_watch.resume()
        await _until(lambda: training.has_state)
        await _until(lambda: told[-1])
        node._stop_requested.set()
        await living

    run(life())

    assert training.story == ["release with state", "wake"]
    assert network.story[-1] == "withdraw"


def test_who_leaves_in_the_middle_of_a_pause_waits_for_the_state(node: Node) -> None:
    """Saving is not cut off, and is not done twice."""
    training, saved = FakeTraining.newest, []

    async def save() -> None:
        node._stop_requested.set()
        for _ in range(50):
            await asyncio.sleep(0)
        saved.append("whole")

    training.saving = save

    async def life() -> None:
        living = asyncio.create_task(node.run())
        await _until(lambda: training.has_state)
        node._owner_watch.pause(0.0)
        await living

    run(life())

    assert saved == ["whole"]
    assert training.has_ended
    assert node.status().state == "stopped"


def test_a_node_that_was_paused_starts_paused(node: Node, tmp_path: Path) -> None:
    """It is in no run and has no trainer, tells its service manager that it is ready, and joins when its owner says so."""
    (tmp_path / "pause.json").write_text('{"until_unix_seconds": null}')
    training = FakeTraining.newest

    async def life() -> None:
        living = asyncio.create_task(node.run())
        await _until(lambda: node.status().state == "paused")
        assert node.status().run_id == ""
        assert training.story == ["release"]
        assert node._service._is_ready
        node._owner_watch.resume()
        await _until(lambda: training.has_state)
        node._stop_requested.set()
        await living

    run(life())

    assert training.story == ["release", "wake"]
    assert not (tmp_path / "pause.json").exists()
