"""Datasets: streamed by a process into shards, drawn from while they grow."""

import dataclasses
import errno
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import datasets
import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from lowcomm_node.errors import DataError, StoreError
from lowcomm_node.settings.manifest import Manifest, ModelConfig
from lowcomm_node.settings.node import DataSettings
from lowcomm_node.train.data import filler as filler_module
from lowcomm_node.train.data.corpus import check_data
from lowcomm_node.train.data.filler import Job, fill, read_progress, shard_file
from lowcomm_node.train.data.held_out import is_held_out
from lowcomm_node.train.data.pool import AHEAD, Pool, open_pool, seed_of
from lowcomm_node.train.data.rows import open_rows, texts_of
from lowcomm_node.train.data.shards import map_shard, write_shard
from lowcomm_node.train.data.stream import Stream
from lowcomm_node.train.held_out import held_out_batches
from lowcomm_node.units import PeerId, RunId

RUN = RunId("ab" * 32)
ROWS = [f"<{number}> is a row of its own, and the row after it is {number + 1}" for number in range(400)]
HELD_OUT = [row for row in ROWS if is_held_out(row, 0.05)]

_WATCHED_FILLER = """
import sys
from lowcomm_node.train.child import end_child
from lowcomm_node.train.data.filler import main
status = main(sys.argv[1:])
import datasets
print(status, "torch" in sys.modules, datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN)
end_child(status)
"""


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package rests for five seconds after each reading, for an interpreter that ends. This one goes on."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Four files with a hundred rows each, among them empty ones."""
    for number in range(4):
        rows = [*ROWS[100 * number : 100 * (number + 1)], "", None]
        table = pa.table({"number": list(range(102)), "text": pa.array(rows, pa.string())})
        parquet.write_table(table, tmp_path / f"part{number}.parquet")
    return tmp_path


def _settings(name: Path | str, **changes: object) -> DataSettings:
    return dataclasses.replace(DataSettings(dataset=str(name)), **changes)  # type: ignore[arg-type]


def _job(folder: Path, data: DataSettings, peer: str = "peer") -> Job:
    folder.mkdir(exist_ok=True)
    return Job(manifest=Manifest(), data=data, folder=folder, seed=seed_of(PeerId(peer)))


def _texts(folder: Path) -> list[str]:
    """What was written for training, document by document."""
    shards = range(read_progress(folder).shards)
    whole = b"".join(bytes(map_shard(shard_file(folder, n)).to(torch.uint8).tolist()) for n in shards)
    return whole.decode().split("\0")[:-1]


def test_every_row_is_read_and_none_is_held_out_and_trained_on(files: Path) -> None:
    """What fits is there once; rows that are held out are there, the same for all nodes, and in no node's training tokens."""
    data = _settings(files / "*.parquet")
    validations = set()
    orders = []
    for peer in ("a", "b"):
        folder = files / peer
        fill(_job(folder, data, peer))
        validations.add((folder / "validation.bin").read_bytes())
        orders.append(_texts(folder))
        assert read_progress(folder).is_complete

    assert sorted(orders[0]) == sorted(orders[1]) == sorted(set(ROWS) - set(HELD_OUT))
    assert orders[0] != orders[1]
    assert len(validations) == 1
    held_out = bytes(map_shard(files / "a" / "validation.bin").to(torch.uint8).tolist()).decode()
    assert held_out.split("\0")[:-1] == HELD_OUT


def test_local_kinds_of_datasets_have_the_same_rows(files: Path) -> None:
    """Lines of JSON, a folder of files, and what save_to_disk wrote, with and without splits."""
    expected = [row for row in ROWS if row]
    (files / "rows.jsonl").write_text("".join(json.dumps({"body": row}) + "\n" for row in expected))
    folder = files / "folder"
    folder.mkdir()
    (folder / "train.jsonl").write_text((files / "rows.jsonl").read_text())
    whole = datasets.Dataset.from_dict({"body": expected})
    whole.save_to_disk(files / "saved")
    datasets.DatasetDict({"first": whole}).save_to_disk(files / "splits")

    for name, split in (("rows.jsonl", "train"), ("folder", "train"), ("saved", "train"), ("splits", "first")):
        data = _settings(files / name, dataset_split=split, text_column="body")
        check_data(None, data)
        assert list(texts_of(open_rows(data), data)) == expected, name
    data = _settings(files / "part*.parquet")
    assert list(texts_of(open_rows(data), data)) == expected


