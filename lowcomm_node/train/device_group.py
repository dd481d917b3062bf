"""The replicas on the devices of one machine, a process each, as a group that averages tensors: the one use of torch.distributed.

Processes find one another through a file and talk over loopback, with Gloo, which serves tensors of any device.
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from lowcomm_node.algo.group import Group
from lowcomm_node.errors import TrainerError

__all__ = ["DeviceGroup", "ProcessGroup"]

_LOOPBACK = "127.0.0.1"
_JOINING_S = 120.0
"""For importing torch, on a machine that is busy or has many devices."""


class DeviceGroup(Group, Protocol):
    """A group with a first member, its leader, whose state is the one that counts."""

    def share_(self, tensor: Tensor) -> None:
        """Replace ``tensor``, contiguous, by the leader's, in place."""
        ...


class ProcessGroup:
    """A ``DeviceGroup`` of ``size`` processes on one machine.

    Nobody waits longer than ``timeout_s`` for the others, or than ``joining_s`` for them to start: a mean that is not complete by then, because a member has died, hangs or has left,
    raises TrainerError at those that wait, and the group is of no more use. Close it before the interpreter ends, whatever
    happened: the threads of Gloo may abort the process if they still run by then. After an error its traceback may keep them,
    so that only ``child.end_child`` ends such a process in order.
    """

    def __init__(
        self, rendezvous: Path, rank: int, size: int, timeout_s: float, *, joining_s: float = _JOINING_S
    ) -> None:
        """Join as number ``rank`` of ``size`` members, and wait for all of them.

        ``rendezvous`` is a path in a private folder, the same for all members, where no file is yet. Afterwards nobody needs it:
        whoever made the folder removes it. (Torch removes the file itself, but not always when two members leave in one moment.)
        Raises TrainerError when the members do not all come in time.
        """
        self.size = size
        self._timeout = timedelta(seconds=timeout_s)
        joining = timedelta(seconds=joining_s)
        # The public constructor listens on the address that the host's name stands for, which others may reach, and Gloo asks
        # nobody who he is. Only these options say where to listen.
        options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # noqa: SLF001
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=_LOOPBACK)]  # noqa: SLF001
        options._timeout = joining  # noqa: SLF001
        store = dist.FileStore(str(rendezvous), size)  # type: ignore[attr-defined]
        store.set_timeout(joining)
        try:
            self._group: Any = dist.ProcessGroupGloo(store, rank, size, options)
        except RuntimeError as error:
            raise TrainerError(f"the {size} replicas of this machine did not find one another: {error}") from error
        self._sum(torch.zeros(1), joining)  # all have read the file

    def mean_(self, tensor: Tensor) -> None:
        """``Group.mean_``: a sum by ring, which every member gets in the same bits, divided by the size."""
        self._sum(tensor, self._timeout)
        tensor.div_(self.size)

    def share_(self, tensor: Tensor) -> None:
        """``DeviceGroup.share_``; the leader is number 0."""
        options = dist.BroadcastOptions()
        options.rootRank = 0
        options.timeout = self._timeout
        self._wait(self._group.broadcast, [tensor], options)

    def close(self) -> None:
        """Leave; nothing can be averaged afterwards."""
        self._group = None

    def _sum(self, tensor: Tensor, timeout: timedelta) -> None:
        options = dist.AllreduceOptions()
        options.timeout = timeout
        self._wait(self._group.allreduce, [tensor], options)

    def _wait(self, operation: Callable[..., Any], *arguments: Any) -> None:  # noqa: ANN401 - torch's own, without annotations
        try:
            operation(*arguments).wait()
        except RuntimeError as error:
            raise TrainerError(f"a replica on this machine left the group: {error}") from error
