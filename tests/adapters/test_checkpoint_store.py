"""The folder of checkpoints: numbers that only grow, the newest few kept, the cap honoured, nothing usable ever lost."""

import os
import shutil
from pathlib import Path

import pytest

from lowcomm_node.adapters.checkpoint_store import CheckpointStore, newest_state_file
from lowcomm_node.errors import StoreError
from lowcomm_node.ports import StoredCheckpoint
from lowcomm_node.settings.node import CheckpointSettings
from lowcomm_node.units import RunId
from lowcomm_node.wire.checkpoint import CheckpointFacts, encode_facts

RUN = RunId("ab" * 32)
OTHER = RunId("cd" * 32)
SIZE = 10_000


class Home:
    """A state directory whose checkpoints are written by hand, and what was told of them."""

    def __init__(self, folder: Path, **settings: int) -> None:
        self.folder = folder / "checkpoints"
        self.told: list[tuple[str, str]] = []
        self.store = CheckpointStore(
            folder, CheckpointSettings(**settings), lambda event, path, _: self.told.append((event, path.name))
        )

    def write(self, path: Path, steps: int = 1, run_id: RunId = RUN) -> Path:
        """As the trainer would, of ``SIZE`` bytes in all."""
        path.mkdir(parents=True)
        facts = encode_facts(
            CheckpointFacts(
                run_id=run_id, progress_steps=steps + 0.5, steps=steps, state_bytes=SIZE, state_sha256="0" * 64
            )
        )
        (path / "state.json").write_bytes(facts)
        (path / "state.safetensors").write_bytes(bytes(SIZE - len(facts)))
        return path

    def grow(self, count: int) -> None:
        for _ in range(count):
            self.write(self.store.begin(SIZE))
            self.store.ended()

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


def test_numbers_grow_and_the_newest_are_kept(tmp_path: Path) -> None:
    """Also in the next life; and what is moved aside keeps its number to itself."""
    home = Home(tmp_path, keep=3)
    home.grow(5)
    assert home.names() == ["00000003", "00000004", "00000005"]

    home.store.set_aside(home.folder / "00000005", "refused", "")
    again = Home(tmp_path, keep=2)
    again.grow(1)

    assert again.names() == ["00000004", "00000005.refused", "00000006"]
    assert newest_state_file(tmp_path) == again.folder / "00000006" / "state.safetensors"
    first = newest_state_file(tmp_path / "new")
    assert first.relative_to(tmp_path) == Path("new/checkpoints/00000001/state.safetensors")


def test_candidates_are_those_of_the_run_newest_first(tmp_path: Path) -> None:
    """Everything else is moved aside with a message that names it; the tensors are not looked at."""
    home = Home(tmp_path)
    for number, run_id in enumerate((RUN, OTHER, RUN, RUN), start=1):
        home.write(home.folder / f"{number:08d}", steps=number, run_id=run_id)
    (home.folder / "00000003" / "state.json").write_bytes(b"{}")
    (home.folder / "notes.txt").write_text("of the volunteer")

    found = home.store.candidates(RUN)

    assert found == tuple(
        StoredCheckpoint(path=home.folder / f"{number:08d}", progress_steps=number + 0.5, steps=number)
        for number in (4, 1)
    )
    assert home.told == [("checkpoint_set_aside", "00000003"), ("checkpoint_set_aside", "00000002")]
    assert home.names() == ["00000001", f"00000002.run-{OTHER[:12]}", "00000003.unreadable", "00000004", "notes.txt"]
    assert home.store.candidates(RUN) == found


def test_of_what_is_set_aside_little_stays(tmp_path: Path) -> None:
    """A disk that damages everything is not filled with the remains."""
    home = Home(tmp_path)
    for _ in range(5):
        path = home.write(home.store.begin(SIZE))
        home.store.set_aside(path, "refused", "")

    assert home.names() == ["00000004.refused", "00000005.refused"]


@pytest.mark.parametrize(("max_bytes", "kept"), [(0, 4), (4 * SIZE, 4), (4 * SIZE - 1, 3), (2 * SIZE, 2), (SIZE, 1)])
def test_the_cap_is_kept_by_keeping_fewer(tmp_path: Path, max_bytes: int, kept: int) -> None:
    """Never fewer than one; and while one is written, there is no more beside it than the cap or the newest."""
    home = Home(tmp_path, keep=4, max_bytes=max_bytes)

    home.grow(6)
    assert len(home.names()) == kept
    path = home.store.begin(SIZE)

    assert len(home.names()) == (4 if not max_bytes else max(1, max_bytes // SIZE - 1))
    home.write(path)
    home.store.ended()
    assert home.names()[-1] == "00000007"
    assert len(home.names()) == kept


def test_under_the_cap_what_was_set_aside_goes_first(tmp_path: Path) -> None:
    """It counts, and is worth the least."""
    home = Home(tmp_path, keep=4, max_bytes=3 * SIZE)
    home.grow(3)
    home.store.set_aside(home.folder / "00000003", "refused", "")

    home.grow(1)

    assert home.names() == ["00000001", "00000002", "00000004"]


def test_what_does_not_fit_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cap below one checkpoint, a disk without room: an error with both numbers, and the old ones as they were."""
    Home(tmp_path, keep=3).grow(3)
    small = Home(tmp_path, keep=3, max_bytes=SIZE - 1)
    before = small.names()

    assert not small.store.fits(SIZE)
    with pytest.raises(StoreError, match=f"takes {SIZE} bytes, checkpoint.max_bytes allows {SIZE - 1}"):
        small.store.begin(SIZE)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=SIZE - 1))
    full = Home(tmp_path, keep=1)
    assert full.store.fits(SIZE)
    with pytest.raises(StoreError, match=f"takes {SIZE} bytes, the disk has {SIZE - 1} left"):
        full.store.begin(SIZE)

    assert small.names() == before


def test_an_attempt_that_failed_leaves_its_number_for_the_next(tmp_path: Path) -> None:
    """And what a killed life left half written is cleared, be it half written or half removed."""
    home = Home(tmp_path)
    home.grow(2)
    path = home.store.begin(SIZE)
    (home.folder / f".{path.name}.unfinished").mkdir()
    (home.folder / ".00000001.refused.unfinished").mkdir()

    home.store.clear_leftovers()

    assert home.store.begin(SIZE) == path
    assert home.names() == ["00000001", "00000002"]


def test_a_state_directory_that_is_no_place_for_folders_is_an_error(tmp_path: Path) -> None:
    """Not a crash of the daemon."""
    (tmp_path / "checkpoints").write_text("a file")
    home = Home(tmp_path)

    with pytest.raises(StoreError, match="no place for checkpoints"):
        home.store.begin(SIZE)
    assert home.store.candidates(RUN) == ()
    assert os.listdir(tmp_path) == ["checkpoints"]  # noqa: PTH208
