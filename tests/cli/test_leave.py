"""cli.commands.leave: asking, watching, and saying what happened."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from lowcomm_node.cli import app
from lowcomm_node.cli.commands.leave import wait_until_gone
from lowcomm_node.daemon.control import ControlServer, NodeSilentError, NoNodeError
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import History, MeetingStatus, Peers, Status, TrainingStatus

_TRAINING = Status(state="training")
_DRAINING = Status(state="draining", detail="finishing a meeting")


async def no_dump(is_full: bool) -> Path:
    raise NotImplementedError


class Leaving:
    """A node that gives these answers, one a look, and the last of them for ever."""

    def __init__(self, answers: Sequence[Status | Exception]) -> None:
        self.now = 0.0
        self._answers = list(answers)

    def status(self) -> Status:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def watch(self, timeout_s: float) -> tuple[Status, bool, list[str]]:
        said: list[str] = []
        last, has_left = wait_until_gone(self, _TRAINING, timeout_s, said.append, lambda: self.now, self.sleep)
        return last, has_left, said


def test_it_waits_until_the_node_answers_no_more() -> None:
    """Each change is said once; a silent moment on the way is not the end; the last status seen is kept."""
    node = Leaving([_TRAINING, _DRAINING, _DRAINING, NodeSilentError("busy"), _DRAINING, NoNodeError("gone")])

    last, has_left, said = node.watch(timeout_s=60)

    assert has_left
    assert last == _DRAINING
    assert said == ["draining: finishing a meeting"]


def test_it_does_not_wait_for_ever() -> None:
    """A node that does not leave is given up on after the given time."""
    node = Leaving([_DRAINING])

    last, has_left, _ = node.watch(timeout_s=60)

    assert not has_left
    assert last == _DRAINING
    assert 60 <= node.now < 61


class Daemon(threading.Thread):
    """A node's process in a thread: its control server, which ends when it is asked to leave."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__()
        self._state_dir = state_dir
        self.is_up = threading.Event()

    def run(self) -> None:
        asyncio.run(self._live())

    async def _live(self) -> None:
        leaving = asyncio.Event()
        status = Status(
            peer_id="12D3KooWaaaaLEAVER11",
            run_name="walk",
            state="training",
            training=TrainingStatus(steps=1200),
            meetings=MeetingStatus(completed=1),
        )
        server = ControlServer(
            self._state_dir,
            status=lambda: status,
            peers=Peers,
            history=History,
            leave=leaving.set,
            pause=lambda _: None,
            resume=lambda: None,
            dump=no_dump,
        )
        await server.start()
        self.is_up.set()
        await leaving.wait()
        await server.stop()


def test_leave_ends_the_node_and_sums_it_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over the real socket: the node is asked, ends, and the command says what it had done."""
    daemon = Daemon(tmp_path)
    daemon.start()
    assert daemon.is_up.wait(10)

    assert app.main(["leave", "--state-dir", str(tmp_path), "--timeout", "20"]) == 0
    daemon.join()

    out = capsys.readouterr().out
    assert "Asked node …LEAVER11 to leave run walk." in out
    assert "with 1,200 steps done here and 1 meeting completed (0 half)" in out


def test_a_node_that_stays_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With no time to wait the command says what the node is doing, and fails."""
    daemon = Daemon(tmp_path)
    daemon.start()
    assert daemon.is_up.wait(10)

    assert app.main(["leave", "--state-dir", str(tmp_path), "--timeout", "0"]) == 1
    daemon.join()

    error = capsys.readouterr().err
    assert "has not left" in error
    assert "training" in error
