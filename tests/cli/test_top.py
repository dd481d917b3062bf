"""``lowcomm-node top``: what a frame says, how it fits, and the terminal left as it was."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from lowcomm_node.cli import app
from lowcomm_node.cli.top.frame import Sight, frame
from lowcomm_node.cli.top.sparkline import bar, differences, sparkline
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import (
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
from tests.cli.test_status import _node

_ROOT = Path(__file__).resolve().parents[2]
_ON_ITS_TERMINAL = (
    "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "from lowcomm_node.cli.app import main; sys.exit(main())"
)
"""So that Ctrl-C becomes a signal."""
_STATUS = Status(
    peer_id="12D3KooWAbcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOP123",
    run_id="ab" * 32,
    run_name="walk",
    state="training",
    version="0.1.0",
    uptime_seconds=3725,
    peers_known=3,
    reachability="public",
    training=TrainingStatus(
        steps=1200, tokens=921_600, loss=2.1, validation_loss=2.05, started_loss=5.6, progress_steps=1000,
        total_steps=2000, tokens_per_second=9000, step_seconds=0.085, blocked_seconds={"data": 2.5},
        exchange_seconds=4.0, parameters=390_000,
    ),
    meetings=MeetingStatus(
        completed=80, failed={"busy": 4}, last_partner="12D3KooWPartner1", last_meeting_ago_seconds=3.0,
        mean_duration_seconds=0.4, bytes=[WireBytes(direction="sent", bytes=2 << 20)],
    ),
    swarm=SwarmStatus(members=3, validation_loss=2.0, spread=0.0123),
    line=LineStatus(state="open"),
)  # fmt: skip
_HISTORY = History(
    every_seconds=2.0, unix_seconds=[0.0, 2.0, 4.0], loss=[5.0, 4.0, 2.1], validation_loss=[5.6, 3.0, 2.05],
    swarm_loss=[0.0, 3.0, 2.0], spread=[0.0, 0.01, 0.0123], progress_steps=[900.0, 950.0, 1000.0],
    tokens_per_second=[8000.0, 9000.0, 9000.0], bytes_sent=[0, 1 << 20, 2 << 20], meetings=[0, 40, 80],
)  # fmt: skip
_PEERS = Peers(
    peers=[
        Peer(peer_id=f"12D3KooWPartner{index}", state="reachable", link="grpc", last_link="grpc", progress_steps=990,
             meetings=index, validation_loss=1.9, seen_ago_seconds=2.0)
        for index in range(40)
    ]
)  # fmt: skip
_SIGHT = Sight(status=_STATUS, peers=_PEERS, history=_HISTORY)


def _rows(sight: Sight, width: int = 80, height: int = 24) -> list[str]:
    return [line.plain for line in frame(sight, width, height)]


def _row(label: str, sight: Sight = _SIGHT) -> str:
    return next(row for row in _rows(sight) if row.startswith(label))


def test_every_question_has_its_line() -> None:
    """What, with whom, how far, how fast, why waiting, does it help, what was given."""
    assert _row("training").split(maxsplit=1)[1] == "until the next meeting"
    assert "50%  1,000 of 2,000 steps, 40 s left" in _row("how far")
    assert "9,000 tokens/s, 85 ms a step" in _row("how fast")
    assert "2.050 held out, 2.100 training" in _row("loss")
    assert "2.000 median of 3 others" in _row("of swarm")
    assert "0.0123 between members' weights" in _row("spread")
    assert _row("it helps").endswith("3.550 below where this node began; 0.050 worse than the swarm")
    assert "2.5 s for data; exchanging took 4.0 s of compute" in _row("waited")
    assert "80 completed, 0.40 s each; last with …Partner1 3.0 s ago" in _row("with whom")
    assert "failed: 4 busy" in _row("trouble")
    assert "922 k tokens, 2 MiB, 80 meetings" in _row("given")
    assert _row("loss").endswith("█▃▁")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (200, 60), (20, 5), (1, 1)])
def test_a_frame_fits_its_screen(width: int, height: int) -> None:
    """Whatever the terminal is resized to; one line is left for what the keys do."""
    rows = _rows(_SIGHT, width, height)

    assert len(rows) <= max(1, height - 1)
    assert all(len(row) <= width for row in rows)


def test_members_fill_what_is_left() -> None:
    """Those met most come first."""
    rows = _rows(_SIGHT)
    at = next(index for index, row in enumerate(rows) if row.startswith("── members"))

    assert len(rows) == 23
    assert rows[at + 2].startswith("…artner39")
    assert "1.900" in rows[at + 2]


def test_the_reason_for_waiting_is_in_words() -> None:
    """Of an owner's own limits, of being alone, and of a meeting under way."""
    cases = {
        "no meetings in the quiet hours": Status(state="training", line=LineStatus(state="quiet")),
        "this month's bytes last": Status(state="training", line=LineStatus(state="saving")),
        "alone: no other member is known": Status(state="training"),
        "in a meeting: sending": Status(state="training", meetings=MeetingStatus(current="sending")),
        "asking 2 peers": Status(state="connecting", detail="asking 2 peers"),
    }
    for words, status in cases.items():
        assert any(words in row for row in _rows(Sight(status=status, peers=Peers(), history=History()))), words


