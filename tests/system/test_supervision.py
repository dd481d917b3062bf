"""Nothing is left behind and nothing stays down: real processes, real signals, a real service manager's socket."""

import json
import math
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lowcomm_node.daemon.children import birth_of
from tests.system.real_nodes import TINY_MANIFEST, RealNode, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

_PATIENCE_S = 100.0
"""On a machine that does much else; each of these takes a few seconds on one that does not."""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a manifest and a little text."""
    folder = tmp_path_factory.mktemp("s")
    (folder / "run.toml").write_text(TINY_MANIFEST)
    (folder / "text").mkdir()
    for index in range(40):
        (folder / "text" / f"{index}.txt").write_text(f"the quick brown fox {index} jumps over the lazy dog\n" * 60)
    return folder


@pytest.fixture(scope="module")
def first(workshop: Path) -> Iterator[RealNode]:
    """The node that started the run, in training."""
    node = start(workshop, "first", "--manifest", str(workshop / "run.toml"))
    try:
        node.wait_for(lambda status: status["state"] == "training", _PATIENCE_S, "the first node trains")
        yield node
    finally:
        node.clean_up()


def start(workshop: Path, name: str, *arguments: str) -> RealNode:
    return RealNode(workshop / name, *arguments, text=workshop / "text")


def join(workshop: Path, name: str, first: RealNode, *arguments: str) -> RealNode:
    return start(workshop, name, "--peers", first.status()["join_address"], *arguments)


def test_a_killed_trainer_comes_back_with_state_and_meets_again(workshop: Path, first: RealNode) -> None:
    """The daemon stays a member; the new trainer takes a donor's state, and the next meetings come."""
    node = join(workshop, "phoenix", first)
    try:
        before = node.wait_for(lambda s: s["meetings"]["completed"] >= 1, _PATIENCE_S, "it meets")
        node.child("lowcomm_node.train.process").kill()
        after = node.wait_for(
            lambda s: (
                s["training"]["restarts"] == 1
                and s["state"] == "training"
                and s["meetings"]["completed"] > before["meetings"]["completed"]
            ),
            _PATIENCE_S,
            "it meets again",
        )
        assert after["training"]["progress_steps"] > 0
        assert after["peer_id"] == before["peer_id"]
        lost = [line for line in _log(node) if line["event"] == "trainer_lost"]
        assert [line["reason"] for line in lost] == ["killed"]
        assert node.end() == 0
        assert node.survivors() == []
        assert not (node.state_dir / "processes.json").exists()
    finally:
        node.clean_up()


def test_a_node_whose_weights_have_gone_bad_heals_from_a_donor(workshop: Path, first: RealNode) -> None:
    """It poisons nobody, begins anew with a donor's state, and trains and meets again; once is enough."""
    peers = ["--peers", first.status()["join_address"]]
    node = RealNode(workshop / "unfit", *peers, text=workshop / "text", program=["-m", "tests.system.unfit_node"])
    try:
        healed = node.wait_for(
            lambda s: s["training"]["restarts"] == 1 and s["state"] == "training", _PATIENCE_S, "it heals"
        )
        node.wait_for(
            lambda s: s["meetings"]["completed"] > healed["meetings"]["completed"] and s["training"]["steps"] > 0,
            _PATIENCE_S,
            "it meets again",
        )
        assert (node.state_dir / "went-bad").exists()
        lost = [line for line in _log(node) if line["event"] == "trainer_lost"]
        assert [line["reason"] for line in lost] == ["unfit"]
        assert [line["event"] for line in _log(node) if line["event"] == "state_downloaded"] == ["state_downloaded"] * 2
        assert math.isfinite(first.status()["training"]["loss"])
        assert node.end() == 0
    finally:
        node.clean_up()


def test_a_stopped_trainer_is_noticed(workshop: Path, first: RealNode) -> None:
    """SIGSTOP: the process is there and says nothing. It is ended and started again."""
    node = join(workshop, "frozen", first, "--set", "device.hang_after_s=2")
    try:
        node.wait_for(lambda s: s["training"]["steps"] > 5, _PATIENCE_S, "it trains")
        node.child("lowcomm_node.train.process").suspend()
        node.wait_for(
            lambda s: s["training"]["restarts"] >= 1 and s["state"] == "training", _PATIENCE_S, "it trains again"
        )
        lost = [line for line in _log(node) if line["event"] == "trainer_lost"]
        assert lost[0]["reason"] == "hang"
    finally:
        node.clean_up()


