"""Counting what the kernel has killed, and remembering in how many parts a batch has fitted."""

from pathlib import Path

import pytest

from lowcomm_node.daemon.memory import MicroBatchMemory, kernel_kills
from lowcomm_node.units import RunId

_RUN = RunId("ab" * 32)


def test_the_kernels_count_is_read_where_there_is_one(tmp_path: Path) -> None:
    """The line of /proc/vmstat; None for a kernel without it and a system without the file."""
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("pgfault 1\noom_kill 17\noom_kill_other 3\n")
    assert kernel_kills(vmstat) == 17
    vmstat.write_text("pgfault 1\n")
    assert kernel_kills(vmstat) is None
    assert kernel_kills(tmp_path / "missing") is None


def test_the_number_is_kept_for_this_run_on_this_device_only(tmp_path: Path) -> None:
    """Another run has another model, another device another memory."""
    path = tmp_path / "micro_batches.json"
    MicroBatchMemory(path, _RUN, "auto").write(8)

    assert MicroBatchMemory(path, _RUN, "auto").read() == 8
    assert MicroBatchMemory(path, RunId("cd" * 32), "auto").read() is None
    assert MicroBatchMemory(path, _RUN, "cpu").read() is None
    assert [found.name for found in tmp_path.iterdir()] == ["micro_batches.json"]


@pytest.mark.parametrize("text", ["", "[1]", "17", '{"micro_batches": 4}', "{" * 9999])
def test_a_file_that_makes_no_sense_is_none(tmp_path: Path, text: str) -> None:
    """The node begins with whole batches, as on its first day."""
    path = tmp_path / "micro_batches.json"
    path.write_text(text)

    assert MicroBatchMemory(path, _RUN, "auto").read() is None


@pytest.mark.parametrize("number", ["0", "-2", "true", '"4"', "2.5", "null"])
def test_a_number_that_is_none_is_refused(tmp_path: Path, number: str) -> None:
    """As if the file were not there."""
    path = tmp_path / "micro_batches.json"
    path.write_text(f'{{"run_id": "{_RUN}", "device": "auto", "micro_batches": {number}}}')

    assert MicroBatchMemory(path, _RUN, "auto").read() is None


def test_a_disk_that_takes_nothing_is_no_error(tmp_path: Path) -> None:
    """The next life falls once more; this one goes on."""
    MicroBatchMemory(tmp_path / "missing" / "micro_batches.json", _RUN, "auto").write(4)