def test_a_split_or_configuration_that_is_not_there_is_the_settings_fault(files: Path) -> None:
    """It is no use to try again: the error names what there is, in the library's words, and the settings to correct."""
    for changes in ({"dataset_split": "second"}, {"dataset_config": "large"}):
        with pytest.raises(DataError, match=r"correct data\.dataset, data\.dataset_config, data\.dataset_split or"):
            open_rows(_settings(files, **changes))


@pytest.mark.parametrize("kind", ["saved", "folder"])
def test_a_validation_split_is_what_is_held_out(files: Path, kind: str) -> None:
    """All rows of the other split are trained on, and those of this one by nobody; a judge reads the same."""
    held_out = [f"held out {number}" for number in range(200)]
    if kind == "saved":
        splits = {
            "train": datasets.Dataset.from_dict({"text": ROWS}),
            "validation": datasets.Dataset.from_dict({"text": held_out}),
        }
        datasets.DatasetDict(splits).save_to_disk(files / "set")
    else:
        (files / "set").mkdir()
        for name, rows in (("train", ROWS), ("validation", held_out)):
            (files / "set" / f"{name}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    data = _settings(files / "set")
    job = _job(files / "pool", data)

    fill(job)

    assert sorted(_texts(job.folder)) == sorted(ROWS)
    judged = bytes(map_shard(job.folder / "validation.bin").to(torch.uint8).tolist())
    assert judged.decode().split("\0")[:-1] == held_out
    assert read_progress(job.folder).has_split
    window = held_out_batches(Manifest(), data, files / "judge", RUN)[0][0]
    assert bytes(window.tolist()) == judged[: len(window)]


def test_a_pool_from_before_goes_on_as_it_began(files: Path) -> None:
    """It has rows held out by their hash: the split that the dataset has is not trained on, but the rows stay held out too."""
    splits = {name: datasets.Dataset.from_dict({"text": ROWS}) for name in ("train", "validation")}
    datasets.DatasetDict(splits).save_to_disk(files / "set")
    job = _job(files / "pool", _settings(files / "set"))
    write_shard(job.folder / "validation.bin", [np.zeros(10_000, np.uint8)], 256)

    fill(job)

    assert sorted(_texts(job.folder)) == sorted(set(ROWS) - set(HELD_OUT))


@pytest.mark.parametrize("rows", [["short"], None])
def test_a_split_that_cannot_be_used_is_none(files: Path, rows: list[str] | None) -> None:
    """Too small for one window, or without the column of the text: rows are held out by their hash."""
    other = {"text": rows} if rows is not None else {"body": ROWS}
    splits = {"train": datasets.Dataset.from_dict({"text": ROWS}), "validation": datasets.Dataset.from_dict(other)}
    datasets.DatasetDict(splits).save_to_disk(files / "set")
    job = _job(files / "pool", _settings(files / "set"))

    fill(job)

    assert not read_progress(job.folder).has_split
    assert sorted(_texts(job.folder)) == sorted(set(ROWS) - set(HELD_OUT))


def test_a_full_disk_keeps_what_there_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """New shards do not count while the schedule cannot be written, which is said once; a first schedule is an error with the cure."""
    texts = tmp_path / "a.jsonl"
    texts.write_text("".join(json.dumps({"text": row}) + "\n" for row in ROWS))
    job = _job(tmp_path / "pool", _settings(texts))
    fill(job)
    pool = Pool(job.folder, RUN, 256, is_leader=True)
    write = Path.write_text

    def full(path: Path, text: str, **words: str) -> int:
        if path.name.startswith(".schedule"):
            write(path, text[:3])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, text, **words)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StoreError, match=r"no space left on device; free some room on that disk, or set state_dir"):
        pool.wait(lambda: None)
    monkeypatch.setattr(Path, "write_text", write)
    pool.wait(lambda: None)
    before = pool.at(5)

    progress = json.loads((job.folder / "progress.json").read_text())
    shard_file(job.folder, 1).write_bytes(shard_file(job.folder, 0).read_bytes())
    (job.folder / "progress.json").write_text(json.dumps(progress | {"shards": 2}))
    monkeypatch.setattr(Path, "write_text", full)
    assert [len(pool.at(index).parts) for index in (6, 7, 7 + AHEAD)] == [1, 1, 1]
    assert pool.at(5) is before
    assert capsys.readouterr().err.count("no space left on device") == 1
    assert list(job.folder.glob(".*")) == []

    monkeypatch.setattr(Path, "write_text", write)
    assert len(pool.at(1000).parts) == 1
    assert len(pool.at(1000 + AHEAD).parts) == 2


