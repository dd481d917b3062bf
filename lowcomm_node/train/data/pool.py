"""Tokens of a dataset that are on disk so far: batches are drawn from them while more are written.

So that batch k stays what it was, a schedule says from which batch on which shards are drawn from. It lies beside them and is
written before the first batch that needs it.
"""

import hashlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

from torch import Tensor

from lowcomm_node.errors import DataError, StoreError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import DataSettings
from lowcomm_node.train.data.filler import VALIDATION_FILE, Job, read_progress, shard_file
from lowcomm_node.train.data.shards import map_shard
from lowcomm_node.train.data.token_cache import cache_key, open_cache
from lowcomm_node.train.data.tokens import Tokens
from lowcomm_node.units import PeerId, RunId

__all__ = ["AHEAD", "Filler", "Pool", "open_pool", "seed_of"]

AHEAD = 256
"""New shards count from so many batches later on: by then the node's other devices, and what was made ahead, know of them."""
_ANOTHER_FUTURE = 1 << 20
"""Batches; more than a node takes between two checkpoints."""
_LOOK_EVERY_S = 0.1
_PATIENCE_S = 1800.0


def open_pool(
    manifest: Manifest, data: DataSettings, state_dir: Path, run_id: RunId, peer_id: PeerId, *, is_leader: bool
) -> tuple["Pool", "Filler | None"]:
    """The tokens of ``data.dataset``, and the process that goes on filling them, where there is more to come and we lead.

    Waits for the first shard. Raises DataError for a dataset that cannot be read, StoreError for a disk that cannot be written.
    """
    folder = _folder_of(manifest, data, state_dir)
    pool = Pool(folder, run_id, manifest.model.vocab_size, is_leader=is_leader)
    filler = None
    with ExitStack() as stack:
        if is_leader and not read_progress(folder).is_complete:
            filler = Filler(Job(manifest=manifest, data=data, folder=folder, seed=seed_of(peer_id)))
            stack.callback(filler.close)
        pool.wait(filler.check if filler is not None else lambda: None)
        length = manifest.model.context_length + 1
        if not pool.at(0).num_windows(length) or not pool.validation.num_windows(length):
            raise DataError(
                f"{data.dataset}: {len(pool)} tokens to train on and {len(pool.validation)} held out, but one window of "
                f"model.context_length = {length - 1} needs {length} of each; data.dataset needs more rows"
            )
        stack.pop_all()
    return pool, filler


def _folder_of(manifest: Manifest, data: DataSettings, state_dir: Path) -> Path:
    dataset = [data.dataset, data.dataset_config, data.dataset_split, data.text_column, str(data.cache_gb)]
    if data.dataset_revision:
        dataset.append(data.dataset_revision)
    key = cache_key(manifest.data.tokenizer, str(manifest.data.validation_ratio), *dataset)
    with open_cache(state_dir, key) as folder:
        return folder


def seed_of(peer_id: PeerId) -> int:
    """Of the order in which a node reads a dataset: each its own, and always the same."""
    return int.from_bytes(hashlib.sha256(b"lowcomm/v1/rows|" + peer_id.encode()).digest()[:4], "little")


