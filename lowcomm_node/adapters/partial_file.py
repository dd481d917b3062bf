"""A download under way on disk: the file with the chunks that have arrived, and beside it which snapshot they are of.

Blocking; used from threads. Either file may be damaged or gone after a crash: what is believed is verified by digest.
"""

import base64
import json
import os
import shutil
import threading
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Self

from lowcomm_node.errors import RemoteProtocolError, StoreError
from lowcomm_node.units import PeerId, RunId
from lowcomm_node.wire.state import Snapshot

__all__ = ["PartialFile", "discard", "read_begun", "write_begun"]

_BEGUN_WITHIN_S = 3600.0
"""An older beginning is not gone on with: who would hold that snapshot still, and what would it be worth?"""
_MAX_BEGUN_BYTES = 16 * 1024 * 1024
_MAX_HOLDERS = 8
_MAX_PEER_ID = 100
_SPARE_BYTES = 16 * 1024 * 1024
"""Left free on the disk: logs and checkpoints need room too."""


class PartialFile:
    """``<destination>.partial``, open while in use."""

    def __init__(self, destination: Path, snapshot: Snapshot) -> None:
        self._path = _partial(destination)
        self._destination = destination
        self._snapshot = snapshot
        self._descriptor = -1
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._descriptor = self._opened()
        if (
            os.fstat(self._descriptor).st_nlink > 1
        ):  # the shelf has it too: what is given to others must not be written to
            os.close(self._descriptor)
            self._path.unlink()
            self._descriptor = self._opened()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:  # who was cancelled may have left a thread at work
            os.close(self._descriptor)
            self._descriptor = -1

    def missing(self) -> list[int]:
        """Chunks that are not there yet, or not as described. Raises StoreError when the disk has no room for them."""
        has_bytes = os.fstat(self._descriptor).st_size
        missing = [index for index in range(len(self._snapshot.digests)) if not self._has(index, has_bytes)]
        needed = sum(map(self._snapshot.length_of, missing))
        free = shutil.disk_usage(self._path.parent).free
        if needed + _SPARE_BYTES > free:
            raise StoreError(
                f"{self._path}: the download needs {needed / 1e6:.0f} MB more, the disk has {free / 1e6:.0f} MB free; "
                "free some, or set state_dir to a folder on a larger disk"
            )
        os.ftruncate(self._descriptor, self._snapshot.total_bytes)
        return missing

    def write(self, index: int, data: bytes) -> None:
        """Keep one verified chunk; nothing happens any more when the file is closed."""
        view, offset = memoryview(data), index * self._snapshot.chunk_bytes
        with self._lock:
            while view and self._descriptor >= 0:
                written = os.pwrite(self._descriptor, view, offset)
                view, offset = view[written:], offset + written

    def finish(self) -> None:
        """All is there: give the file its name."""
        os.fsync(self._descriptor)
        self._path.replace(self._destination)

    def _opened(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)

    def _has(self, index: int, has_bytes: int) -> bool:
        offset = index * self._snapshot.chunk_bytes
        if offset >= has_bytes:
            return False
        data = os.pread(self._descriptor, self._snapshot.length_of(index), offset)
        return sha256(data).digest() == self._snapshot.digests[index]


def write_begun(destination: Path, snapshot: Snapshot, run_id: RunId, holders: Sequence[PeerId]) -> None:
    """Remember which snapshot is being downloaded and from whom."""
    description = base64.b64encode(snapshot.encode(run_id)).decode("ascii")
    text = json.dumps({"description": description, "holders": list(holders[:_MAX_HOLDERS])})
    path = _begun(destination)
    unfinished = path.with_name(path.name + ".new")
    unfinished.write_text(text)
    unfinished.replace(path)


def read_begun(destination: Path, run_id: RunId, max_bytes: int) -> tuple[Snapshot, tuple[PeerId, ...]] | None:
    """The snapshot of an earlier attempt and its holders; None when there is none that one could go on with.

    A whole file that nobody has taken is an attempt too: the node may have died before it did.
    """
    path = _begun(destination)
    try:
        facts = path.stat()
        if destination.exists():
            destination.replace(_partial(destination))
        if not _partial(destination).exists() or facts.st_size > _MAX_BEGUN_BYTES:
            return None
        if facts.st_mtime < time.time() - _BEGUN_WITHIN_S:
            return None
        told = json.loads(path.read_text())
        holders = tuple(PeerId(str(peer)[:_MAX_PEER_ID]) for peer in told["holders"][:_MAX_HOLDERS])
        description = base64.b64decode(told["description"], validate=True)
        return Snapshot.decode(description, run_id=run_id, max_bytes=max_bytes), holders
    except (OSError, ValueError, KeyError, TypeError, RemoteProtocolError):
        return None


def discard(destination: Path) -> None:
    """Remove a download, whole or not, and what is known of it."""
    for path in (destination, _partial(destination), _begun(destination)):
        path.unlink(missing_ok=True)


def _partial(destination: Path) -> Path:
    return destination.with_name(destination.name + ".partial")


def _begun(destination: Path) -> Path:
    return destination.with_name(destination.name + ".partial.json")
