"""A download on disk, before it is whole."""

import json
import os
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

from lowcomm_node.adapters.partial_file import PartialFile, discard, read_begun, write_begun
from lowcomm_node.errors import StoreError
from lowcomm_node.units import PeerId
from lowcomm_node.wire.state import Snapshot
from tests.adapters.nodes import RUN

HOLDERS = (PeerId("a"), PeerId("b"))
CHUNKS = (b"a" * 1024, b"b" * 1024, b"c" * 100)
SNAPSHOT = Snapshot(
    total_bytes=2148,
    chunk_bytes=1024,
    digests=tuple(sha256(chunk).digest() for chunk in CHUNKS),
    progress_steps=7.0,
)


def begun(folder: Path, *, arrived: tuple[int, ...]) -> Path:
    """A download of SNAPSHOT of which these chunks are there."""
    destination = folder / "state"
    write_begun(destination, SNAPSHOT, RUN, HOLDERS)
    with PartialFile(destination, SNAPSHOT) as file:
        for index in arrived:
            file.write(index, CHUNKS[index])
    return destination


def test_another_life_goes_on_where_this_one_ended(tmp_path: Path) -> None:
    """It knows the snapshot, who held it, and what is missing."""
    destination = begun(tmp_path, arrived=(1,))

    assert read_begun(destination, RUN, 5000) == (SNAPSHOT, HOLDERS)
    with PartialFile(destination, SNAPSHOT) as file:
        assert file.missing() == [0, 2]
        file.write(0, CHUNKS[0])
        file.write(2, CHUNKS[2])
        file.finish()
    assert destination.read_bytes() == b"".join(CHUNKS)


def test_a_whole_file_that_nobody_has_taken_is_gone_on_with(tmp_path: Path) -> None:
    """The node was killed between the last chunk and the look at the state: nothing is fetched again."""
    destination = begun(tmp_path, arrived=(0, 1, 2))
    with PartialFile(destination, SNAPSHOT) as file:
        file.finish()

    assert read_begun(destination, RUN, 5000) is not None
    with PartialFile(destination, SNAPSHOT) as file:
        assert file.missing() == []
    discard(destination)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["no json", "[]", "{}", '{"description": "!", "holders": []}', "too old", "no file"])
def test_what_cannot_be_gone_on_with_is_begun_anew(tmp_path: Path, damage: str) -> None:
    """Whatever a crash has left of the description, and after an hour."""
    destination = begun(tmp_path, arrived=(0,))
    description = tmp_path / "state.partial.json"
    match damage:
        case "too old":
            os.utime(description, (1.0, 1.0))
        case "no file":
            (tmp_path / "state.partial").unlink()
        case _:
            description.write_text(damage)

    assert read_begun(destination, RUN, 5000) is None


def test_a_description_must_fit_this_run(tmp_path: Path) -> None:
    """One that is too large for the manifest is not believed, though we have written it ourselves."""
    destination = begun(tmp_path, arrived=(0,))
    told = json.loads((tmp_path / "state.partial.json").read_text())

    assert len(told["holders"]) == 2
    assert read_begun(destination, RUN, 2000) is None


def test_chunks_of_another_snapshot_are_kept_where_they_are_equal(tmp_path: Path) -> None:
    """What matches is not fetched again, though the donor is another."""
    destination = begun(tmp_path, arrived=(0, 1))
    other = replace(SNAPSHOT, digests=(SNAPSHOT.digests[0], bytes(32), SNAPSHOT.digests[2]))

    with PartialFile(destination, other) as file:
        assert file.missing() == [1, 2]


def test_a_full_disk_is_told_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the file, what is needed, what there is, and the cure."""
    destination = begun(tmp_path, arrived=(0,))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))

    with (
        PartialFile(destination, SNAPSHOT) as file,
        pytest.raises(StoreError, match=r"state\.partial.*needs.*state_dir"),
    ):
        file.missing()


def test_what_the_shelf_gives_to_others_is_not_written_to(tmp_path: Path) -> None:
    """A file with a second name may be somebody's download right now."""
    destination = begun(tmp_path, arrived=(0, 1, 2))
    os.link(tmp_path / "state.partial", tmp_path / "on the shelf")

    with PartialFile(destination, SNAPSHOT) as file:
        file.write(0, b"x" * 1024)
    assert (tmp_path / "on the shelf").read_bytes() == b"".join(CHUNKS)


def test_nothing_is_written_after_the_end(tmp_path: Path) -> None:
    """A thread that a cancelled download has left behind must not write to whatever file has got its number since."""
    destination = begun(tmp_path, arrived=())
    with PartialFile(destination, SNAPSHOT) as file:
        pass
    with (tmp_path / "other").open("wb"):
        file.write(0, CHUNKS[0])
    assert (tmp_path / "other").read_bytes() == b""
