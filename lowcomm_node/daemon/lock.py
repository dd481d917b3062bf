"""One node per state directory: a lock that the system takes back when its holder dies, however it dies."""

import fcntl
import os
import time
from pathlib import Path

from lowcomm_node.errors import StoreError

__all__ = ["StateDirLock"]

_LOCK_NAME = "node.lock"


class StateDirLock:
    """Held from the start of a node to its end. The file stays; what counts is the lock on it, not its existence."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock and write our pid into its file.

        Raises StoreError, naming the pid of the node that has it, or what is wrong with the directory.
        """
        path = self._state_dir / _LOCK_NAME
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _unusable(self._state_dir, error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            holder = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
            age = _age(time.time() - os.fstat(fd).st_mtime)  # nobody but the holder writes, and that once
            os.close(fd)
            raise StoreError(
                f"a node is already running here with pid {holder}, for {age} (state directory {self._state_dir}); "
                "a second one needs its own --state-dir"
            ) from None
        except OSError as error:
            os.close(fd)
            raise _unusable(self._state_dir, error) from error
        self._fd = fd

    def release(self) -> None:
        """Let another node have the directory."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None


def _unusable(state_dir: Path, error: OSError) -> StoreError:
    reason = (error.strerror or str(error)).lower()
    return StoreError(
        f"{state_dir}: the node cannot write there: {reason}; make room or give it rights, or choose another directory "
        "with --state-dir"
    )


def _age(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(0.0, seconds):.0f} seconds"
