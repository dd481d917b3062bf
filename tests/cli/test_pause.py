"""cli.commands.pause and resume over the real socket: what is asked, what is waited for, and what is said."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from lowcomm_node.cli import app
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.daemon.control import ControlServer
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import History, PauseStatus, Peers, Status


async def no_dump(is_full: bool) -> Path:
    raise NotImplementedError


class Node:
    """Gives these answers, one a look, and the last of them for ever."""

    def __init__(self, *answers: Status) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def status(self) -> Status:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def run(self, state_dir: Path, command: Sequence[str]) -> int:
        """The exit status of a command while this node is there."""

        async def scenario() -> int:
            server = ControlServer(
                state_dir,
                status=self.status,
                peers=Peers,
                history=History,
                leave=lambda: None,
                pause=lambda for_s: self.asked.append(f"pause {for_s:g}"),
                resume=lambda: self.asked.append("resume"),
                dump=no_dump,
            )
            await server.start()
            try:
                return await asyncio.to_thread(app.main, [*command, "--state-dir", str(state_dir)])
            finally:
                await server.stop()

        return asyncio.run(scenario())


_TRAINING = Status(state="training")
_PAUSING = Status(state="pausing", detail="saving the state")
_PAUSED = Status(state="paused", pause=PauseStatus(reasons=["command"]))


def test_pause_waits_until_the_trainer_has_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each step is said once, and how it ends."""
    node = Node(_TRAINING, _PAUSING, _PAUSING, _PAUSED)

    assert node.run(tmp_path, ["pause"]) == ExitCode.OK

    out = capsys.readouterr().out
    assert node.asked == ["pause 0"]
    assert out.count("pausing: saving the state") == 1
    assert "its trainer has ended; it goes on with 'lowcomm-node resume'" in out


@pytest.mark.parametrize(("length", "seconds"), [("90m", 5400), ("2h", 7200), ("1d", 86400), ("30s", 30)])
def test_a_pause_may_have_a_length(tmp_path: Path, length: str, seconds: int) -> None:
    """In seconds, minutes, hours or days."""
    node = Node(_PAUSED)

    assert node.run(tmp_path, ["pause", "--for", length]) == ExitCode.OK
    assert node.asked == [f"pause {seconds:g}"]


@pytest.mark.parametrize("length", ["", "2", "h", "-1h", "2 h", "0m", "400d", "1w"])
def test_what_is_no_length_is_refused_before_anything_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], length: str
) -> None:
    """The line says what would be one."""
    node = Node(_PAUSED)

    status = node.run(tmp_path, ["pause", f"--for={length}"])

    assert (status, node.asked) == (78, [])
    assert "such as 90m, 2h or 1d" in capsys.readouterr().err


def test_a_node_that_does_not_pause_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With no time to wait the command says what the node is doing."""
    assert Node(_PAUSING).run(tmp_path, ["pause", "--timeout", "0"]) == ExitCode.FAILED
    assert "has not paused" in capsys.readouterr().err


def test_a_node_that_does_not_train_yet_is_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its peers may not answer for hours; it will pause when it comes to it."""
    assert Node(Status(state="connecting", detail="asking peers")).run(tmp_path, ["pause"]) == ExitCode.OK
    assert "will pause before it trains: asking peers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (["command"], [], "It goes on."),
        ([], [], "It was not paused."),
        (["command", "battery"], ["battery"], "It stays paused for now: battery; it goes on by itself."),
    ],
)
def test_resume_says_what_keeps_it_paused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: list[str], after: list[str], said: str
) -> None:
    """The owner's word is one reason among others."""
    node = Node(*(Status(pause=PauseStatus(reasons=reasons)) for reasons in (before, after)))

    assert node.run(tmp_path, ["resume"]) == ExitCode.OK
    assert node.asked == ["resume"]
    assert capsys.readouterr().out.strip() == said


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_without_a_node_there_is_nothing_to_ask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """As with the other commands for a node."""
    assert app.main([command, "--state-dir", str(tmp_path)]) != ExitCode.OK
    assert "no node is running" in capsys.readouterr().err
