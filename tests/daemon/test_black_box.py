"""Dumps of a node: on request and on failure, for their owner's eyes, few, and without names."""

import asyncio
import json
import socket
import stat
from collections import deque
from pathlib import Path

import pytest

from lowcomm_node.core.commands import Command
from lowcomm_node.core.events import Event, Member, MembersSeen, StepsTaken, Ticked, TrainerReady
from lowcomm_node.core.node import NodeCore
from lowcomm_node.daemon.black_box import BlackBox
from lowcomm_node.errors import ConfigError, NoPeerError, StoreError, TrainerError
from lowcomm_node.settings.node import DataSettings, NetworkSettings, NodeSettings
from lowcomm_node.sim.link import virtual_peer
from lowcomm_node.sim.swarm import rules
from lowcomm_node.telemetry.flight.dump import Dump, read_dump
from lowcomm_node.telemetry.flight.replay import CommandsDiffer, replay
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import Status, TrainingStatus

OWN, OTHER = virtual_peer(0), virtual_peer(1)
SETTINGS = NodeSettings(
    data=DataSettings(paths=("/srv/private/diary",)),
    network=NetworkSettings(announce_host="volunteer.example"),
)
STATUS = Status(
    peer_id=OWN,
    run_name="my secret run",
    state="training",
    join_address=f"/dns4/volunteer.example/tcp/7000/p2p/{OWN}",
    grpc_address="volunteer.example:7001",
    training=TrainingStatus(steps=7, sketch=[1.25, 2.5]),
)


def black_box(state_dir: Path, **logged: str) -> BlackBox:
    return BlackBox(
        settings=SETTINGS,
        state_dir=state_dir,
        status=lambda: STATUS,
        recent_log=deque([{"level": "warning", "event": "message_rejected", **logged}]),
    )


class _Broken(NodeCore):
    """Fails at its third step."""

    def handle(self, event: Event, now: float) -> list[Command]:
        if isinstance(event, StepsTaken) and event.steps == 3:
            raise KeyError("a bug")
        return super().handle(event, now)


def lived(box: BlackBox, core: NodeCore) -> None:
    """A short life, until it breaks or not."""
    recorder = box.record(core)
    member = Member(peer=OTHER, grpc_address="198.51.100.9:7001", progress_steps=0, has_state=True, expires_at=1e9)
    recorder.handle(MembersSeen(members=(member,)), 0.0)
    recorder.handle(TrainerReady(), 0.0)
    for steps in range(10):
        recorder.handle(Ticked(), float(steps))
        recorder.handle(StepsTaken(steps=steps), float(steps))


def files(state_dir: Path) -> list[str]:
    return sorted(path.name for path in state_dir.iterdir())


def crash_dump(state_dir: Path) -> Dump:
    (path,) = state_dir.iterdir()
    assert path.name.startswith("crash-")
    assert path.suffix == ".json"
    return read_dump(path)


def test_a_dump_on_request(tmp_path: Path) -> None:
    """Private to its owner, whole, and it runs."""
    box = black_box(tmp_path)
    lived(box, NodeCore(rules(OWN)))

    path = asyncio.run(box.dump(is_full=False))

    assert files(tmp_path) == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    dump = read_dump(path)
    assert dump.recording is not None
    outcome = replay(dump.recording)
    assert outcome.difference is None
    assert (outcome.num_events, outcome.num_commands) == (22, 1)
    assert box.size()[0] == 22


def test_nobody_is_named(tmp_path: Path) -> None:
    """Peers, addresses, the run, the host, the directories and the texts of settings are gone; numbers are not."""
    box = black_box(
        tmp_path,
        detail=f"{OTHER} at 198.51.100.9:7001 and {Path.home()}/x on {socket.gethostname()}",
        run="my secret run",
    )
    lived(box, NodeCore(rules(OWN)))

    text = asyncio.run(box.dump(is_full=False)).read_text()

    for word in (OWN, OTHER, "198.51.100.9", "secret run", "volunteer.example", "diary", str(tmp_path), "sketch"):
        assert word not in text
    header = json.loads(text)["header"]
    assert header["status"]["training"]["steps"] == 7
    assert header["settings"]["data.paths"] == "(set)"
    assert header["settings"]["network.announce_host"] == "(set)"
    assert header["settings"]["network.host"] == "127.0.0.1"
    assert header["settings"]["log.level"] == "info"
    # The smaller of two peer ids has the smaller number.
    pseudonyms = dict(zip(sorted((OWN, OTHER)), ("peer-1", "peer-2"), strict=True))
    assert header["status"]["peer_id"] == pseudonyms[OWN]
    (log,) = header["recent_log"]
    assert log["detail"].startswith(f"{pseudonyms[OTHER]} at addr-1 and ~/x on (host)")


