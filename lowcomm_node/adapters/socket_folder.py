"""The folder of p2pd's Unix sockets: held by the node that lives, cleared by any other one when that node is dead."""

import fcntl
import os
import stat
import tempfile
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from lowcomm_node.errors import DirectoryError

__all__ = ["SocketFolder", "clear_sockets"]

_LONGEST = 70
"""A Unix socket's path may have some 107 characters, the file name takes about 30."""
_PREFIX = "lowcomm-"
_NAME_DIGITS = 16
_SOCKETS = "s-*.sock"
_HOLDER = ".holder"
_ATTEMPTS = 5
_PAUSE_S = 0.01


class SocketFolder:
    """One folder, of one node alone.

    Where its name is too long for sockets it is a substitute in the system's folder for temporary files. There it would outlive a
    node that is killed and whose state directory is never used again, so each start clears away those of the dead. Who lives is told
    by a lock on a file in the folder, which the system takes back however its holder ends; not by names, nor by pids, which come again.
    """

    def __init__(self, wanted: Path) -> None:
        self.path = wanted
        if len(str(wanted)) > _LONGEST:
            digits = sha256(str(wanted).encode()).hexdigest()[:_NAME_DIGITS]
            self.path = Path(tempfile.gettempdir()) / f"{_PREFIX}{digits}"
        self._lock: int | None = None

    def claim(self) -> None:
        """Make the folder, hold it from now on, and clear away what the dead have left. Blocks for milliseconds.

        Raises:
            DirectoryError: it cannot be made, or belongs to somebody else: a substitute is where everybody may make one.
        """
        self._make()
        for _ in range(_ATTEMPTS if self._lock is None else 0):
            self._lock = _locked(self.path / _HOLDER, os.O_CREAT)
            if self._lock is not None:
                break
            time.sleep(_PAUSE_S)  # another node is clearing it away: the next moment it is ours, and to be made again
            self._make()
        _remove_sockets(self.path)
        for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}{'[0-9a-f]' * _NAME_DIGITS}"):
            if folder != self.path:
                _clear_if_dead(folder)

    def release(self) -> None:
        """Remove the folder with its sockets and let go of it. hivemind leaves some even in good order."""
        clear_sockets(self.path)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _make(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            is_ours = _is_ours(self.path)
        except OSError as error:
            raise DirectoryError(
                f"{self.path}: cannot be made a folder for p2pd's sockets: {error.strerror}"
            ) from error
        if not is_ours:
            raise DirectoryError(f"{self.path}: p2pd's sockets should go there, and it belongs to somebody else")


def clear_sockets(folder: Path) -> int:
    """Remove a folder of which it is known that it is this user's, with the sockets of p2pd in it; returns how many there were."""
    removed = 0
    with suppress(OSError):  # it is not there, or not empty: whoever uses the folder next sees to the rest
        if _is_ours(folder):
            removed = _remove_sockets(folder)
            (folder / _HOLDER).unlink(missing_ok=True)
            folder.rmdir()
    return removed


def _clear_if_dead(folder: Path) -> None:
    """Without a file to be locked it is not known whose it was, and it stays."""
    with suppress(OSError):
        lock = _locked(folder / _HOLDER, 0) if _is_ours(folder) else None
        if lock is not None:
            clear_sockets(folder)
            os.close(lock)


def _locked(path: Path, flags: int) -> int | None:
    """An open file with the lock on it that is still the one of this name; None where somebody else has it."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), path.lstat()):
            return lock
    except OSError:
        pass
    os.close(lock)
    return None


def _is_ours(folder: Path) -> bool:
    """A folder, not a link to one, of this user. Raises OSError."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def _remove_sockets(folder: Path) -> int:
    removed = 0
    for path in folder.glob(_SOCKETS):
        with suppress(OSError):
            if stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink()
                removed += 1
    return removed
