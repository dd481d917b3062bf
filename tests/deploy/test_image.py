"""The image of a node, built and run by a real engine."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lowcomm_node.settings.load import read_manifest
from tests.deploy.engine import Engine, wait_until
from tests.deploy.images import NODE
from tests.system.real_nodes import TINY_MANIFEST

pytestmark = [pytest.mark.engine, pytest.mark.timeout(3000)]

_HARD = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--init")


def _run(engine: Engine, *command: str, entrypoint: str = "lowcomm-node") -> str:
    return engine.docker(
        "run", "--rm", *_HARD, "--network", "none", "--entrypoint", entrypoint, NODE, *command
    ).stdout.strip()


def test_it_says_what_it_is(engine: Engine) -> None:
    """User, state, signal, health check, labels: what an orchestrator reads before it starts anything."""
    found = engine.inspect(NODE)
    config = found["Config"]

    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["lowcomm-node"]
    assert list(config["Volumes"]) == ["/var/lib/lowcomm-node"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"] == ["CMD", "lowcomm-node", "healthcheck"]
    assert config["Labels"]["org.opencontainers.image.version"] == "1.2.3"
    assert config["Labels"]["org.opencontainers.image.revision"] == "abc"
    print(f"image: {found['Size'] / 1e9:.2f} GB")


def test_it_holds_nothing_of_where_it_was_built(engine: Engine) -> None:
    """No settings of a package index, in files or in the history; nothing that installs or compiles, and no tests of others."""
    look = (
        "ls /etc/pip.conf /wheels /root/.cache /root/.config /build /opt/tools 2>/dev/null; which gcc cc make pip; true"
    )

    assert _run(engine, "-c", look, entrypoint="sh") == ""
    history = engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", NODE).stdout
    assert "find-links" not in history
    assert "index" not in history
    packages = "/opt/venv/lib/python3*/site-packages"
    left = f"find {packages} -type d -name tests; ls -d {packages}/pip {packages}/torch/include 2>/dev/null; ls {packages}/torch/bin"
    assert _run(engine, "-c", left, entrypoint="sh") == "torch_shm_manager"


def test_it_runs_without_any_right(engine: Engine) -> None:
    """As nobody, on a root that cannot be written, with its state and /tmp alone; what it prints names its version."""
    assert _run(engine, "--version").startswith("lowcomm-node ")
    assert _run(engine, "-c", "id -u; touch /opt/x 2>&1 | grep -c 'Read-only'", entrypoint="sh").split() == [
        "10001",
        "1",
    ]
    assert "12D3KooW" in _run(engine, "identity", "show")
    assert _run(engine, "-c", "import torch; print(int(torch.ones(3).sum()))", entrypoint="python") == "3"


@pytest.fixture
def node(engine: Engine) -> Iterator[str]:
    """One node of a small run, by itself, with the image's own health check at a quicker pace."""
    name = "single"
    (engine.folder / "run.toml").write_text(TINY_MANIFEST)
    engine.docker(
        *("run", "--detach", "--name", name, *_HARD, "--network", "none", "--restart", "on-failure"),
        *("--health-interval", "1s", "--volume", f"{engine.folder}/run.toml:/run.toml:ro"),
        *(NODE, "join", "--manifest", "/run.toml"),
    )
    yield name
    engine.docker("rm", "--force", "--volumes", name)


def test_a_node_lives_and_leaves(engine: Engine, node: str) -> None:
    """It becomes healthy, says so when asked by hand, and SIGTERM ends it in order with its state saved."""

    def health() -> str:
        return str(engine.inspect(node)["State"]["Health"]["Status"])

    wait_until(lambda: health() == "healthy", 120, "the container is healthy")
    wait_until(
        lambda: not engine.docker("exec", node, "lowcomm-node", "healthcheck", "--ready", check=False).returncode,
        120,
        "the node is ready",
    )
    wait_until(lambda: engine.node_status(node).get("training", {}).get("steps"), 120, "it trains")
    steps = engine.node_status(node)["training"]["steps"]
    engine.docker("stop", "-t", "60", node, timeout_s=90)

    state = engine.inspect(node)["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False), engine.docker("logs", node).stderr[-3000:]
    engine.docker("start", node)
    wait_until(lambda: engine.node_status(node).get("training", {}).get("steps"), 120, "it trains again")
    assert engine.node_status(node)["training"]["progress_steps"] >= steps > 0


def test_it_writes_a_manifest_for_whoever_asks(engine: Engine, tmp_path: Path) -> None:
    """The way to a first manifest where nothing but Docker is installed: as any user, into a folder of his."""
    tmp_path.chmod(0o777)
    engine.docker("run", "--rm", "--user", "4711", "--volume", f"{tmp_path}:/out", NODE, "init", "/out/my-run.toml")

    assert read_manifest(tmp_path / "my-run.toml").name


def test_a_mistake_in_its_settings_is_an_exit_status(engine: Engine) -> None:
    """A restart would not help, and 78 says so to whatever decides about restarts."""
    done = engine.docker("run", "--rm", *_HARD, "--env", "LOWCOMM_NETWORK__PROT=1", NODE, "join", check=False)

    assert done.returncode == 78
    assert "LOWCOMM_NETWORK__PROT" in done.stderr


def test_a_killed_node_returns(engine: Engine, node: str) -> None:
    """What the operating system may do to it at any time: it is the same node afterwards."""
    wait_until(lambda: engine.node_status(node).get("training", {}).get("steps"), 120, "it trains")
    before = engine.node_status(node)["peer_id"]

    os.kill(engine.inspect(node)["State"]["Pid"], signal.SIGKILL)

    wait_until(lambda: engine.inspect(node)["RestartCount"] == 1, 60, "the engine starts it again")
    wait_until(lambda: engine.node_status(node).get("training", {}).get("steps"), 120, "it trains again")
    assert engine.node_status(node)["peer_id"] == before
