"""Files that this node can give: a few snapshots, or frozen factors, named by their content, which outlive a restart of the node."""

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from lowcomm_node.core.places import Fullness
from lowcomm_node.wire.state import STATE_CHUNK_BYTES, Snapshot

__all__ = ["Held", "SnapshotShelf"]

_SUFFIX = ".safetensors"


@dataclass(slots=True)
class Held:
    """A snapshot on the shelf, its file open: the content stays the same whatever becomes of its name."""

    snapshot: Snapshot
    descriptor: int
    readers: int = 0

    def read(self, index: int) -> bytes:
        """One chunk; blocking."""
        return os.pread(self.descriptor, self.snapshot.length_of(index), index * self.snapshot.chunk_bytes)


class SnapshotShelf:
    """At most so many snapshots (more only while they are being read), for a time at most.

    Files are hard links in ``folder``; who has written them may remove their first name. On a file system without links a
    snapshot is held open, and lost with the process. All methods are called from one event loop.
    """

    def __init__(
        self, folder: Path, chunk_bytes: int = STATE_CHUNK_BYTES, *, most: int = 2, keep_s: float = 3600.0
    ) -> None:
        """For states as they are: the newest, and the one before it that somebody may still be downloading.

        Args:
            folder: of this shelf alone.
            chunk_bytes: into how large pieces snapshots are cut; at least 1 KiB, or nobody will take them.
            most: snapshots kept.
            keep_s: age at which one goes; a joiner that comes back later is better off with a new state.
        """
        self._folder = folder
        self._most = most
        self._keep_s = keep_s
        self._chunk_bytes = chunk_bytes
        self._held: OrderedDict[bytes, Held] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def fullness(self) -> Fullness:
        return Fullness(len(self._held), self._most)

    async def take_up(self) -> None:
        """Hold again what an earlier life of this node has left here, if it is whole and not too old."""
        for path in await asyncio.to_thread(self._leftovers):
            with suppress(OSError):
                held = await asyncio.to_thread(_opened, path, 0.0, self._chunk_bytes)
                if held.snapshot.snapshot_id.hex() == path.stem:
                    self._keep(held)
                else:
                    os.close(held.descriptor)
                    path.unlink(missing_ok=True)

    async def put(self, path: Path, progress_steps: float) -> Held:
        """Hash a state file and hold it. Raises OSError when it cannot be read."""
        held = await asyncio.to_thread(_opened, path, progress_steps, self._chunk_bytes)
        name = held.snapshot.snapshot_id
        if name in self._held:
            os.close(held.descriptor)
            self._held.move_to_end(name)
            return self._held[name]
        with suppress(OSError):  # no links here: held open it can be served all the same
            await asyncio.to_thread(_link, path, self.path(name))
        self._keep(held)
        return held

    def get(self, snapshot_id: bytes) -> Held | None:
        """The snapshot of that content, if it is here."""
        return self._held.get(snapshot_id)

    def tidy(self) -> None:
        """Let go of what is too old or too many and is not being read."""
        oldest = time.time() - self._keep_s
        newest = next(reversed(self._held), None)
        for name, held in list(self._held.items()):
            is_too_many = len(self._held) > self._most and name != newest
            if not held.readers and (is_too_many or os.fstat(held.descriptor).st_mtime < oldest):
                self._drop(name)

    def keep_only(self, names: Collection[bytes]) -> None:
        """Let go of all others that are not being read."""
        for name, held in list(self._held.items()):
            if name not in names and not held.readers:
                self._drop(name)

    def path(self, snapshot_id: bytes) -> Path:
        """The file of a snapshot that is held; on a file system without links there may be none."""
        return self._folder / f"{snapshot_id.hex()}{_SUFFIX}"

    def beside(self, name: str) -> Path:
        """Where a file may be made that is to be put here; what an earlier life has left there is gone."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        return self._folder / name

    def close(self) -> None:
        """Close the files; they stay for the next life."""
        if self._timer is not None:
            self._timer.cancel()
        while self._held:
            os.close(self._held.popitem()[1].descriptor)

    def _keep(self, held: Held) -> None:
        self._held[held.snapshot.snapshot_id] = held
        self.tidy()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._keep_s + 1, self.tidy)

    def _drop(self, name: bytes) -> None:
        os.close(self._held.pop(name).descriptor)
        self.path(name).unlink(missing_ok=True)

    def _leftovers(self) -> list[Path]:
        """The newest files of the folder, oldest first; all others are removed."""
        folder, oldest = self._folder, time.time() - self._keep_s
        aged = sorted((path.stat().st_mtime, path) for path in folder.glob("*")) if folder.is_dir() else []
        whole = [(mtime, path) for mtime, path in aged if path.suffix == _SUFFIX]
        kept = [path for mtime, path in whole[-self._most :] if mtime >= oldest]
        for _, path in aged:
            if path not in kept:
                path.unlink(missing_ok=True)
        return kept


def _opened(path: Path, progress_steps: float, chunk_bytes: int) -> Held:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return Held(_hashed(descriptor, progress_steps, chunk_bytes), descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def _hashed(descriptor: int, progress_steps: float, chunk_bytes: int) -> Snapshot:
    total_bytes = os.fstat(descriptor).st_size
    offsets = range(0, total_bytes, chunk_bytes)
    digests = [sha256(os.pread(descriptor, chunk_bytes, offset)).digest() for offset in offsets]
    return Snapshot(
        total_bytes=total_bytes,
        chunk_bytes=chunk_bytes,
        digests=tuple(digests),
        progress_steps=progress_steps,
    )


def _link(path: Path, name: Path) -> None:
    name.parent.mkdir(mode=0o700, exist_ok=True)
    with suppress(FileExistsError):
        os.link(path, name)
