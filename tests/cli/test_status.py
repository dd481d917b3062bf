"""cli.commands.status and peers: what people and scripts read about the node on this machine."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lowcomm_node.cli import app
from lowcomm_node.cli.commands.status import ab_words, rows
from lowcomm_node.daemon.control import ControlServer
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import (
    AbGroup,
    AbStatus,
    History,
    LineStatus,
    MeetingStatus,
    Peer,
    Peers,
    Status,
    SwarmStatus,
    TrainingStatus,
    WireBytes,
)

_ROOT = Path(__file__).resolve().parents[2]
_PEER = "12D3KooWAbcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOP123"
_ADDRESS = f"/ip4/203.0.113.5/tcp/7000/p2p/{_PEER}"

_STATUS = Status(
    peer_id=_PEER,
    run_id="ab" * 32,
    run_name="walk",
    state="training",
    version="0.1.0",
    uptime_seconds=3725,
    join_address=_ADDRESS,
    peers_known=3,
    detail="next meeting in about 4 steps",
    training=TrainingStatus(
        steps=1200,
        tokens=921_600,
        loss=2.1,
        validation_loss=2.05,
        started_loss=5.6,
        learning_rate=3e-3,
        gradient_norm=0.7,
        progress_steps=1000,
        total_steps=2000,
        tokens_per_second=9000,
        step_seconds=0.085,
        blocked_seconds={"meeting": 0.0, "data": 2.5},
        exchange_seconds=4.0,
        parameters=390_000,
        restarts=1,
    ),
    meetings=MeetingStatus(
        completed=80,
        failed={"busy": 4, "timeout": 1},
        last_partner="12D3KooWzzzzPartner9",
        last_meeting_ago_seconds=3,
        mean_duration_seconds=0.4,
        bytes=[
            WireBytes(direction="sent", stream="params", codec="ab", bytes=1 << 20),
            WireBytes(direction="sent", stream="exp_avg_sq", codec="rank1", bytes=1 << 20),
            WireBytes(direction="received", stream="params", codec="ab", bytes=1 << 10),
        ],
    ),
)


async def no_dump(is_full: bool) -> Path:
    raise NotImplementedError


@contextmanager
def _node(state_dir: Path, status: Status, peers: Peers | None = None) -> Iterator[None]:
    """A control server in a thread, as a node's process would be."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = ControlServer(
        state_dir,
        status=lambda: status,
        peers=lambda: peers or Peers(),
        history=History,
        leave=lambda: None,
        pause=lambda _: None,
        resume=lambda: None,
        dump=no_dump,
    )
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_status_tells_what_the_node_does_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table has state and reason, and the line others need to join is in one piece."""
    with _node(tmp_path, _STATUS):
        assert app.main(["status", "--state-dir", str(tmp_path)]) == 0

    out = capsys.readouterr().out
    assert "training: next meeting in about 4 steps" in out
    assert f"lowcomm-node join --peers {_ADDRESS}\n" in out


def test_a_node_that_nobody_can_dial_names_one_that_can_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not its own address, which would lead nowhere; and where it knows none it says so."""
    seed = "/ip4/203.0.113.9/tcp/7000/p2p/12D3KooWzzzzPartner9"
    for address, told in (
        (seed, f"others join by one that it has reached:\n  lowcomm-node join --peers {seed}\n"),
        ("", "need another member's\n"),
    ):
        closed = Status()
        closed.CopyFrom(_STATUS)
        closed.join_address, closed.reachability = address, "outbound_only"
        with _node(tmp_path, closed):
            assert app.main(["status", "--state-dir", str(tmp_path)]) == 0
        out = capsys.readouterr().out
        assert "nobody can dial this node" in out
        assert told in out


def test_status_json_has_every_field_of_the_contract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts get numbers as numbers, and zeros too."""
    with _node(tmp_path, _STATUS):
        assert app.main(["status", "--json", "--state-dir", str(tmp_path)]) == 0

    read = json.loads(capsys.readouterr().out)
    assert set(read) == {field.name for field in Status.DESCRIPTOR.fields}
    assert read["training"]["steps"] == 1200
    assert read["meetings"]["half"] == 0


@pytest.mark.parametrize("command", ["status", "peers", "leave"])
def test_without_a_node_there_is_one_line(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No node is no traceback: one line that names the directory, and a failing exit status."""
    assert app.main([command, "--state-dir", str(tmp_path)]) == 1

    error = capsys.readouterr().err
    assert error.startswith("error: no node is running in ")
    assert str(tmp_path) in error
    assert error.count("\n") == 1


