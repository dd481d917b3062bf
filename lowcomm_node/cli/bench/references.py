"""Runs of ``bench field`` that wait for each other: a process for each member, looked after until all have ended."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lowcomm_node.bench.reference_load import MemberLoad, Telling
from lowcomm_node.cli.swarm.launch import node_environment
from lowcomm_node.errors import LowcommError

__all__ = ["ReferenceRun", "run_members"]


@dataclass(frozen=True, slots=True)
class ReferenceRun:
    """What all members said, in the order of their ranks, and how long they trained."""

    tellings: tuple[tuple[Telling, ...], ...]
    seconds: float


def run_members(loads: Sequence[MemberLoad], folder: Path) -> ReferenceRun:
    """Train them all side by side; none is left, whatever happens. Raises LowcommError with the words of one that failed."""
    with _started(loads, folder) as members, ThreadPoolExecutor(len(members)) as threads:
        heard = list(threads.map(_listen, members))
        for rank, member in enumerate(members):
            if member.wait():
                complaint = (folder / f"member-{rank}.log").read_text(errors="replace").splitlines()
                raise LowcommError(f"member {rank} of {loads[rank].reference} failed: {' / '.join(complaint[-3:])}")
    seconds = max(at_s for said in heard for _, at_s in said) - min(said[0][1] for said in heard)
    return ReferenceRun(tuple(tuple(telling for telling, _ in said) for said in heard), seconds)


@contextmanager
def _started(loads: Sequence[MemberLoad], folder: Path) -> Iterator[list["subprocess.Popen[str]"]]:
    members: list[subprocess.Popen[str]] = []
    try:
        for load in loads:
            words = [sys.executable, "-m", "lowcomm_node.bench.reference_member", load.to_json()]
            command = [sys.executable, "-m", "lowcomm_node.cli.swarm.tether", str(os.getpid()), *words]
            with (folder / f"member-{load.rank}.log").open("w") as log:
                members.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        text=True,
                        env=node_environment(),
                        start_new_session=True,
                    )
                )
        yield members
    finally:
        for member in members:
            member.kill()
            member.wait()


def _listen(member: "subprocess.Popen[str]") -> list[tuple[Telling, float]]:
    """All that it says, and when, until it ends."""
    assert member.stdout is not None  # a pipe of our own making
    with member.stdout as lines:
        return [(Telling.from_json(line), time.monotonic()) for line in lines]
