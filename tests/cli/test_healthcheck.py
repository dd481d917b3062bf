"""cli.commands.healthcheck: what a container engine hears of a node, over a real port."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from lowcomm_node.adapters.vitals_book import VitalsBook
from lowcomm_node.cli import app
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.daemon.board import Board
from lowcomm_node.daemon.http import LocalHttp
from lowcomm_node.daemon.views import Health, Views
from lowcomm_node.settings.node import MetricsSettings

_WELL = Health(loop_beat_s=100.0, trainer_beat_s=None, is_joined=True, has_state=True, is_leaving=False)


class Node:
    """The port of a node whose health a test decides."""

    def __init__(self, host: str) -> None:
        self.health = _WELL
        board = Board(MetricsSettings(), VitalsBook())
        views = Views(metrics=lambda: b"", board=board, health=lambda: self.health, clock=lambda: 100.0)
        self.http = LocalHttp(host=host, port=0, names=[], answer=views.answer)
        self.http.start()

    def ask(self, *arguments: str, host: str = "127.0.0.1") -> int:
        sets = ("--set", f"metrics.port={self.http.port}", "--set", f"metrics.host={host}")
        return app.main(["healthcheck", *arguments, *sets])


@pytest.fixture(params=["127.0.0.1", "0.0.0.0"])
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    node = Node(request.param)
    yield node
    node.http.stop()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_node_that_lives(node: Node, host: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever it listens; where that is everywhere, it is asked on loopback."""
    assert node.ask(host=host) == ExitCode.OK
    assert capsys.readouterr().out == "ok\n"


def test_a_node_that_is_stuck(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    """Its port still answers and says what is stuck; engines take 1 for unhealthy."""
    node.health = replace(_WELL, loop_beat_s=0.0)

    assert int(node.ask()) == 1
    assert "the event loop has not come round for 100 s" in capsys.readouterr().out


def test_a_node_that_lives_need_not_be_ready(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    """A node that still fetches its state must not be restarted for it, and should not be waited for as done."""
    node.health = replace(_WELL, has_state=False)

    assert (node.ask(), node.ask("--ready")) == (ExitCode.OK, ExitCode.FAILED)
    assert "the training state is not in place yet" in capsys.readouterr().out


def test_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """Not started yet, or gone: unhealthy, in one line."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # without listening: whoever calls is refused
        status = app.main(["healthcheck", "--set", f"metrics.port={taken.getsockname()[1]}"])

    assert status == ExitCode.FAILED
    assert capsys.readouterr().out.startswith("no answer from 127.0.0.1:")


def test_silence_is_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """A port that takes the call and says nothing does not hold the engine up."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        status = app.main(["healthcheck", "--timeout", "0.05", "--set", f"metrics.port={port}"])

    assert status == ExitCode.FAILED
    assert "timed out" in capsys.readouterr().out


def test_a_port_that_only_the_node_knows(capsys: pytest.CaptureFixture[str]) -> None:
    """Port 0 cannot be asked: a mistake in the settings, and said to be one."""
    assert app.main(["healthcheck", "--set", "metrics.port=0"]) == ExitCode.CONFIG
    assert "metrics.port = 0" in capsys.readouterr().err


def test_it_is_light() -> None:
    """An engine asks every few seconds: nothing that takes seconds or memory is imported."""
    script = (
        "import sys\n"
        "from lowcomm_node.cli.app import main\n"
        "main(['healthcheck', '--set', 'metrics.port=0'])\n"
        "heavy = [name for name in ('torch', 'hivemind', 'grpc', 'numpy', 'rich') if name in sys.modules]\n"
        "sys.exit(f'it loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