def test_kill_9_of_the_daemon_leaves_nothing_and_the_next_life_cleans_up(workshop: Path, first: RealNode) -> None:
    """Trainer and p2pd end at once although both are stopped and cannot read a closed pipe.

    What the next life finds in the record is ended if it is what was recorded, and spared if only the pid is the same.
    """
    node = join(workshop, "killed", first)
    orphans = [subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1) for _ in range(2)]
    again = None
    try:
        node.wait_for(lambda s: s["training"]["steps"] > 5, _PATIENCE_S, "it trains")
        assert len(node.family()) == 3
        record = node.state_dir / "processes.json"
        recorded = json.loads(record.read_text())
        assert {entry["kind"] for entry in recorded} == {"trainer", "p2pd"}
        for child in ("lowcomm_node.train.process", "p2pd"):
            node.child(child).suspend()
        node.end(signal.SIGKILL)
        assert node.survivors() == []
        assert (node.state_dir / "control.sock").exists()
        births = [birth_of(orphans[0].pid), "of somebody who had this pid before"]
        for orphan, birth in zip(orphans, births, strict=True):
            recorded.append({"kind": "p2pd", "pid": orphan.pid, "birth": birth, "sockets": ""})
        record.write_text(json.dumps(recorded))

        again = join(workshop, "killed", first)
        again.wait_for(lambda s: s["training"]["steps"] > 5, _PATIENCE_S, "the next life trains")

        assert orphans[0].wait(5) == -signal.SIGTERM
        assert orphans[1].poll() is None
        removed = [line for line in _log(again) if line["event"] == "leftovers_removed"]
        assert [(line["processes"], line["pids"]) for line in removed] == [(1, [orphans[0].pid])]
        assert again.end() == 0
        assert again.survivors() == []
        assert not list(node.state_dir.glob("**/*.sock"))
        assert not list(node.state_dir.glob(".*.unfinished"))
    finally:
        node.clean_up()
        if again is not None:
            again.clean_up()
        for orphan in orphans:
            orphan.kill()
            orphan.communicate()


def test_a_service_manager_hears_of_the_whole_life(
    workshop: Path, first: RealNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ready only once it is a member, then a watchdog that is fed, a status with step and loss, and stopping at leave."""
    address = workshop / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.setblocking(False)
        lines: list[str] = []

        def hears(word: str, times: int = 1) -> bool:
            with suppress(BlockingIOError):
                while True:
                    lines.extend(manager.recv(4096).decode().split("\n"))
            return sum(word in line for line in lines) >= times

        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        monkeypatch.setenv("WATCHDOG_USEC", "1500000")
        node = join(workshop, "service", first)
        try:
            wait_until(lambda: hears("READY=1"), _PATIENCE_S, "ready")
            assert any(line["event"] == "joined" for line in _log(node))
            assert any(line.startswith("STATUS=connecting") for line in lines[: lines.index("READY=1")])
            assert "EXTEND_TIMEOUT_USEC=30000000" in lines[: lines.index("READY=1")]
            lines.clear()
            wait_until(lambda: hears("WATCHDOG=1", 5), _PATIENCE_S, "the watchdog is fed")
            wait_until(lambda: hears("STATUS=training: step"), _PATIENCE_S, "a status with the step")
            assert not any(
                "NOTIFY_SOCKET" in child.environ() for child in node.family() if child.pid != node.process.pid
            )

            node.process.send_signal(signal.SIGSTOP)
            _silence(lambda: hears(""), lines)
            node.process.send_signal(signal.SIGCONT)
            wait_until(lambda: hears("WATCHDOG=1", 2), _PATIENCE_S, "it is fed again")
            assert "STOPPING=1" not in lines
            assert node.end() == 0
            assert hears("STOPPING=1")
            assert lines.count("STOPPING=1") == 1
            assert node.survivors() == []
        finally:
            node.process.send_signal(signal.SIGCONT)
            node.clean_up()


def test_a_directory_that_takes_no_lock_ends_a_starting_node_with_a_sentence(workshop: Path, first: RealNode) -> None:
    """A state directory that cannot be used: which one, why, what to do; exit status for it; nobody stays behind."""
    (workshop / "stuck" / "node.lock").mkdir(parents=True)
    again = join(workshop, "stuck", first)
    try:
        assert again.process.wait(_PATIENCE_S) == 73
        assert f"{again.state_dir}: the node cannot write there" in again.tail()
        assert again.survivors() == []
    finally:
        again.clean_up()


def _silence(look: object, lines: list[str]) -> None:
    """Wait until what was sent before is read, and nothing more comes for a while."""
    assert callable(look)
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        lines.clear()
        look()
        if not lines:
            return
        time.sleep(0.6)
    raise AssertionError("a stopped daemon still speaks")


def _log(node: RealNode) -> list[dict[str, object]]:
    text = node.log.read_text(errors="replace")
    return [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]
