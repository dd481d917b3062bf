"""The lock on a state directory: one node at a time, and no dead one stands in the way."""

import subprocess
import sys
from pathlib import Path

import pytest

from lowcomm_node.daemon.lock import StateDirLock
from lowcomm_node.errors import StoreError

_HOLD = """
import sys
from pathlib import Path
from lowcomm_node.daemon.lock import StateDirLock
lock = StateDirLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_living_node_keeps_others_out_and_a_killed_one_does_not(tmp_path: Path) -> None:
    """The error names the holder's pid; after SIGKILL the directory is free, although the file is still there."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=rf"already running here with pid {holder.pid}, for \d+ seconds\b"):
            StateDirLock(tmp_path).acquire()
        holder.kill()

    lock = StateDirLock(tmp_path)
    lock.acquire()
    lock.release()


def test_a_released_directory_can_be_locked_again(tmp_path: Path) -> None:
    """Releasing twice does no harm, and does not take the lock from the next holder."""
    first, second = StateDirLock(tmp_path), StateDirLock(tmp_path)
    first.acquire()
    first.release()
    second.acquire()
    first.release()

    with pytest.raises(StoreError):
        first.acquire()
    second.release()


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """What is wrong with it, and what to do."""
    with pytest.raises(StoreError, match=r"missing: the node cannot write there: no such file .* --state-dir"):
        StateDirLock(tmp_path / "missing").acquire()