def test_a_full_dump_keeps_names_and_no_tensors(tmp_path: Path) -> None:
    """For somebody who debugs their own node."""
    box = black_box(tmp_path)
    lived(box, NodeCore(rules(OWN)))

    text = asyncio.run(box.dump(is_full=True)).read_text()

    assert OTHER in text
    assert "/srv/private/diary" in text
    assert "sketch" not in text


def test_a_failing_core_leaves_one_dump_at_once(tmp_path: Path) -> None:
    """Written when it happens, not when the node ends; the exception goes its way and says where the dump is."""
    box = black_box(tmp_path)

    with pytest.raises(KeyError) as raised:
        lived(box, _Broken(rules(OWN)))
    box.crashed(raised.value)  # the same error, on its way out of the node

    dump = crash_dump(tmp_path)
    assert "crash-" in raised.value.__notes__[0]
    assert len(raised.value.__notes__) == 1
    assert dump.header["reason"] == "crash"
    error = dump.header["error"]
    assert isinstance(error, list)
    assert error[-1] == "KeyError: 'a bug'"
    assert any('File "daemon/test_black_box.py"' in str(line) for line in error)
    assert dump.recording is not None
    assert dump.recording.entries[-1].raised == "KeyError"
    difference = replay(dump.recording).difference
    assert isinstance(difference, CommandsDiffer)  # the core here has no such bug
    assert difference.entry.event == StepsTaken(steps=3)


def test_a_core_that_fails_again_and_again_fills_no_disk(tmp_path: Path) -> None:
    """The first failure is the one to read."""
    box = black_box(tmp_path)
    recorder = box.record(_Broken(rules(OWN)))
    for _ in range(3):
        with pytest.raises(KeyError):
            recorder.handle(StepsTaken(steps=3), 0.0)

    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("error", [TrainerError("it keeps dying"), StoreError("disk full"), RuntimeError("a bug")])
def test_a_node_that_fails_leaves_a_dump(tmp_path: Path, error: Exception) -> None:
    """With the error in it, and the path on the error."""
    box = black_box(tmp_path)
    lived(box, NodeCore(rules(OWN)))

    box.crashed(error)

    assert str(error) in str(crash_dump(tmp_path).header["error"])
    assert str(tmp_path) in error.__notes__[0]


@pytest.mark.parametrize("error", [ConfigError("no such key"), NoPeerError("nobody"), asyncio.CancelledError()])
def test_what_people_can_mend_leaves_no_dump(tmp_path: Path, error: BaseException) -> None:
    """A message that says what to do is enough."""
    box = black_box(tmp_path)
    lived(box, NodeCore(rules(OWN)))

    box.crashed(error)

    assert files(tmp_path) == []


def test_a_crash_before_the_run_is_joined_is_told_too(tmp_path: Path) -> None:
    """There is no core yet, but a header."""
    black_box(tmp_path).crashed(RuntimeError("a bug"))

    assert crash_dump(tmp_path).recording is None


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    """Five of each kind, and nothing but our own files is touched."""
    (tmp_path / "final.safetensors").touch()
    box = black_box(tmp_path)
    lived(box, NodeCore(rules(OWN)))
    for number in range(7):
        box.crashed(RuntimeError(f"number {number}"))
        asyncio.run(box.dump(is_full=False))

    kept = sorted(tmp_path.glob("crash-*.json"))
    assert len(kept) == len(list(tmp_path.glob("dump-*.json"))) == 5
    assert "number 6" in str(read_dump(kept[-1]).header["error"])
    assert "number 2" in str(read_dump(kept[0]).header["error"])
    assert (tmp_path / "final.safetensors").exists()


def test_a_disk_that_takes_nothing_hides_no_error(tmp_path: Path) -> None:
    """The crash's own error gets out; on request the reason is said; no half file stays."""
    box = black_box(tmp_path / "gone")
    lived(box, NodeCore(rules(OWN)))
    error = RuntimeError("the real one")

    box.crashed(error)

    assert not hasattr(error, "__notes__")
    with pytest.raises(StoreError, match="the dump cannot be written"):
        asyncio.run(box.dump(is_full=False))


def test_a_bug_in_a_callback_of_the_loop_leaves_a_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop only logs what its callbacks raise; it goes on doing so, and of a bug there is a dump as well."""
    box = black_box(tmp_path)
    lived(box, NodeCore(rules(OWN)))
    logged: list[object] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "default_exception_handler", logged.append)
        loop.set_exception_handler(box.unhandled)
        loop.call_soon(lambda: 1 // 0)
        loop.call_soon(lambda: (_ for _ in ()).throw(ConnectionResetError()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(scenario())

    assert "ZeroDivisionError" in str(crash_dump(tmp_path).header["error"])
    assert len(logged) == 2
