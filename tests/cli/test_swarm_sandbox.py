"""Networks that can be cut and disks that can be full, in a world of their own; each test in a process that enters one."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psutil
import pytest

_BEGIN = """
import errno, json, os, socket, sys
from pathlib import Path
from lowcomm_node.cli.swarm.sandbox import Sandbox

def reaches(source, target, listener, patience_s):
    with source.entered(), socket.socket() as client:
        client.settimeout(patience_s)
        try:
            client.connect((target.host, 5000))
        except OSError:
            return False
    listener.accept()[0].close()
    return True

def listen(room):
    with room.entered():
        listener = socket.create_server((room.host, 5000))
    listener.settimeout(5)
    return listener

seen = {}
sandbox = Sandbox()
"""


def _in_a_sandbox(script: str, folder: Path, exit_status: int = 0) -> dict[str, Any]:
    """Run the script; what it puts into ``seen`` comes back. Skips where the sandbox gives a reason."""
    ending = "print(json.dumps({'seen': seen, 'no_rooms': sandbox.no_rooms, 'no_disks': sandbox.no_disks}))"
    code = "\n".join(
        [_BEGIN, "if not (sandbox.no_rooms or sandbox.no_disks):", textwrap.indent(script, "    "), ending]
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode in (0, exit_status), done.stderr
    said = json.loads(done.stdout)
    if reason := said["no_rooms"] or said["no_disks"]:
        pytest.skip(f"no sandbox here: {reason}")
    seen: dict[str, Any] = said["seen"]
    return seen


def test_a_cut_line_is_cut_for_everybody_and_a_cut_pair_for_two(tmp_path: Path) -> None:
    """Both ways, without a refusal; afterwards all reach each other again, and nothing is left on the machine."""
    interfaces = set(psutil.net_if_addrs())
    script = """
    a, b, c = (sandbox.room(index) for index in range(3))
    at = {id(room): listen(room) for room in (a, b, c)}
    def picture(*cut):
        # A busy computer needs time for what is possible; what is not is not waited for long.
        ways = ((a, b), (b, a), (a, c), (c, b))
        return [reaches(x, y, at[id(y)], 1.0 if (x, y) in cut else 20.0) for x, y in ways]
    seen["before"] = picture()
    b.cut()
    seen["cut"] = picture((a, b), (b, a), (c, b))
    b.mend()
    seen["mended"] = picture()
    a.lose(b), b.lose(a)
    seen["pair"] = picture((a, b), (b, a))
    a.find(b), b.find(a)
    seen["found"] = picture()
    seen["interfaces"] = sorted(name for _, name in socket.if_nameindex())
    sandbox.close()
    """
    seen = _in_a_sandbox(textwrap.dedent(script), tmp_path)

    assert seen["before"] == seen["mended"] == seen["found"] == [True, True, True, True]
    assert seen["cut"] == [False, False, True, False]
    assert seen["pair"] == [False, False, True, True]
    assert seen["interfaces"] == ["hub", "lo", "n0", "n1", "n2"]
    assert set(psutil.net_if_addrs()) == interfaces


def test_a_full_disk_has_no_room_until_it_is_emptied(tmp_path: Path) -> None:
    """What was on it stays, and lies in the ordinary directory at the end."""
    folder = tmp_path / "n0"
    folder.mkdir()
    script = """
    folder = Path(sys.argv[1]) / "n0"
    disk = sandbox.disk(folder)
    (folder / "before").write_bytes(b"b" * 10000)
    disk.fill()
    try:
        (folder / "during").write_bytes(b"d" * 10000)
    except OSError as error:
        seen["error"] = errno.errorcode[error.errno]
    disk.empty()
    (folder / "after").write_bytes(b"a" * 10000)
    socket.socket(socket.AF_UNIX).bind(str(folder / "socket"))
    sandbox.close()
    """
    seen = _in_a_sandbox(textwrap.dedent(script), tmp_path)

    assert seen["error"] == "ENOSPC"
    assert (folder / "before").read_bytes() == b"b" * 10000
    assert (folder / "after").stat().st_size == 10000
    assert not (folder / "socket").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["n0"]


def test_a_sandbox_goes_with_its_process(tmp_path: Path) -> None:
    """Nothing has to be cleaned up after a kill -9: the kernel takes mounts and networks away."""
    folder = tmp_path / "n0"
    folder.mkdir()
    script = """
    sandbox.disk(Path(sys.argv[1]) / "n0")
    (Path(sys.argv[1]) / "n0" / "file").touch()
    sandbox.room(0).cut()
    print(json.dumps({"seen": {}, "no_rooms": "", "no_disks": ""}), flush=True)
    os.kill(os.getpid(), 9)
    """
    _in_a_sandbox(textwrap.dedent(script), tmp_path, exit_status=-9)

    assert list(folder.iterdir()) == []
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def test_without_a_tool_for_networks_there_are_disks_and_the_ordinary_loopback(tmp_path: Path) -> None:
    """The faults that need one are skipped and named; nodes still find each other."""
    folder = tmp_path / "n0"
    folder.mkdir()
    script = """
    os.environ["PATH"] = sys.argv[1]
    bare = Sandbox()
    seen["room"], seen["why"] = bare.room(0) is not None, bare.no_rooms
    seen["disk"] = bare.disk(Path(sys.argv[1]) / "n0") is not None
    listener = socket.create_server(("127.0.0.1", 0))
    socket.create_connection(listener.getsockname(), timeout=5).close()
    bare.close()
    """
    seen = _in_a_sandbox(textwrap.dedent(script), tmp_path)

    assert seen == {"room": False, "why": "there is no 'ip' command (package iproute2)", "disk": True}
