"""A node with several devices, as its trainer sees it: followers that repeat on their devices what it does on the first.

The trainer, their leader, tells them over a pipe each what to do next; tensors travel through the group (``device_group``). It
alone has the mailbox, meets other nodes and writes files. A follower is a fresh interpreter that ends when its pipe does.
"""

import dataclasses
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor

from lowcomm_node.errors import TrainerError, TrainerKilledError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.batches import Batch
from lowcomm_node.train.device_group import ProcessGroup
from lowcomm_node.train.execution import PLAIN, Execution
from lowcomm_node.train.frozen import Frozen
from lowcomm_node.train.messages import Configure
from lowcomm_node.train.replica import Replica, StepResult
from lowcomm_node.train.state_file import Counters, TrainingState
from lowcomm_node.units import Factor, Stream

__all__ = ["Devices", "Enlist", "Freeze", "Gather", "LeadingReplica", "Order", "Share", "Step", "lead"]

_TIMEOUT_S = 120.0
"""Longest wait for the other devices within a step, or at the start: they are alike and do the same at the same time."""
_GRACE_S = 5.0
"""Time to end for followers whose pipe was closed, all together."""
_LAST_WORDS_S = 1.0
"""A process that has left the group says why, or is seen to have ended, within this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enlist:
    """First message to a follower: build a replica on the one device in ``configure`` and join the group as number ``rank``."""

    configure: Configure
    rendezvous: str
    rank: int
    size: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Step:
    """``Replica.train_step`` on a batch of your own."""


@dataclass(frozen=True, slots=True)
class Gather:
    """``Replica.gather``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """``Replica.share``, and take over these counters."""

    counters: Counters
    with_optimizer: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """``Replica.take_frozen`` of what the leader shares."""

    epoch: int
    digest: str
    factor: Factor
    ranks: tuple[int, ...]
    """Of each split tensor, in the order of ``AbTraining.positions``."""


Order = Step | Gather | Share | Freeze


@contextmanager
def lead(
    request: Configure, devices: Sequence[torch.device], timeout_s: float = _TIMEOUT_S
) -> Iterator["Devices | None"]:
    """The group of a trainer on these devices, with a process for each but the first; None for a single one.

    At the end, however it comes, no process is left. Raises TrainerError when a follower does not come.
    """
    if len(devices) == 1:
        yield None
        return
    group = Devices(len(devices), timeout_s)
    try:
        with tempfile.TemporaryDirectory(prefix="lowcomm-") as folder:
            group.start(request, devices, Path(folder) / "rendezvous")
        yield group
    finally:
        group.close()


