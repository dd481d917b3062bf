"""Two hosts, each a network and an engine of its own with a line between them, form a cluster from the files for several hosts."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.containers import Project
from tests.deploy.engine import COMPOSE, Engine
from tests.deploy.images import NODE
from tests.deploy.tools import REPOSITORY
from tests.system.real_nodes import TINY_MANIFEST

pytestmark = [pytest.mark.engine, pytest.mark.timeout(3000)]

PAGE_LINES = (REPOSITORY / "docs/deploy.md").read_text().splitlines()
_HOSTS = ("10.77.0.1", "10.77.0.2")
_MBIT = 10
_SETTINGS = """
LOWCOMM_NETWORK__POLL_EVERY_S=1
LOWCOMM_DEVICE__THREADS=1
LOWCOMM_DATA__PATHS=["/usr/lib/python3.11/[a-d]*.py"]
"""


@pytest.fixture(scope="module")
def hosts(engine: Engine) -> Iterator[tuple[Engine, Engine]]:
    """The image is brought to the second host as a file; that one's line carries 10 Mbit/s upwards."""
    image = engine.folder / "node.tar"
    second = Engine("second", with_bridge=False)
    try:
        second.start()
        engine.docker("save", "--output", str(image), NODE, timeout_s=600)
        second.docker("load", "--input", str(image), timeout_s=600)
        engine.network.link(second.network, *(f"{address}/24" for address in _HOSTS))
        shape = f"tc qdisc add dev line root tbf rate {_MBIT}mbit burst 32k latency 400ms"
        second.network.run(*shape.split())
        yield engine, second
    finally:
        second.end()
        image.unlink(missing_ok=True)


def test_a_cluster_of_two_hosts(hosts: tuple[Engine, Engine], tmp_path: Path) -> None:
    """As docs/deploy.md says: the first starts the run and tells its address, the second joins by it; both leave in order.

    In between the second loses all but the backup of its key, and is the same node again.
    """
    first, second = hosts
    manifest = tmp_path / "run.toml"
    manifest.write_text(TINY_MANIFEST)
    settings = tmp_path / "settings.yaml"
    settings.write_text("services:\n  node:\n    env_file: [{path: " + str(tmp_path / "node.env") + "}]\n")
    (tmp_path / "node.env").write_text(_SETTINGS)
    common = {"NODE_IMAGE": NODE}

    one = Project(
        first,
        ["compose.first.yaml", str(settings)],
        {**common, "RUN_MANIFEST": str(manifest), "LOWCOMM_NETWORK__ANNOUNCE_HOST": _HOSTS[0]},
    )
    one.up()
    (at_first,) = one.names("node")
    address = one.wait_for(at_first, lambda s: bool(s["join_address"]), 60, "can be joined")["join_address"]
    assert address.startswith(f"/ip4/{_HOSTS[0]}/tcp/4001/p2p/")

    other = Project(second, ["compose.node.yaml", str(settings)], {**common, "LOWCOMM_PEERS": address})
    other.up()
    (at_second,) = other.names("node")
    before = _sent(second)
    told = other.wait_for(
        at_second,
        lambda s: s["meetings"]["completed"] >= 5 and s["grpc_address"] == f"{_HOSTS[1]}:4002",
        180,
        "meets across the line, and is dialled",
    )
    met = one.wait_for(at_first, lambda s: s["meetings"]["completed"] >= 5, 60, "meets across the line")

    assert told["run_id"] == met["run_id"]
    assert _sent(second) > before, "the meetings went over the shaped line"
    print(f"sent over the shaped line: {_sent(second) - before} bytes, {told['meetings']['completed']} meetings")

    save, restore = (line for line in PAGE_LINES if "docker/compose.node.yaml" in line and "identity.key" in line)
    run_line(save, second, tmp_path, LOWCOMM_PEERS=address)
    assert stat.filemode((tmp_path / "identity.key").stat().st_mode) == "-rw-------"
    assert set(other.down().values()) == {0}
    run_line(restore, second, tmp_path, LOWCOMM_PEERS=address, NODE_IMAGE=NODE)
    other.up()
    again = other.wait_for(at_second, lambda s: s["meetings"]["completed"] >= 1, 180, "meets with its old key")
    assert again["peer_id"] == told["peer_id"]

    for project in (other, one):
        assert set(project.down().values()) == {0}


def run_line(line: str, host: Engine, folder: Path, **variables: str) -> None:
    """A line of the page as it stands there, in a folder with nothing but our ``docker``."""
    if not (folder / "docker").exists():
        (folder / "docker").symlink_to(COMPOSE)
    done = subprocess.run(
        ["sh", "-ec", line],
        cwd=folder,
        env={**os.environ, **host.variables, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, f"{line}:\n{done.stdout}{done.stderr}"


def _sent(host: Engine) -> int:
    """Bytes that have gone through the queue of the line."""
    words = host.network.run("tc", "-s", "qdisc", "show", "dev", "line").split()
    assert "tbf" in words
    return int(words[words.index("Sent") + 1])