def test_a_name_from_elsewhere_steers_no_terminal() -> None:
    """Runs are named by other people."""
    status = Status(state="training", run_id="ab", run_name="\x1b[2Jx", detail="a\x1bb")
    rows = _rows(Sight(status=status, peers=Peers(peers=[Peer(peer_id="\x1b[31mred")]), history=History()))

    assert "\x1b" not in "".join(rows)


def test_a_silent_node_is_said_to_be_silent() -> None:
    """The last frame stays, marked as old."""
    assert "NOT NEW: gone" in _rows(Sight(status=_STATUS, peers=_PEERS, history=_HISTORY, problem="gone"))[1]


def test_a_sparkline_shows_shape_and_gaps() -> None:
    """Lowest to highest; what is not known is a gap; many values share a character."""
    assert sparkline([1.0, 2.0, 3.0], 10) == "▁▅█"
    assert sparkline([0.0, 2.0, 0.0, 3.0], 10) == " ▁ █"
    assert sparkline([5.0] * 100, 4) == "▁▁▁▁"
    assert sparkline([1.0, 1.0, 9.0, 9.0], 2) == "▁█"
    assert sparkline([0.0, 0.0], 5) == sparkline([], 5) == sparkline([1.0], 0) == ""
    assert bar(0.5, 4) == "██░░"
    assert bar(7.0, 4) == "████"
    assert differences([1, 4, 2, 2]) == [3, 0, 0]


def test_once_prints_plain_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For pipes: no colours, no control characters, one frame."""
    with _node(tmp_path, _STATUS):
        assert app.main(["top", "--once", "--state-dir", str(tmp_path)]) == 0

    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.count("how far") == 1


def test_a_picture_is_an_svg(tmp_path: Path) -> None:
    """For pages that show what it looks like; it fetches nothing."""
    with _node(tmp_path, _STATUS):
        assert app.main(["top", "--svg", str(tmp_path / "top.svg"), "--state-dir", str(tmp_path)]) == 0

    drawn = (tmp_path / "top.svg").read_text()
    assert drawn.startswith("<svg")
    assert "url(http" not in drawn


def test_without_a_node_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As with the other commands."""
    assert app.main(["top", "--state-dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: no node is running in ")


@pytest.mark.parametrize(("key", "language"), [(b"q", "C.UTF-8"), (b"\x03", "C.UTF-8"), (b"q", "C")])
def test_live_ends_with_a_key_and_puts_the_terminal_back(tmp_path: Path, key: bytes, language: str) -> None:
    """On a real terminal of 80 by 24: q or Ctrl-C, status 0, the old screen and line mode again; also without Unicode."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(theirs)
    utf8 = "1" if language.endswith("UTF-8") else "0"
    environment = {**os.environ, "TERM": "xterm", "LC_ALL": language, "PYTHONUTF8": utf8, "PYTHONCOERCECLOCALE": "0"}
    with _node(tmp_path, _STATUS, _PEERS):
        command = [sys.executable, "-c", _ON_ITS_TERMINAL, "top", "--state-dir", str(tmp_path)]
        process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=_ROOT, env=environment, start_new_session=True
        )
        try:
            shown = b""
            while b"q quits" not in shown:
                shown += os.read(ours, 65536)
            os.write(ours, key)
            while b"\x1b[?1049l" not in shown:
                shown += os.read(ours, 65536)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
            after = termios.tcgetattr(theirs)
            os.close(theirs)
            os.close(ours)

    assert b"\x1b[?1049h" in shown
    assert b"how far" in shown
    assert (b"\xe2\x96" in shown) is (language == "C.UTF-8")
    assert after == before
