"""The small parts of ``lowcomm-node swarm``: ports, statuses over HTTP, pace, views, signals."""

import io
import math
import os
import signal
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from lowcomm_node.cli.pace import Pace
from lowcomm_node.cli.swarm.calibrate import mean_nodes, steps_that_fit, with_total_steps
from lowcomm_node.cli.swarm.compare import Hermit, mean_share
from lowcomm_node.cli.swarm.interrupts import Interrupts
from lowcomm_node.cli.swarm.launch import NodePlace, threads_per_node
from lowcomm_node.cli.swarm.picture import NodeRow, Picture
from lowcomm_node.cli.swarm.ports import NodePorts, choose_ports
from lowcomm_node.cli.swarm.view import LiveView, PlainView, format_bytes, format_seconds, view_for
from lowcomm_node.cli.swarm.watch import Watcher, parse_status
from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.manifest import Manifest, TrainingConfig
from lowcomm_node.units import PeerId


def test_ports_follow_the_base() -> None:
    """Node i has base + 3i and the two after it."""
    base = choose_ports(4, None)[0].dht

    assert choose_ports(4, base)[3] == NodePorts(dht=base + 9, grpc=base + 10, metrics=base + 11)


def test_a_port_in_use_is_named() -> None:
    """The swarm does not start half and fail at its third node."""
    base = choose_ports(2, None)[0].dht
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base + 4))
        taken.listen()
        with pytest.raises(ConfigError, match=f"port {base + 4} is in use"):
            choose_ports(2, base)


def test_a_status_survives_unknown_fields_and_refuses_nonsense() -> None:
    """Numbers may be strings (64 bit in proto JSON), losses may be NaN, bytes may be anything."""
    status = parse_status(b'{"state": "training", "training": {"steps": "5", "loss": "NaN"}, "later": {}}')

    assert status is not None
    assert status.training.steps == 5
    assert math.isnan(status.training.loss)
    for nonsense in (b"", b"[]", b"{", b"\xff\xfe", b'{"training": 3}'):
        assert parse_status(nonsense) is None


@pytest.fixture
def status_port() -> Iterator[int]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/status" else 404)
            self.end_headers()
            self.wfile.write(b'{"state": "training"}')

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def _place(metrics_port: int) -> NodePlace:
    return NodePlace(name="n", ports=NodePorts(dht=1, grpc=2, metrics=metrics_port), directory=Path("nowhere"))


def test_nodes_that_do_not_answer_are_left_out(status_port: int) -> None:
    """A dead node costs the look nothing but its own answer."""
    (nobody,) = choose_ports(1, None)
    with Watcher() as watcher:
        seen = watcher.look({"n0": _place(status_port), "n1": _place(nobody.metrics)})

    assert list(seen) == ["n0"]
    assert seen["n0"].state == "training"


def test_mean_nodes_counts_the_late_in_part_and_the_killed_not_at_all() -> None:
    """A swarm under trouble has fewer trainers at a time than members."""
    assert mean_nodes(nodes=4, late_shares=(), kill_every_s=0.0) == 4
    assert mean_nodes(nodes=4, late_shares=(0.25, 0.75), kill_every_s=0.0) == 5
    assert mean_nodes(nodes=4, late_shares=(), kill_every_s=15.0) == 3
    assert mean_nodes(nodes=2, late_shares=(), kill_every_s=1.0) == 1


def test_steps_that_fit_share_the_cores() -> None:
    """Twice the nodes on the same full cores get half the steps each; idle cores are worth nothing."""
    pace = Pace(steps_per_second=10.0, threads=1)
    four = steps_that_fit(pace, seconds=120, nodes=4, cores=2, starts=0)

    assert four == pytest.approx(2 * steps_that_fit(pace, seconds=120, nodes=8, cores=2, starts=0), abs=1)
    assert steps_that_fit(pace, seconds=120, nodes=2, cores=8, starts=0) == steps_that_fit(
        pace, seconds=120, nodes=2, cores=2, starts=0
    )
    assert steps_that_fit(pace, seconds=120, nodes=4, cores=2, starts=3) < four
    assert four <= 10 * 120 * 2 / 4
    assert steps_that_fit(pace, seconds=1, nodes=4, cores=2, starts=3) > 0