def test_an_interrupted_pool_goes_on(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards that were complete stay as they are, and what follows are other rows."""
    monkeypatch.setattr(filler_module, "_FIRST_SHARD_TOKENS", 2000)
    monkeypatch.setattr(filler_module, "_MAX_SHARD_TOKENS", 2000)
    monkeypatch.setattr(filler_module, "_SHUFFLED_ROWS", 1)
    monkeypatch.setattr(filler_module, "_ROWS_AT_A_TIME", 1)
    job = _job(files / "pool", _settings(files / "*.parquet"))
    fill(job, is_wanted=lambda: read_progress(job.folder).shards < 3)
    before = [shard_file(job.folder, number).read_bytes() for number in range(3)]
    assert not read_progress(job.folder).is_complete

    fill(job)

    texts = _texts(job.folder)
    assert [shard_file(job.folder, number).read_bytes() for number in range(3)] == before
    assert len(set(texts)) == len(texts)
    whole = [text for text in texts if text in ROWS]
    assert len(whole) > 300


def test_the_disk_has_its_cap(files: Path) -> None:
    """A pool ends when it is full; what is on disk is no more than was allowed, and not much less."""
    (files / "long.jsonl").write_text("".join(json.dumps({"text": f"{n} " * 3000}) + "\n" for n in range(200)))
    job = _job(files / "pool", _settings(files / "long.jsonl", cache_gb=0.001))

    fill(job)

    used = sum(file.stat().st_size for file in job.folder.glob("train-*.bin"))
    assert 800_000 < used < 1_020_000
    assert read_progress(job.folder).is_complete


def test_batches_stay_what_they_were_while_the_pool_grows(tmp_path: Path) -> None:
    """New shards count from a later batch on; another life, and another device of the node, draw the same batches."""
    texts = tmp_path / "a.jsonl"
    texts.write_text("".join(json.dumps({"text": row}) + "\n" for row in ROWS))
    job = _job(tmp_path / "pool", _settings(texts))
    fill(job)
    progress = job.folder / "progress.json"
    complete = json.loads(progress.read_text())
    shard = shard_file(job.folder, 0).read_bytes()
    shard_file(job.folder, 1).write_bytes(shard)

    def pool(*, is_leader: bool = True) -> Pool:
        found = Pool(job.folder, RUN, 256, is_leader=is_leader)
        found.wait(lambda: None)
        return found

    def stream(source: Pool) -> Stream:
        return Stream(source, 4, 16, RUN, PeerId("p"))

    leading = pool()
    leader, follower = stream(leading), stream(pool(is_leader=False))
    first = [leader.batch(index) for index in range(5)]
    progress.write_text(json.dumps(complete | {"shards": 2}))
    later = [leader.batch(index) for index in range(5, 5 + AHEAD + 3)]
    drawn = dict(enumerate(first + later))

    assert [len(leading.at(index).parts) for index in (4, 5, AHEAD + 4, AHEAD + 5)] == [1, 1, 1, 2]
    for again in (follower, stream(pool())):
        assert all(torch.equal(again.batch(index), batch) for index, batch in drawn.items())


def test_an_older_state_begins_another_future(tmp_path: Path) -> None:
    """When training goes back to a batch long before, the pool does not stay small until it has come as far again."""
    texts = tmp_path / "a.jsonl"
    texts.write_text("".join(json.dumps({"text": row}) + "\n" for row in ROWS))
    job = _job(tmp_path / "pool", _settings(texts))
    fill(job)
    progress = json.loads((job.folder / "progress.json").read_text())
    shard_file(job.folder, 1).write_bytes(shard_file(job.folder, 0).read_bytes())
    pool = Pool(job.folder, RUN, 256, is_leader=True)
    pool.wait(lambda: None)
    (job.folder / "progress.json").write_text(json.dumps(progress | {"shards": 2}))
    assert len(pool.at(1 << 30).parts) == 1
    assert len(pool.at((1 << 30) + AHEAD).parts) == 2

    assert len(pool.at(10).parts) == 1
    assert len(pool.at(11 + AHEAD).parts) == 2


def test_the_filler_is_a_process_that_ends(files: Path) -> None:
    """It fills and ends by itself, or with the pool's owner; a full pool needs none, and other settings another pool."""
    data = _settings(files / "*.parquet")

    pool, filler = open_pool(Manifest(), data, files, RUN, PeerId("p"), is_leader=True)
    assert filler is not None
    process = psutil.Process(filler.pid)
    assert process.ppid() == psutil.Process().pid
    assert len(pool) > 10_000
    assert len(pool.validation) == sum(len(row) + 1 for row in HELD_OUT)
    _wait(lambda: process.status() == psutil.STATUS_ZOMBIE)
    filler.check()
    filler.close()
    assert open_pool(Manifest(), data, files, RUN, PeerId("p"), is_leader=True)[1] is None

    (folder,) = (path for path in (files / "tokens").iterdir() if path.is_dir())
    _, filler = open_pool(Manifest(), dataclasses.replace(data, cache_gb=1.0), files, RUN, PeerId("p"), is_leader=True)
    assert filler is not None
    filler.close()
    assert not folder.exists()
    assert not psutil.pid_exists(filler.pid)


def test_the_filler_neither_loads_torch_nor_rests(files: Path) -> None:
    """Beside each trainer that would be 180 MiB for nothing, and seconds of waiting for an interpreter that it never takes down."""
    ours, theirs = socket.socketpair()
    with subprocess.Popen(
        [sys.executable, "-c", _WATCHED_FILLER, str(theirs.fileno())],
        pass_fds=(theirs.fileno(),),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        theirs.close()
        with Connection(ours.detach()) as connection:
            connection.send(_job(files / "pool", _settings(files / "*.parquet")))
            said, _ = process.communicate()

    assert said.split() == ["0", "False", "0"]
    assert read_progress(files / "pool").is_complete


def test_datasets_that_cannot_be_used_are_refused(files: Path) -> None:
    """Each with what is there instead and the setting to correct."""
    datasets.Dataset.from_dict({"text": ["a"], "n": [1]}).save_to_disk(files / "saved")
    datasets.DatasetDict({"x": datasets.Dataset.from_dict({"text": ["a"]})}).save_to_disk(files / "splits")

    for data, reason in (
        (_settings(files / "*.parquet", text_column="body"), "no column body, but number, text"),
        (_settings(files / "*.parquet", text_column="number"), "column number has int, not text"),
        (_settings(files / "absent.parquet"), "no such file"),
        (_settings(files / "absent"), "no such folder"),
        (_settings(files / "splits"), "no split train, but x"),
        (_settings(files / "saved"), "none of its rows is held out"),
    ):
        with pytest.raises(DataError, match=reason):
            fill(_job(files / "pool", data))


def test_what_the_filler_says_last_is_what_went_wrong(files: Path) -> None:
    """By way of its process, and so is a dataset that is too small for a window; nothing is left running."""
    wrong = _settings(files / "*.parquet", text_column="body")
    long = dataclasses.replace(Manifest(), model=ModelConfig(context_length=4096))
    before = set(psutil.Process().children())  # of what other tests have imported

    with pytest.raises(DataError, match="no column body, but number, text"):
        open_pool(Manifest(), wrong, files, RUN, PeerId("p"), is_leader=True)
    with pytest.raises(DataError, match=r"\d+ tokens to train on and \d+ held out, but one window of .* needs 4097"):
        open_pool(long, _settings(files / "*.parquet"), files, RUN, PeerId("p"), is_leader=True)

    assert set(psutil.Process().children()) <= before


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
