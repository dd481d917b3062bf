"""The owner's word over restarts."""

import math
from pathlib import Path

import pytest

from lowcomm_node.daemon.pause_file import PauseFile


@pytest.mark.parametrize("until", [1_800_000_000.5, math.inf])
def test_a_word_holds_until_it_is_taken_back(tmp_path: Path, until: float) -> None:
    """For the next life too; afterwards nothing is left."""
    assert PauseFile(tmp_path).read() is None

    PauseFile(tmp_path).write(until)
    assert PauseFile(tmp_path).read() == until

    PauseFile(tmp_path).write(None)
    assert PauseFile(tmp_path).read() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"until_unix_seconds": "soon"}', "[" * 4000, "x" * 9000])
def test_a_damaged_word_is_a_pause_all_the_same(tmp_path: Path, text: str) -> None:
    """The file is there because somebody wanted one; 'resume' removes it."""
    (tmp_path / "pause.json").write_text(text)

    assert PauseFile(tmp_path).read() == math.inf
    PauseFile(tmp_path).write(None)
    assert PauseFile(tmp_path).read() is None


def test_a_disk_that_takes_nothing_keeps_nobody_from_pausing(tmp_path: Path) -> None:
    """The word holds in this life; the log says that it was not kept."""
    gone = tmp_path / "gone"

    PauseFile(gone).write(math.inf)

    assert not gone.exists()
