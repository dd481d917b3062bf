"""What an earlier life has left: ended when it is provably ours, and nothing else is touched."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lowcomm_node.daemon.children import Children, Leftovers, birth_of
from lowcomm_node.ports import ChildKind

_IDLE = "import sys; sys.stdin.read()"
_DEAF = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); sys.stdin.read()"


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Three processes that would wait for ever."""
    with ExitStack() as stack:
        started = []
        for _ in range(3):
            command = [sys.executable, "-I", "-S", "-c", _IDLE]
            process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            started.append(process)
        yield started


def entry(pid: int, **changes: object) -> dict[str, Any]:
    """As an earlier life would have written it."""
    return {"kind": "p2pd", "pid": pid, "birth": birth_of(pid), "sockets": ""} | changes


def write(folder: Path, *entries: dict[str, Any]) -> None:
    (folder / "processes.json").write_text(json.dumps(entries))


def test_a_recorded_process_that_still_runs_is_ended(tmp_path: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    """And only that: not one with the same pid and another birth, nor one that is not recorded. The record is gone then."""
    ours, reused, stranger = processes
    write(tmp_path, entry(ours.pid), entry(reused.pid, birth="another boot/17"))

    found = Children(tmp_path).end_leftovers()

    assert found == Leftovers(pids=(ours.pid,))
    assert ours.wait(5) == -signal.SIGTERM
    assert reused.poll() is None
    assert stranger.poll() is None
    assert not (tmp_path / "processes.json").exists()


def test_one_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    """A trainer ignores SIGTERM, which its daemon would interpret for it; a stopped one does not even hear it."""
    command = [sys.executable, "-I", "-S", "-c", _DEAF]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as deaf:
        assert deaf.stdout is not None
        assert deaf.stdout.readline() == b"deaf\n"
        deaf.send_signal(signal.SIGSTOP)
        write(tmp_path, entry(deaf.pid, kind="trainer"))

        assert Children(tmp_path).end_leftovers().pids == (deaf.pid,)
        assert deaf.wait(5) == -signal.SIGKILL


def test_what_is_started_is_found_by_the_next_life(tmp_path: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    """Each start and each end is on disk at once; what has ended in order is nobody's leftover."""
    first = Children(tmp_path)
    for kind, process in zip(ChildKind, processes, strict=True):
        first.started(kind, process.pid)
    first.ended(processes[0].pid)

    assert Children(tmp_path).end_leftovers().pids == tuple(process.pid for process in processes[1:])
    assert processes[0].poll() is None

    first.ended(*(process.pid for process in processes))
    assert not (tmp_path / "processes.json").exists()


def test_sockets_of_a_dead_p2pd_are_removed_and_nothing_else(tmp_path: Path) -> None:
    """In the recorded folder, sockets by hivemind's pattern; a plain file with such a name stays, and so does its folder."""
    folder, shared = tmp_path / "p2p", tmp_path / "shared"
    for place in (folder, shared):
        place.mkdir()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(place / "s-p2pd-x.sock"))
    (shared / "s-notes.sock").write_text("mine")
    gone = entry(os.getpid(), birth="a boot long ago/1")
    write(tmp_path, gone | {"sockets": str(folder)}, gone | {"sockets": str(shared)}, gone | {"sockets": "/nowhere"})

    assert Children(tmp_path).end_leftovers() == Leftovers(sockets=2)

    assert not folder.exists()
    assert [path.name for path in shared.iterdir()] == ["s-notes.sock"]


@pytest.mark.parametrize(
    "text", ["", "no json", "{}", '{"a": 1}', "[1, 2]", '[{"pid": 1}]', json.dumps([entry(1)]), "[" * 100_000]
)
def test_a_record_that_makes_no_sense_harms_nobody(tmp_path: Path, text: str) -> None:
    """Half a file, another program's, or one that names init: nothing is signalled, the node starts."""
    (tmp_path / "processes.json").write_text(text)

    assert Children(tmp_path).end_leftovers() == Leftovers()


def test_a_disk_that_takes_nothing_does_not_stop_the_node(tmp_path: Path) -> None:
    """The record is a precaution: without it the node still runs."""
    children = Children(tmp_path / "missing")

    children.started(ChildKind.P2PD, os.getpid())
    children.ended(os.getpid())

    assert children.end_leftovers() == Leftovers()


def test_who_was_refused_the_directory_leaves_the_record_alone(tmp_path: Path) -> None:
    """A second node in a directory that is in use ends its own trainer, and must not forget those of the first."""
    write(tmp_path, entry(os.getpid()))

    Children(tmp_path).ended(12345)

    assert (tmp_path / "processes.json").exists()


def test_birth_tells_processes_apart(processes: list[subprocess.Popen[bytes]]) -> None:
    """The same at every look, none for a process that has ended, waited for or not."""
    one, other, _ = processes

    assert birth_of(one.pid) == birth_of(one.pid)
    assert birth_of(os.getpid()) != birth_of(other.pid)
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert birth_of(other.pid) is None
    other.wait(5)
    assert birth_of(other.pid) is None