def test_another_length_keeps_a_short_warm_up_and_the_rest() -> None:
    """A run cut to 100 steps warms up over ten of them; a long one keeps its own; a long warm-up keeps its share."""
    manifest = Manifest(name="x", training=TrainingConfig(total_steps=2000, warmup_steps=50))

    assert with_total_steps(manifest, 100).training.warmup_steps == 10
    assert with_total_steps(manifest, 5000).training.warmup_steps == 50
    assert with_total_steps(manifest, 2000) == manifest
    assert with_total_steps(manifest, 1).training.warmup_steps == 0
    slow = Manifest(training=TrainingConfig(total_steps=1000, warmup_steps=500))
    assert with_total_steps(slow, 100).training.warmup_steps == 50


def test_threads_do_not_outnumber_cores() -> None:
    """One each when there are as many nodes as cores or more."""
    assert [threads_per_node(nodes, 8) for nodes in (1, 3, 8, 20)] == [8, 2, 1, 1]


def test_progress_of_hermits_is_weighted_by_their_steps() -> None:
    """A late node's few steps are a small part of the work."""
    hermits = [Hermit(name=n, peer_id=PeerId(n), steps=s, state_file=Path(n)) for n, s in (("n0", 90), ("n1", 10))]

    assert mean_share({"n0": 45, "n1": 0}, hermits) == 0.45


PICTURE = Picture(
    nodes=(
        NodeRow(name="n0", state="training", steps=1234, loss=2.5, partner="n1", meeting_ago_s=3.0, bytes_sent=5 << 20),
        NodeRow(name="n1", state="killed", note="life 2"),
    ),
    elapsed_s=65.0,
    left_s=55.0,
    share_done=0.54,
    progress_steps=540.0,
    total_steps=1000,
    validation_loss=math.nan,
    loss=2.5,
    spread=0.0123,
    meetings=77,
    meetings_per_minute=60.0,
    bytes_per_token=20.0,
    ddp_bytes_per_token=2000.0,
    tokens_per_second=5000.0,
    memory_bytes=2 << 30,
)


def test_pipes_get_a_plain_line_now_and_then() -> None:
    """No escape codes, and not a line for each look."""
    file = io.StringIO()
    with view_for(Console(file=file)) as view:
        assert isinstance(view, PlainView)
        for _ in range(50):
            view.show(PICTURE)
        view.work("judging the models", 0.5)
        view.work("judging the models", 0.6)
        view.say("n1 [killed]")

    lines = file.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("1:05 (54%, 0:55 left)  progress 540/1000  loss 2.5000  validation -  spread 0.0123")
    assert lines[0].endswith("20.0 B/token (DDP 2000)  [n0 training 1234, n1 killed 0]")
    assert lines[1].startswith("judging the models: 50%")
    assert lines[2] == "n1 [killed]"


def test_a_terminal_gets_a_table_and_a_bar() -> None:
    """Nodes with partner and bytes, the swarm against DDP, time left."""
    file = io.StringIO()
    with view_for(Console(file=file, force_terminal=True, width=140)) as view:
        assert isinstance(view, LiveView)
        view.show(PICTURE)
        view.work("training alone", 0.5)
        view.say("hello")

    text = file.getvalue()
    for piece in (
        "n1, 3 s ago",
        "5.0 MiB",
        "life 2",
        "100 times less",
        "0:55 left",
        "2.0 GiB of memory",
        "training alone",
    ):
        assert piece in text


def test_figures_are_readable() -> None:
    """Units change where they should."""
    assert [format_bytes(n) for n in (0, 1023, 1024, 3.4 * (1 << 20), 5 << 40)] == [
        "0 B", "1023 B", "1.0 KiB", "3.4 MiB", "5.0 TiB",
    ]  # fmt: skip
    assert [format_seconds(s) for s in (5, 65, 3600 + 125)] == ["0:05", "1:05", "1:02:05"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_become_a_count_and_end_a_wait(number: int, code: int) -> None:
    """The first one decides the exit status, later ones are counted; handlers are put back."""
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        assert not interrupts
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.count == 2
        assert interrupts.exit_code == code
        timer = threading.Timer(0.05, os.kill, (os.getpid(), number))
        timer.start()
        interrupts.wait(60)
        timer.join()
        assert interrupts.count == 3

    assert signal.getsignal(number) == before
