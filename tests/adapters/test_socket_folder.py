"""Whose sockets are they, and who clears them away?"""

import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lowcomm_node.adapters.socket_folder import SocketFolder, clear_sockets
from lowcomm_node.errors import DirectoryError

_LONG = "x" * 80
_NODE = """
import sys
from pathlib import Path
from lowcomm_node.adapters.socket_folder import SocketFolder
folder = SocketFolder(Path(sys.argv[1]))
folder.claim()
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files, of one test alone, with a short name."""
    with tempfile.TemporaryDirectory(prefix="lcn-") as name:
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def test_a_long_name_has_a_short_substitute(temporary: Path) -> None:
    """The same one each time, another one for another node; a short name stays."""
    one, other = SocketFolder(temporary / _LONG / "1"), SocketFolder(temporary / _LONG / "2")

    assert one.path.parent == other.path.parent == temporary
    assert one.path == SocketFolder(temporary / _LONG / "1").path != other.path
    assert SocketFolder(Path("/var/lib/node/p2p")).path == Path("/var/lib/node/p2p")


def test_a_claimed_folder_is_empty_and_a_released_one_is_gone(temporary: Path) -> None:
    """A life before may have left its sockets; claiming again, as when p2pd is started anew, changes nothing."""
    folder = SocketFolder(temporary / "p2p")
    folder.path.mkdir()
    bind(folder.path / "s-old.sock")

    for _ in range(2):
        folder.claim()
        assert [path.name for path in folder.path.iterdir()] == [".holder"]
    bind(folder.path / "s-new.sock")
    folder.release()

    assert list(temporary.iterdir()) == []


def test_any_start_clears_away_what_a_killed_node_has_left(temporary: Path) -> None:
    """Not while it lives: its folder is the same by name, user and content before and after."""
    command = [sys.executable, "-c", _NODE, str(temporary / _LONG)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        left = Path(node.stdout.readline().strip())
        bind(left / "s-p2pd.sock")

        first = SocketFolder(temporary / "first")
        first.claim()
        assert (left / "s-p2pd.sock").is_socket()

        node.send_signal(signal.SIGKILL)
        node.wait()
        assert left.parent == temporary
        second = SocketFolder(temporary / "second")
        second.claim()
        assert not left.exists()
        assert (first.path / ".holder").exists()
    first.release()
    second.release()


def test_what_is_not_known_to_be_a_dead_nodes_stays(temporary: Path) -> None:
    """The right name alone, a link, somebody's own file in it."""
    elsewhere = temporary / "elsewhere"
    nameless, link, used = (temporary / f"lowcomm-{digit * 16}" for digit in "abc")
    for path in (elsewhere, nameless, used):
        path.mkdir()
        bind(path / "s-p2pd.sock")
    link.symlink_to(elsewhere)
    for path in (elsewhere, used):
        (path / ".holder").touch()
    (used / "s-notes.sock").write_text("mine")

    folder = SocketFolder(temporary / "p2p")
    folder.claim()
    folder.release()

    assert (nameless / "s-p2pd.sock").is_socket()
    assert (elsewhere / "s-p2pd.sock").is_socket()
    assert [path.name for path in used.iterdir()] == ["s-notes.sock"]


def test_a_folder_of_somebody_else_is_refused(temporary: Path) -> None:
    """A link in its place may lead anywhere; nothing is removed there either."""
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    bind(elsewhere / "s-p2pd.sock")
    (temporary / "p2p").symlink_to(elsewhere)

    with pytest.raises(DirectoryError, match="belongs to somebody else"):
        SocketFolder(temporary / "p2p").claim()
    assert clear_sockets(temporary / "p2p") == 0
    assert [path.name for path in elsewhere.iterdir()] == ["s-p2pd.sock"]