def test_the_table_says_what_matters() -> None:
    """Progress, losses, waiting by cause, failures by reason, traffic by direction."""
    table = dict(rows(_STATUS))

    assert "1,000 of 2,000 steps (50%)" in table["progress"]
    assert "trainer restarted 1 time" in table["progress"]
    assert "2.050 on held-out text (at the start 5.600)" in table["loss"]
    assert table["waited"].startswith("2.5 s for data;")
    assert "meeting" not in table["waited"]
    assert "80 completed" in table["meetings"]
    assert "4 busy, 1 timeout" in table["meetings"]
    assert "HALF" not in table["meetings"]
    assert table["traffic"] == "2 MiB sent, 1 KiB received"
    assert table["node"].endswith("up 1 h 2 min")


def test_the_swarm_and_the_page_have_their_lines() -> None:
    """What the others tell, and where to look in a browser."""
    status = Status(
        state="training", swarm=SwarmStatus(members=3, validation_loss=2.0, spread=0.0123), http_address="[::1]:9464"
    )
    status.training.CopyFrom(_STATUS.training)
    table = dict(rows(status))

    assert table["swarm"] == "3 other members told of themselves, median loss 2.000 on held-out text, spread 0.0123"
    assert table["page"] == "http://[::1]:9464/"


def test_a_node_that_has_just_started_shows_only_what_it_knows() -> None:
    """No zeros that mean nothing: before training there is no progress, loss or meeting to show."""
    table = dict(rows(Status(state="connecting", detail="asking 2 peers", peer_id=_PEER, version="0.1.0")))

    assert set(table) == {"state", "run", "node"}
    assert table["run"] == "none yet"


def test_the_line_says_why_nobody_is_met() -> None:
    """Caps, what the month has cost, and in words why the line is closed."""
    line = LineStatus(
        state="saving",
        up_mbit_per_second=8.5,
        month_used_bytes=3 << 30,
        month_limit_bytes=4 << 30,
        congestion_control="bbr",
    )

    row = dict(rows(Status(state="training", line=line)))["line"]
    assert row == "waiting, this month's bytes have to last, up at most 8.5 Mbit/s, 3 GiB of 4 GiB this month, TCP bbr"
    assert dict(rows(Status(state="training", line=LineStatus(state="open"))))["line"] == "open, 0 B this month"


def test_smaller_parts_of_a_batch_are_shown_where_there_are_any() -> None:
    """They are why a node is slower than it was; a batch that is taken whole is no news."""
    whole, parts = (
        dict(rows(Status(training=TrainingStatus(parameters=1, steps=1, micro_batches=count)))) for count in (1, 4)
    )

    assert "parts" not in whole["speed"]
    assert ", a batch in 4 parts, " in parts["speed"]


def test_a_half_meeting_stands_out() -> None:
    """The one thing that must not happen is shown in capitals when it has."""
    table = dict(rows(Status(training=TrainingStatus(parameters=1), meetings=MeetingStatus(half=1))))

    assert "HALF: 1" in table["meetings"]


