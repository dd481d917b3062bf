"""Snapshots that are kept for joiners."""

import asyncio
import os
from pathlib import Path

import pytest

from lowcomm_node.adapters.snapshot_shelf import SnapshotShelf
from tests.adapters.nodes import run


def written(folder: Path, content: bytes, name: str = "state") -> Path:
    """A new file under that name, as writers of state files make them."""
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def files(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in folder.iterdir()) if folder.exists() else []


def test_a_snapshot_outlives_its_first_name_and_the_process(tmp_path: Path) -> None:
    """Another life finds it again by its content, whatever the writer has done with the file."""

    async def scenario() -> None:
        shelf = SnapshotShelf(tmp_path / "shelf")
        path = written(tmp_path, b"weights")
        name = (await shelf.put(path, 3.0)).snapshot.snapshot_id
        path.unlink()
        shelf.close()
        later = SnapshotShelf(tmp_path / "shelf")
        await later.take_up()
        held = later.get(name)
        assert held is not None
        assert held.read(0) == b"weights"
        later.close()

    run(scenario())


def test_only_the_newest_two_are_kept(tmp_path: Path) -> None:
    """Disk and open files are bounded, however often joiners ask."""

    async def scenario() -> None:
        shelf = SnapshotShelf(tmp_path / "shelf")
        names = [(await shelf.put(written(tmp_path, b"%d" % number), 1.0)).snapshot.snapshot_id for number in range(4)]
        assert [shelf.get(name) is not None for name in names] == [False, False, True, True]
        assert files(tmp_path / "shelf") == [b"2", b"3"]
        shelf.close()

    run(scenario())


def test_what_is_being_read_stays_until_it_is_read(tmp_path: Path) -> None:
    """Joiners in the middle of a download are not cut off by newer snapshots, nor do they keep the newest out."""

    async def scenario() -> None:
        shelf = SnapshotShelf(tmp_path / "shelf")
        reading = [await shelf.put(written(tmp_path, b"%d" % number), 1.0) for number in range(2)]
        for held in reading:
            held.readers = 1
        for number in range(2, 4):
            await shelf.put(written(tmp_path, b"%d" % number), 1.0)
        newest = await shelf.put(written(tmp_path, b"4"), 1.0)
        assert shelf.get(newest.snapshot.snapshot_id) is newest
        assert [held.read(0) for held in reading] == [b"0", b"1"]
        assert files(tmp_path / "shelf") == [b"0", b"1", b"4"]
        reading[0].readers = 0
        shelf.tidy()
        assert files(tmp_path / "shelf") == [b"1", b"4"]
        shelf.close()

    run(scenario())


def test_the_same_content_is_held_once(tmp_path: Path) -> None:
    """The donor's newest snapshot and a downloaded copy of it are one."""

    async def scenario() -> None:
        shelf = SnapshotShelf(tmp_path / "shelf")
        one = await shelf.put(written(tmp_path, b"same", "one"), 1.0)
        assert await shelf.put(written(tmp_path, b"same", "other"), 1.0) is one
        assert files(tmp_path / "shelf") == [b"same"]
        shelf.close()

    run(scenario())


def test_leftovers_that_are_damaged_old_or_too_many_go(tmp_path: Path) -> None:
    """A life that was killed must not fill the disk, nor may another content be given under a snapshot's name."""

    async def scenario() -> None:
        shelf = SnapshotShelf(tmp_path / "shelf")
        for number in range(2):
            await shelf.put(written(tmp_path, b"%d" % number), 1.0)
        shelf.close()
        for path in (tmp_path / "shelf").iterdir():
            if path.read_bytes() == b"0":
                path.write_bytes(b"damaged")
        old = written(tmp_path / "shelf", b"old", "aa.safetensors")
        os.utime(old, (1.0, 1.0))
        later = SnapshotShelf(tmp_path / "shelf")
        await later.take_up()
        assert files(tmp_path / "shelf") == [b"1"]
        later.close()

    run(scenario())


def test_a_snapshot_goes_after_its_time(tmp_path: Path) -> None:
    """A volunteer's disk is not filled for good because somebody has joined once."""

    async def scenario() -> None:
        shelf = SnapshotShelf(tmp_path / "shelf", keep_s=-1.0)  # every snapshot is too old at once
        held = await shelf.put(written(tmp_path, b"state"), 1.0)
        for _ in range(10):
            await asyncio.sleep(0)
        assert shelf.get(held.snapshot.snapshot_id) is None
        assert files(tmp_path / "shelf") == []
        shelf.close()

    run(scenario())


def test_without_links_a_snapshot_is_held_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems have no hard links: joiners are served all the same, for this life."""

    def no_links(*_: object) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", no_links)

    async def scenario() -> None:
        shelf = SnapshotShelf(tmp_path / "shelf")
        path = written(tmp_path, b"state")
        held = await shelf.put(path, 1.0)
        path.unlink()
        assert held.read(0) == b"state"
        shelf.close()

    run(scenario())
