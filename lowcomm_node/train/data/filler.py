"""Fills a pool with the tokens of a dataset: ``python -m lowcomm_node.train.data.filler FD``, FD one end of the trainer's socket pair.

A process of its own: reading and encoding rows would hold up the interpreter that trains. It ends when the pool is full, when the
dataset is at its end, or when the other end of FD closes; on Linux also by the parent's death signal.
"""

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lowcomm_node.errors import DataError, LowcommError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import DataSettings
from lowcomm_node.train.child import EXIT_FAILED, end_child, prepare_child, stand_back
from lowcomm_node.train.data.held_out import is_held_out
from lowcomm_node.train.data.held_out_rows import write_held_out
from lowcomm_node.train.data.rows import open_rows, prepare_reader, texts_of
from lowcomm_node.train.data.shards import TokenArray, token_dtype, write_shard
from lowcomm_node.train.data.tokenizer import choose_encoder

__all__ = ["VALIDATION_FILE", "Job", "Progress", "fill", "main", "read_progress", "shard_file"]

VALIDATION_FILE = "validation.bin"
_PROGRESS_FILE = "progress.json"
_NICE = 19
"""Behind everybody: the trainer stands back itself, and has a few batches ahead."""
_FIRST_SHARD_TOKENS = 1 << 18
_MAX_SHARD_TOKENS = 1 << 22
"""The first shards are smaller, each twice the one before: training need not wait for much."""
_LEAST_SHARDS = 8
_SHUFFLED_ROWS = 10_000
_ROWS_AT_A_TIME = 64
_RETRY_S = 60.0
_TRIES = 3
"""Of a dataset of which nothing was read yet; later ones have no end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to fill, and with what."""

    manifest: Manifest
    data: DataSettings
    folder: Path
    seed: int
    """Of the order in which this node reads the dataset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a pool has come. Shards below ``shards`` never change again."""

    shards: int = 0
    is_complete: bool = False
    size_bytes: int = 0
    rows: dict[str, Any] | None = None
    """Where the dataset is read on, as it says itself."""
    has_split: bool = False
    """Held out is the dataset's own validation split, so all rows of the other are trained on."""


def read_progress(folder: Path) -> Progress:
    """What was last written; nothing for a pool that has only begun."""
    try:
        return Progress(**json.loads((folder / _PROGRESS_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return Progress()


def shard_file(folder: Path, number: int) -> Path:
    """Where a shard of training tokens lies."""
    return folder / f"train-{number:06d}.bin"


def fill(job: Job, *, is_wanted: Callable[[], bool] = lambda: True) -> None:
    """Write shards until the pool is full or the dataset at its end; goes on where an earlier call was ended.

    After an interruption the rows that were in the shuffling buffer, or encoded and not yet in a shard, are left out.
    Raises DataError, OSError and whatever the library raises.
    """
    encoder = choose_encoder(job.manifest, job.data.tokenizer)
    data, ratio = job.data, job.manifest.data.validation_ratio
    progress = read_progress(job.folder)
    if progress.is_complete:
        return
    validation = job.folder / VALIDATION_FILE
    if not validation.exists():
        has_split = write_held_out(validation, job.manifest, data, encoder)
        # Ended between these two lines, the pool only leaves out more than it has to.
        progress = replace(progress, has_split=has_split)
        _write_progress(job.folder, progress)
    rows = open_rows(data)
    rows = rows.shuffle(seed=job.seed, buffer_size=_SHUFFLED_ROWS)
    if progress.rows is not None:
        rows.load_state_dict(progress.rows)
    has_split = progress.has_split
    texts = (text for text in texts_of(rows, data) if has_split or not is_held_out(text, ratio))
    max_bytes = int(data.cache_gb * 1e9)
    itemsize = token_dtype(encoder.vocab_size).itemsize
    largest = max(1, min(_MAX_SHARD_TOKENS, max_bytes // itemsize // _LEAST_SHARDS))
    waiting: deque[TokenArray] = deque()
    size = 0
    while is_wanted() and not progress.is_complete:
        room = (max_bytes - progress.size_bytes) // itemsize
        count = min(_FIRST_SHARD_TOKENS << min(progress.shards, 16), largest, room)
        while size < count and is_wanted():
            batch = list(islice(texts, _ROWS_AT_A_TIME))
            if not batch:
                break
            made = list(encoder.encode(batch))
            waiting += made
            size += sum(map(len, made))
        if not is_wanted():
            return
        file = shard_file(job.folder, progress.shards)
        written = write_shard(file, _take(waiting, count), encoder.vocab_size) if size else 0
        size_bytes = progress.size_bytes + written * itemsize
        progress = replace(
            progress,
            shards=progress.shards + (written > 0),
            is_complete=size < count or size_bytes + largest * itemsize // 2 > max_bytes,
            size_bytes=size_bytes,
            rows=rows.state_dict(),
        )
        size -= written
        _write_progress(job.folder, progress)


def main(arguments: list[str]) -> int:
    """Fill until done or nobody is there any more. Returns the exit status."""
    prepare_child()
    stand_back(_NICE)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core is enough, and the others train
    connection = Connection(int(arguments[0]))
    with suppress(DataError):  # it is not installed, which is told when something is to be read
        prepare_reader()
    with suppress(EOFError):  # before the first message
        return _serve(connection.recv(), connection)
    return EXIT_FAILED


def _serve(job: Job, connection: Connection) -> int:
    tries = 0
    while not connection.poll():  # nothing is ever sent: there is something to read when the other end is closed
        try:
            fill(job, is_wanted=lambda: not connection.poll())
        except Exception as error:  # noqa: BLE001 - the process's supervisor: a network that fails, in the library's own words
            words = (
                str(error)
                if isinstance(error, LowcommError)
                else f"{job.data.dataset}: {type(error).__name__}: {error}"
            )
            tries += 1
            is_begun = read_progress(job.folder).shards > 0
            if isinstance(error, DataError) or (tries >= _TRIES and not is_begun):
                with suppress(OSError):
                    connection.send(words)
                if is_begun:
                    _say(f"no more of the dataset is read: {words}")
                return EXIT_FAILED
            _say(f"reading the dataset on in {_RETRY_S:g} s: {words}")
            connection.poll(_RETRY_S)
        else:
            return 0
    return 0


def _say(text: str) -> None:
    """To whoever reads what the trainer says."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _take(waiting: deque[TokenArray], count: int) -> Iterator[TokenArray]:
    """The first ``count`` tokens, which are no longer waiting then."""
    while count and waiting:
        piece = waiting.popleft()
        if len(piece) > count:
            waiting.appendleft(piece[count:])
        yield piece[:count]
        count -= min(count, len(piece))


def _write_progress(folder: Path, progress: Progress) -> None:
    file = folder / _PROGRESS_FILE
    unfinished = file.with_name(f".{_PROGRESS_FILE}.unfinished")
    fields = {name: getattr(progress, name) for name in Progress.__slots__}
    unfinished.write_text(json.dumps(fields))
    unfinished.replace(file)


if __name__ == "__main__":
    end_child(main(sys.argv[1:]))
