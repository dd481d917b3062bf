"""A Docker engine of our own, started by hand with everything it keeps in one folder and in a network of its own."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.deploy.namespace import Namespace
from tests.deploy.plugins import find_plugin
from tests.deploy.tools import REPOSITORY

__all__ = ["COMPOSE", "Engine", "wait_until"]

COMPOSE = REPOSITORY / "docker"
_NEEDED = "CI_NEEDS_ENGINE"
_KEPT = "ENGINE_DATA"
"""A folder that keeps images and layers from one run of the tests to the next; each engine has a subfolder by its name."""
_PLUGINS = ("docker-compose", "docker-buildx")
_PROGRAMS = ("dockerd", "docker", "iptables", "ip", "nsenter", "setsid")
_START_S = 60.0
_STOP_S = 60.0


class Engine:
    """Started by ``start``, which skips the test by name where it cannot; ended, with all traces, by ``end``."""

    def __init__(self, name: str, *, with_bridge: bool = True) -> None:
        """``with_bridge``: containers may have networks of their own; without, the engine's network is theirs."""
        self.name = name
        self._with_bridge = with_bridge
        # Short, for the sockets in it; on a disk, for the layers.
        self.folder = Path(tempfile.mkdtemp(prefix=f"lcn-{name}-"))
        self._network: Namespace | None = None
        self.host = f"unix://{self.folder}/docker.sock"

    @property
    def network(self) -> Namespace:
        """Where it and its containers are."""
        assert self._network is not None, "not started"
        return self._network

    @property
    def variables(self) -> dict[str, str]:
        """What leads Docker's client to it."""
        return {"DOCKER_HOST": self.host, "DOCKER_CONFIG": f"{self.folder}/client"}

    def start(self) -> None:
        """Skips the test, or fails it where the environment says that an engine must be there."""
        missing = [program for program in _PROGRAMS if shutil.which(program) is None]
        plugins = {name: found for name in _PLUGINS if (found := find_plugin(name)) is not None}
        missing += [name for name in _PLUGINS if name not in plugins]
        if os.geteuid():
            _cannot("an engine is started by root only")
        if missing:
            _cannot(f"missing: {', '.join(missing)}; on Debian: apt install docker.io mmdebstrap; make tools")
        try:
            self._network = Namespace(f"{self.folder.name}")
        except (OSError, subprocess.CalledProcessError) as error:
            _cannot(f"no network namespace can be made here: {getattr(error, 'stderr', '') or error}")
        config: dict[str, Any] = {
            "data-root": f"{os.environ[_KEPT]}/{self.name}" if os.environ.get(_KEPT) else f"{self.folder}/data",
            "exec-root": f"{self.folder}/exec",
            "pidfile": f"{self.folder}/pid",
            "hosts": [self.host],
            # Anything else may take a permission that we do not have.
            "oom-score-adjust": 0,
            "log-level": "warn",
        }
        if not self._with_bridge:
            config |= {"bridge": "none", "iptables": False}
        (self.folder / "daemon.json").write_text(json.dumps(config))
        client = self.folder / "client/cli-plugins"
        client.mkdir(parents=True)
        for name, path in plugins.items():
            (client / name).symlink_to(path)
        log = self.folder / "log"
        with log.open("wb") as file:
            # Another's child: what it starts while a test runs is not what that test has left behind.
            subprocess.run(
                ["setsid", "--fork", *self.network.prefix, "dockerd", f"--config-file={self.folder}/daemon.json"],
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                check=True,
            )
        deadline = time.monotonic() + _START_S
        while self.docker("version", check=False).returncode:
            said = log.read_text()
            if "failed to start" in said or time.monotonic() > deadline:
                _cannot(f"dockerd does not start here:\n{said[-1500:]}")
            time.sleep(0.3)

    def docker(
        self, *arguments: str, check: bool = True, timeout_s: float = 60.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the client; with ``check`` the test fails with what it said when it fails."""
        done = subprocess.run(
            ["docker", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **self.variables, **(env or {})},
        )
        assert not check or done.returncode == 0, (
            f"docker {' '.join(arguments)}:\n{(done.stdout + done.stderr)[-4000:]}"
        )
        return done

    def inspect(self, container: str) -> dict[str, Any]:
        """All that the engine knows of a container."""
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", container).stdout)
        return found[0]

    def node_status(self, container: str) -> dict[str, Any]:
        """``lowcomm-node status --json`` in a container, empty while that cannot be asked."""
        done = self.docker("exec", container, "lowcomm-node", "status", "--json", check=False)
        status: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        return status

    def end(self) -> None:
        """Stop it with its containers, and remove its mounts, its folder and its network."""
        try:
            pid = self.folder / "pid"
            if pid.is_file():
                ids = self.docker("ps", "--quiet", check=False).stdout.split()
                if ids:
                    self.docker("kill", *ids, check=False)
                daemon = psutil.Process(int(pid.read_text()))
                daemon.terminate()
                daemon.wait(_STOP_S)
        finally:
            mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
            for mount in sorted((m for m in mounts if m.startswith(f"{self.folder}/")), reverse=True):
                subprocess.run(["umount", "--lazy", mount], check=False)
            if self._network is not None:
                self._network.remove()
            shutil.rmtree(self.folder, ignore_errors=True)


def wait_until(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    """Look until it is so; fails the test when it does not come about."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain: {what}"
        time.sleep(1.0)


def _cannot(why: str) -> None:
    if os.environ.get(_NEEDED):
        pytest.fail(f"no Docker engine: {why}")
    pytest.skip(f"no Docker engine: {why}")
