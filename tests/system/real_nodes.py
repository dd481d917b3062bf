"""Start, watch and end real ``lowcomm-node join`` processes on loopback."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import psutil

from lowcomm_node.daemon.control import ControlClient, NodeSilentError, NoNodeError
from lowcomm_node.daemon.plain import as_plain

__all__ = ["TINY_MANIFEST", "RealNode", "wait_until"]

TINY_MANIFEST = """
name = "tiny"
[model]
num_layers = 1
num_heads = 2
d_model = 32
d_ff = 64
context_length = 32
[training]
batch_size = 4
total_steps = 1000000
warmup_steps = 10
[meeting]
params_every_steps = 5
exp_avg_sq_every_steps = 20
"""


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Look until it is so; fails the test when it does not come about."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain: {what}"
        time.sleep(0.05)


class RealNode:
    """One ``lowcomm-node join``, in a session of its own, with its output in files."""

    def __init__(
        self, state_dir: Path, *arguments: str, text: Path, program: Sequence[str] = ("-m", "lowcomm_node")
    ) -> None:
        self.state_dir = state_dir
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log = state_dir / "log.txt"
        options = ["device.threads=1", "metrics.port=0", "network.start_timeout_s=20", "eval_every_steps=50"]
        options += ["owner.pause_on_battery=false", "owner.yield_gpu=false", "owner.max_temperature_c=0"]
        options += [f'data.paths=["{text}"]']
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *program, "join", "--state-dir", str(state_dir)]
                + [word for option in options for word in ("--set", option)]
                + list(arguments),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "LOWCOMM_PEERS": ""},
            )
        self._family: dict[int, psutil.Process] = {}

    def cli(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command for this node."""
        return subprocess.run(
            [sys.executable, "-m", "lowcomm_node", command, *arguments, "--state-dir", str(self.state_dir)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def status(self) -> dict[str, Any]:
        """What ``lowcomm-node status --json`` says, empty while the node cannot be asked.

        Asked from here: a process for each look would take from the nodes much of the processor that they start on.
        """
        try:
            with ControlClient(self.state_dir) as client:
                return as_plain(client.status())
        except (NoNodeError, NodeSilentError):
            return {}

    def peers(self) -> list[dict[str, Any]]:
        """The members that the node knows."""
        with ControlClient(self.state_dir) as client:
            return cast("list[dict[str, Any]]", as_plain(client.peers())["peers"])

    def wait_for(self, condition: Callable[[dict[str, Any]], bool], timeout_s: float, what: str) -> dict[str, Any]:
        """Wait for a status; says what the log says when the node has died."""
        found: dict[str, Any] = {}

        def holds() -> bool:
            nonlocal found
            assert self.process.poll() is None, f"the node has ended:\n{self.tail()}"
            found = self.status()
            return bool(found) and condition(found)

        wait_until(holds, timeout_s, f"{what}\n{self.tail()}")
        self.family()
        return found

    def get(self, url: str) -> str:
        with urllib.request.urlopen(url, timeout=5) as response:
            body: bytes = response.read()
        return body.decode()

    def family(self) -> list[psutil.Process]:
        """All processes this node has been seen with: daemon, trainer, p2pd."""
        try:
            root = psutil.Process(self.process.pid)
            for member in [root, *root.children(recursive=True)]:
                self._family[member.pid] = member
        except psutil.NoSuchProcess:
            pass
        return list(self._family.values())

    def child(self, word: str) -> psutil.Process:
        """The child process with ``word`` in its command line."""
        return next(p for p in self.family() if p.is_running() and any(word in part for part in p.cmdline()))

    def end(self, number: int = signal.SIGTERM, timeout_s: float = 30.0) -> int:
        """Send a signal to the daemon alone and wait for it; returns the exit status."""
        self.family()
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def survivors(self) -> list[str]:
        """Processes of this node that outlive it by more than a few seconds."""
        _, alive = psutil.wait_procs(self.family(), timeout=8.0)
        return [" ".join(process.cmdline()) for process in alive]

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def clean_up(self) -> None:
        """Whatever a failed test left."""
        self.family()
        for process in self._family.values():
            if process.is_running():
                process.kill()
        self.process.wait(10)
