"""Start real swarms on loopback, and see that nothing of them is left."""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

__all__ = ["all_end", "family_of", "new_place", "read_until", "start_swarm"]

REPOSITORY = Path(__file__).parents[2]
TINY = """
name = "tiny"
[model]
num_layers = 1
num_heads = 2
d_model = 32
d_ff = 64
context_length = 32
[training]
batch_size = 4
total_steps = 20000
warmup_steps = 10
[meeting]
params_every_steps = 20
exp_avg_sq_every_steps = 100
"""


@contextmanager
def new_place() -> Iterator[Path]:
    """A folder with a tiny manifest and a little text; afterwards nothing that belongs to the swarm is left."""
    sockets_before = _hivemind_sockets()
    with tempfile.TemporaryDirectory(prefix="lcn-") as name:
        folder = Path(name)
        (folder / "tiny.toml").write_text(TINY)
        text = folder / "text"
        text.mkdir()
        for index in range(60):
            lines = (f"{index} times {other} is {index * other}" for other in range(60))
            (text / f"{index}.txt").write_text("\n".join(lines))
        yield folder
        left = [p.info for p in psutil.process_iter(["pid", "cmdline"]) if name in " ".join(p.info["cmdline"] or [])]
        assert left == []
        assert [path for path in folder.rglob("*") if path.is_socket()] == []
        # Other swarms may run on this machine: what counts are sockets that nobody listens on any more.
        assert (_hivemind_sockets() - sockets_before) - _sockets_in_use() == set()


def _hivemind_sockets() -> set[str]:
    return {str(path) for path in Path(tempfile.gettempdir()).glob("hivemind-*.sock")}


def _sockets_in_use() -> set[str]:
    return {str(connection.laddr) for connection in psutil.net_connections(kind="unix")}


def start_swarm(place: Path, arguments: Sequence[str]) -> subprocess.Popen[str]:
    report = ["--json", str(place / "report.json"), "--plot", str(place / "plot.png")]
    tiny = ["--manifest", str(place / "tiny.toml"), "--data", str(place / "text"), "--dir", str(place / "s")]
    command = [sys.executable, "-m", "lowcomm_node", "swarm", *tiny, *report, *arguments]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def family_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def all_end(processes: Sequence[psutil.Process]) -> bool:
    """Nobody of them lives after a while; zombies of a container without init do not live."""
    until_s = time.monotonic() + 20
    while time.monotonic() < until_s:
        if not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes):
            return True
        time.sleep(0.2)
    return False


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """Read the swarm's output up to a line with ``pattern``; fails with all of it when it does not come."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if re.search(pattern, line):
            return text
    pytest.fail(f"no line with {pattern!r} in:\n{text}")