class Devices:
    """The leader's end of the group. Whatever fails in it is a TrainerError that says which device is to blame, and is final."""

    def __init__(self, size: int, timeout_s: float) -> None:
        self.size = size
        self._timeout_s = timeout_s
        self._followers: list[_Follower] = []
        self._group: ProcessGroup | None = None

    def start(self, request: Configure, devices: Sequence[torch.device], rendezvous: Path) -> None:
        """Start a follower for each of ``devices`` but the first, and wait for all of them."""
        for rank, device in enumerate(devices[1:], start=1):
            follower = _Follower(f"{device} (device {rank + 1} of {self.size})")
            self._followers.append(follower)
            settings = request.settings
            own = dataclasses.replace(settings, device=dataclasses.replace(settings.device, name=str(device)))
            configure = dataclasses.replace(request, settings=own)
            follower.connection.send(
                Enlist(
                    configure=configure,
                    rendezvous=str(rendezvous),
                    rank=rank,
                    size=self.size,
                    timeout_s=self._timeout_s,
                )
            )
        with self._explained():
            self._group = ProcessGroup(rendezvous, 0, self.size, self._timeout_s)

    @property
    def pids(self) -> tuple[int, ...]:
        """The followers' processes."""
        return tuple(follower.pid for follower in self._followers)

    def order(self, order: Order) -> None:
        """Tell all followers; what it takes of the leader itself is to be done right after."""
        with self._explained():
            for follower in self._followers:
                follower.connection.send(order)

    def mean_(self, tensor: Tensor) -> None:
        with self._explained():
            self._joined().mean_(tensor)

    def share_(self, tensor: Tensor) -> None:
        with self._explained():
            self._joined().share_(tensor)

    def close(self) -> None:
        """End all followers; at once those that do not end by themselves in time."""
        if self._group is not None:
            self._group.close()
        deadline = time.monotonic() + _GRACE_S
        for follower in self._followers:
            follower.connection.close()
        for follower in self._followers:
            follower.end(max(0.0, deadline - time.monotonic()))

    def _joined(self) -> ProcessGroup:
        assert self._group is not None, "not started"
        return self._group

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (TrainerError, OSError) as error:
            found = [words for follower in self._followers if (words := follower.last_words())]
            # By whom, only the daemon can tell: it has seen the kernel's count before.
            kind = TrainerKilledError if any(follower.was_killed for follower in self._followers) else TrainerError
            for follower in self._followers:
                follower.end(0.0)
            reason = "; ".join(found) or f"a device did not answer within {self._timeout_s:g} s"
            raise kind(f"training on {self.size} devices has stopped: {reason}") from error


class _Follower:
    """One follower's process. All it ever says are its last words, a text."""

    def __init__(self, name: str) -> None:
        self._name = name
        ours, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lowcomm_node.train.device_follower", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._is_ended_by_us = False
        self.connection = Connection(ours.detach())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def was_killed(self) -> bool:
        """It is known to have ended by a SIGKILL that was not ours."""
        return self._process.returncode == -signal.SIGKILL and not self._is_ended_by_us

    def last_words(self) -> str:
        """Why it has left, or nothing while it seems well."""
        try:
            return f"{self._name}: {self.connection.recv()}" if self.connection.poll(_LAST_WORDS_S) else ""
        except (EOFError, OSError):
            return f"{self._name} ended with status {self.end(_LAST_WORDS_S)}"

    def end(self, grace_s: float) -> int:
        """Wait for its end, and bring it about when it does not come; returns the exit status."""
        try:
            return self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._is_ended_by_us = True
            self._process.kill()
            return self._process.wait()


class LeadingReplica(Replica):
    """The replica on a node's first device: what changes it, changes the followers' too.

    The optimizer's local streams read as the node's: they are gathered before somebody looks.
    """

    def __init__(
        self, manifest: Manifest, device: torch.device, devices: Devices, execution: Execution = PLAIN
    ) -> None:
        self._devices = devices
        self._is_gathered = True
        super().__init__(manifest, device, devices, execution)

    def train_step(self, batch: Batch) -> StepResult:
        self._devices.order(Step())
        self._is_gathered = False
        return super().train_step(batch)

    def tensors(self, stream: Stream) -> list[Tensor]:
        if stream in self.optimizer.local_streams:
            self.gather()
        return super().tensors(stream)

    def gather(self) -> None:
        if not self._is_gathered:
            self._devices.order(Gather())
            super().gather()
            self._is_gathered = True

    def share(self, *, with_optimizer: bool) -> None:
        if with_optimizer:
            self.gather()  # before they wait for what is shared
        self._devices.order(Share(counters=self.counters, with_optimizer=with_optimizer))
        super().share(with_optimizer=with_optimizer)

    def take_frozen(self, frozen: Frozen) -> None:
        ranks = tuple(tensor.shape[1] for tensor in frozen.tensors.values())
        self._devices.order(Freeze(epoch=frozen.epoch, digest=frozen.digest, factor=frozen.factor, ranks=ranks))
        super().take_frozen(frozen)

    def load(self, state: TrainingState, *, is_own: bool) -> None:
        super().load(state, is_own=is_own)
        self.share(with_optimizer=True)