class Filler:
    """The process that fills a pool."""

    def __init__(self, job: Job) -> None:
        ours, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lowcomm_node.train.data.filler", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        self._connection.send(job)

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raises DataError with its last words once it has given up."""
        status = self._process.poll()
        if status:
            try:
                words = self._connection.recv()
            except (EOFError, OSError):
                words = f"reading the dataset ended with status {status}"
            raise DataError(words)

    def close(self) -> None:
        """End it; what it has not finished is made again by the next one."""
        self._connection.close()
        self._process.kill()
        self._process.wait()


class Pool:
    """The shards of a folder, as a source of batches (``stream.Source``).

    Of a node's devices the first leads: it alone writes the schedule.
    """

    def __init__(self, folder: Path, run_id: RunId, vocab_size: int, *, is_leader: bool) -> None:
        self._folder = folder
        self._file = folder / f"schedule-{run_id[:16]}.json"
        self._vocab_size = vocab_size
        self._is_leader = is_leader
        self._schedule: list[tuple[int, int]] = []
        """First batch, and the number of shards that batches are drawn from; by first batch."""
        self._seen: int | None = None
        self._said = ""
        self._parts: list[Tensor] = []
        self._tokens = Tokens()

    def wait(self, check: Callable[[], None]) -> None:
        """Until there is something to draw from. ``check`` may raise. Raises DataError when nothing comes."""
        deadline = time.monotonic() + _PATIENCE_S
        while not self._is_there():
            check()
            if time.monotonic() > deadline:
                raise DataError(f"{self._folder}: nothing of the dataset was read within {_PATIENCE_S:g} s")
            time.sleep(_LOOK_EVERY_S)
        self._read()
        if not self._schedule:
            self._schedule = [(0, read_progress(self._folder).shards)]
            self._write()

    @property
    def validation(self) -> Tokens:
        """What is held out."""
        path = self._folder / VALIDATION_FILE
        return Tokens(map_shard(path), vocab_size=self._vocab_size, names=[str(path)])

    def __len__(self) -> int:
        return len(self._of(self._schedule[-1][1]))

    def at(self, index: int) -> Tokens:
        """What batch ``index`` is drawn from. Raises DataError when a shard is gone, StoreError for a full disk."""
        if self._is_leader:
            self._grow(index)
        elif self._seen != self._changed_at(self._file):
            self._read()
        return self._of(next(shards for first, shards in reversed(self._schedule) if first <= index))

    def _grow(self, index: int) -> None:
        seen = self._changed_at(self._folder / "progress.json")
        if self._schedule[-1][0] > index + _ANOTHER_FUTURE:
            # A much older state was loaded than that of the newest batches: nobody will come to those.
            self._schedule = [entry for entry in self._schedule if entry[0] <= index + _ANOTHER_FUTURE]
            self._seen = None
            self._write()
        if seen == self._seen or self._schedule[-1][0] > index:
            return
        self._seen = seen
        shards = read_progress(self._folder).shards
        if shards > self._schedule[-1][1]:
            self._schedule.append((index + AHEAD, shards))
            try:
                self._write()
            except StoreError as error:
                # What is not written does not count: batches are drawn from the shards there were, until it can be.
                self._schedule.pop()
                self._seen = None
                self._say_once(str(error))

    def _of(self, shards: int) -> Tokens:
        if len(self._tokens.parts) != shards:
            numbers = range(len(self._parts), shards)
            self._parts += [map_shard(shard_file(self._folder, number)) for number in numbers]
            names = [str(shard_file(self._folder, number)) for number in range(shards)]
            self._tokens = Tokens(*self._parts[:shards], vocab_size=self._vocab_size, names=names)
        return self._tokens

    def _is_there(self) -> bool:
        if not self._is_leader:
            return self._file.exists()
        return read_progress(self._folder).shards > 0 and (self._folder / VALIDATION_FILE).exists()

    def _read(self) -> None:
        if not self._is_leader:
            self._seen = self._changed_at(self._file)
        if self._file.exists():
            try:
                self._schedule = [(int(first), int(shards)) for first, shards in json.loads(self._file.read_text())]
            except (ValueError, TypeError) as error:
                raise DataError(f"{self._file}: damaged; remove the folder it is in") from error

    def _write(self) -> None:
        unfinished = self._file.with_name(f".{self._file.name}.unfinished")
        try:
            unfinished.write_text(json.dumps(self._schedule))
            unfinished.replace(self._file)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise StoreError(
                f"{self._file}: from which batch on new tokens are drawn from cannot be written: {(error.strerror or str(error)).lower()}; "
                "free some room on that disk, or set state_dir to a folder on a larger one"
            ) from error

    def _say_once(self, text: str) -> None:
        """To whoever reads what the trainer says."""
        if text != self._said:
            self._said = text
            print(text, file=sys.stderr, flush=True)  # noqa: T201

    @staticmethod
    def _changed_at(path: Path) -> int | None:
        try:
            return path.stat().st_mtime_ns
        except OSError:
            return None
