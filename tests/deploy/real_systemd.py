"""A real systemd as the first process of a container of its own, made of this machine's files: nothing has to be fetched."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from tests.deploy.namespace import Namespace
from tests.deploy.tools import REPOSITORY, missing

__all__ = ["LAUNCHER", "PACKAGE", "RealSystemd", "needs_systemd", "wait_until"]

_SCRIPT = REPOSITORY / "tests/deploy/boot_systemd.sh"
_MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
_COMMANDS = ("unshare", "nsenter", "pivot_root", "setsid", "pgrep", "systemctl", "journalctl", "useradd")

PACKAGE: Mapping[Path, str] = {
    REPOSITORY: "/srv/source",
    Path(sys.prefix): "/srv/packages",
    Path(sys.base_prefix): "/srv/python",
}
"""This checkout and the interpreter that runs the tests, where no home directory and no /tmp hides them from a service."""

LAUNCHER = f"""#!/bin/sh
export LD_LIBRARY_PATH=/srv/python/lib PYTHONPATH=/srv/source:/srv/packages/lib/python{_MINOR}/site-packages
exec /srv/python/bin/python{_MINOR} -m lowcomm_node "$@"
"""
"""lowcomm-node in there."""


def needs_systemd() -> None:
    """Skip where a systemd cannot be started, and say why; fail there where the environment says that it must work."""
    absent = [name for name in _COMMANDS if shutil.which(name, path=f"/usr/sbin:/sbin:{os.environ['PATH']}") is None]
    reason = ""
    if sys.platform != "linux" or not Path("/lib/systemd/systemd").exists():
        reason = "systemd is not installed; on Debian and Ubuntu: apt install systemd"
    elif absent:
        reason = f"not installed: {', '.join(absent)}"
    elif os.geteuid():
        reason = "a systemd in a container of its own takes root"
    elif not any(line.split()[2] == "cgroup2" for line in Path("/proc/self/mounts").read_text().splitlines()):
        reason = "no cgroup2 hierarchy is mounted"
    if reason:
        missing(reason, "CI_NEEDS_SYSTEMD")


def wait_until(condition: Callable[[], bool], timeout_s: float, what: Callable[[], str]) -> None:
    """Look until it is so; fails the test, with the newest of ``what`` is the matter, when it does not come about."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain: {what()}"
        time.sleep(0.1)


class RealSystemd:
    """The container. It ends with ``stop``, or with this process."""

    def __init__(self, folder: Path, visible: Mapping[Path, str], network: Namespace | None = None) -> None:
        """``visible``: folders of this machine, and where they are found in there, read-only. ``network``: else it is this machine's."""
        self._log = folder / "log"
        pairs = [f"{source}={target}" for source, target in visible.items()]
        with self._log.open("wb") as log:
            # Its own session and another's child: it is a machine, not one of the processes that a test leaves behind.
            starter = subprocess.Popen(
                [*(network.prefix if network else ()), "setsid", "--fork", str(_SCRIPT), str(folder), *pairs],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        assert starter.stdin is not None
        self._tether: IO[bytes] = starter.stdin
        starter.wait(30)
        pid = folder / "pid"
        wait_until(pid.exists, 30.0, lambda: f"systemd does not start: {self._log.read_text()}")
        self._pid = int(pid.read_text())
        wait_until(lambda: self.ask("systemctl", "is-system-running") == "running", 60.0, self.failures)

    def run(
        self, *command: str, check: bool = True, timeout_s: float = 120.0, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in there as root."""
        environ = [f"{name}={value}" for name, value in variables.items()]
        enter = ["nsenter", f"--target={self._pid}", "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--net"]
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        done = subprocess.run(
            [*enter, "env", "-i", path, "LANG=C.UTF-8", *environ, *command],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def ask(self, *command: str) -> str:
        """What a command prints, whatever its status."""
        return self.run(*command, check=False).stdout.strip()

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Put a file there."""
        self.run("mkdir", "-p", str(Path(path).parent))
        # By its own root: /proc/PID/root does not lead through absolute symbolic links.
        subprocess.run(
            [
                "nsenter",
                f"--target={self._pid}",
                "--mount",
                "sh",
                "-c",
                'cat >"$0" && chmod "$1" "$0"',
                path,
                f"{mode:o}",
            ],
            input=text,
            text=True,
            check=True,
        )

    def show(self, unit: str) -> dict[str, str]:
        """The properties of a unit."""
        return dict(line.split("=", 1) for line in self.ask("systemctl", "show", unit).splitlines() if "=" in line)

    def failures(self) -> str:
        """What to read when something goes wrong."""
        parts = (("systemctl", "--failed"), ("systemctl", "list-jobs"), ("journalctl", "--no-pager", "--lines=60"))
        return "\n".join(self.ask(*part) for part in parts)

    @property
    def group(self) -> Path:
        """Its control group, as this machine sees it."""
        hierarchy = next(
            Path(line.split()[1])
            for line in Path("/proc/self/mounts").read_text().splitlines()
            if line.split()[2] == "cgroup2"
        )
        lines = Path(f"/proc/{self._pid}/cgroup").read_text().splitlines()
        return hierarchy / next(line[4:] for line in lines if line.startswith("0::/")).split("/")[0]

    def stop(self) -> None:
        """End all of it."""
        self._tether.close()
        wait_until(lambda: not Path(f"/proc/{self._pid}").exists(), 30.0, lambda: "systemd does not end")
