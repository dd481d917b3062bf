"""One node per state directory: a lock that the system takes back when its holder dies, however it dies."""

import fcntl
import os
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
        """Take the lock and write our pid into its file. Raises StoreError naming the pid of the node that has it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self._state_dir / _LOCK_NAME, flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise StoreError(
                f"a node is already running here with pid {holder} (state directory {self._state_dir}); "
                "a second one needs its own --state-dir"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Let another node have the directory."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None