def test_names_from_others_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run's name may come from a stranger: no escape sequences, and no markup of the table's."""
    status = Status(state="training", run_id="ab", run_name="\x1b[2Jevil [bold]x[/bold]")
    with _node(tmp_path, status):
        assert app.main(["status", "--state-dir", str(tmp_path)]) == 0

    out = capsys.readouterr().out
    assert "\x1b[2J" not in out
    assert "[bold]x[/bold]" in out


def test_peers_lists_the_most_met_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line each: the end of the peer id (the start is the same for all), address, state, meetings."""
    peers = Peers(
        peers=[
            Peer(peer_id="12D3KooWaaaaSELDOM11", grpc_address="198.51.100.1:7001", state="suspect", meetings=1),
            Peer(
                peer_id="12D3KooWbbbbOFTEN222",
                grpc_address="198.51.100.2:7001",
                state="reachable",
                meetings=12,
                progress_steps=900.4,
                seen_ago_seconds=4,
                reachability="public",
                link="grpc",
                last_link="libp2p",
            ),
        ]
    )
    with _node(tmp_path, Status(), peers):
        assert app.main(["peers", "--state-dir", str(tmp_path)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert app.main(["peers", "--json", "--state-dir", str(tmp_path)]) == 0
        read = json.loads(capsys.readouterr().out)

    assert lines[1].split() == ["…OFTEN222", "198.51.100.2:7001", "reachable", "p2p", "900", "12", "4.0", "s", "ago"]
    assert lines[2].split()[:4] == ["…SELDOM11", "198.51.100.1:7001", "no", "way"]
    assert [peer["meetings"] for peer in read["peers"]] == [1, 12]


def test_accuracy_is_told_of_tasks_that_have_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the loss, on examples and not on text; of language models nothing is said."""
    training = TrainingStatus()
    training.CopyFrom(_STATUS.training)
    training.validation_accuracy = 0.9725
    with _node(tmp_path, Status(state="training", training=training)):
        assert app.main(["status", "--state-dir", str(tmp_path)]) == 0
    words = " ".join(capsys.readouterr().out.split())
    with _node(tmp_path, _STATUS):
        assert app.main(["status", "--state-dir", str(tmp_path)]) == 0

    assert "2.050 on held-out examples (at the start 5.600), accuracy 97.2%" in words
    assert "accuracy" not in capsys.readouterr().out


def test_ab_training_is_told_where_it_is_the_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stage, epoch, factor, frozen factors, and what the split has left of each kind of tensors; of other runs nothing."""
    training = TrainingStatus()
    training.CopyFrom(_STATUS.training)
    training.ab.CopyFrom(
        AbStatus(
            stage="factors", epoch=2, digest="ab" * 32, factor="b", partners=2, energy_kept=0.97, compression=3.25,
            groups=[AbGroup(name="blocks.*.mlp.up", tensors=4, rank=40, whole_rank=128, energy_kept=0.9)],
        )
    )  # fmt: skip
    with _node(tmp_path, Status(state="training", training=training)):
        assert app.main(["status", "--state-dir", str(tmp_path)]) == 0
        words = " ".join(capsys.readouterr().out.split())
        assert app.main(["status", "--json", "--state-dir", str(tmp_path)]) == 0
        told = json.loads(capsys.readouterr().out)["training"]["ab"]
    with _node(tmp_path, _STATUS):
        assert app.main(["status", "--json", "--state-dir", str(tmp_path)]) == 0

    assert "factors of epoch 2; trains B with frozen factors abababab, as 2 other members known" in words
    assert "97.0% of the energy kept; meetings in role take 31% of the bytes of whole tensors" in words
    assert "blocks.*.mlp.up: rank 40 of 128 over 4 tensors, 90.0% of the energy" in words
    assert told["groups"][0]["rank"] == 40
    assert json.loads(capsys.readouterr().out)["training"]["ab"] is None


@pytest.mark.parametrize(
    ("ab", "words"),
    [
        (AbStatus(stage="warm-up"), "warm-up; everything is trained whole"),
        (AbStatus(stage="rebound", epoch=3), "rebound of epoch 3; everything is trained whole"),
        (
            AbStatus(stage="factors", epoch=1, doing="fetching"),
            "factors of epoch 1; fetching frozen factors; everything",
        ),
    ],
)
def test_whole_training_is_told_with_its_reason(ab: AbStatus, words: str) -> None:
    """By stage, or because there are no frozen factors yet."""
    assert ab_words(ab).startswith(words)


def test_no_peers_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty table would look like a fault."""
    with _node(tmp_path, Status()):
        assert app.main(["peers", "--state-dir", str(tmp_path)]) == 0

    assert capsys.readouterr().out == "The node knows no other member yet.\n"


def test_looking_after_a_node_needs_no_torch(tmp_path: Path) -> None:
    """Probes ask often: the command must not load what only training needs."""
    code = (
        "import sys; from lowcomm_node.cli import app; "
        "code = app.main(['status', '--state-dir', sys.argv[1]]); "
        "print(code, sorted({'torch', 'hivemind', 'numpy'} & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, cwd=_ROOT
    )

    assert done.stdout == "1 []\n"
