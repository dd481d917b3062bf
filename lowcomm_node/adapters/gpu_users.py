"""Who uses the GPUs that this node trains on, as the driver's library tells it by process.

Only GPUs on which the library has shown one of this node's own processes: in a container it names processes by numbers of the
machine outside, or none, and then nothing that it says of others can be told from this node's own use.
"""

import importlib
from collections.abc import Callable, Collection
from contextlib import suppress
from types import ModuleType
from typing import Any

import psutil

from lowcomm_node.core.owner import GpuUse

__all__ = ["GpuUsers", "gpu_users", "users_of"]

_MOST_GPUS = 8
_TRAINERS = "lowcomm_node.train."
"""In the command line of other nodes' trainers and followers on this machine: they are no owner's work."""


class GpuUsers:
    """Asked from one thread at a time. ``own_pids``: this node's trainer and followers that run now."""

    def __init__(self, nvml: ModuleType, handles: Collection[Any], own_pids: Callable[[], Collection[int]]) -> None:
        self._nvml = nvml
        self._handles = tuple(handles)
        self._own_pids = own_pids
        self._trained_on: set[int] = set()
        self._newest: dict[int, int] = {}
        """Time of the newest sample of each GPU, in the driver's microseconds."""

    def read(self) -> dict[int, GpuUse]:
        """By index of the GPU."""
        own = set(self._own_pids())
        found: dict[int, GpuUse] = {}
        for index, handle in enumerate(self._handles):
            held = self._held(handle)
            if own & held.keys():
                self._trained_on.add(index)
            if index not in self._trained_on:
                continue
            memory = self._told(self._nvml.nvmlDeviceGetMemoryInfo, handle)
            if memory is None:
                continue
            others = {pid for pid in held.keys() - own if not _is_trainer(pid)}
            found[index] = GpuUse(
                others_ratio=self._ratio(index, handle, others),
                others_bytes=sum(held[pid] for pid in others),
                own_bytes=sum(held[pid] for pid in own & held.keys()),
                free_bytes=memory.free,
                size_bytes=memory.total,
            )
        return found

    def _held(self, handle: object) -> dict[int, int]:
        """Bytes that each process holds; 0 where the driver does not say. A game is a graphics process, a training computes."""
        held: dict[int, int] = {}
        for ask in (self._nvml.nvmlDeviceGetGraphicsRunningProcesses, self._nvml.nvmlDeviceGetComputeRunningProcesses):
            for process in self._told(ask, handle) or ():
                held[process.pid] = max(held.get(process.pid, 0), process.usedGpuMemory or 0)
        return held

    def _ratio(self, index: int, handle: object, pids: Collection[int]) -> float:
        """Share of time in which these processes computed, by the newest sample of each since the look before."""
        ask = self._nvml.nvmlDeviceGetProcessUtilization
        samples = self._told(ask, handle, self._newest.get(index, 0)) or ()  # no sample at all is an error there
        newest: dict[int, Any] = {}
        for sample in samples:
            self._newest[index] = max(self._newest.get(index, 0), sample.timeStamp)
            if sample.pid in pids and (sample.pid not in newest or sample.timeStamp > newest[sample.pid].timeStamp):
                newest[sample.pid] = sample
        percent: float = sum(sample.smUtil for sample in newest.values())
        return min(1.0, percent / 100)

    def _told(self, ask: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - structures of a foreign library
        with suppress(self._nvml.NVMLError):
            return ask(*arguments)
        return None


def gpu_users(own_pids: Callable[[], Collection[int]]) -> GpuUsers | None:
    """Of this machine; None where it has no NVIDIA GPU, or nvidia-ml-py is not installed."""
    try:
        return users_of(importlib.import_module("pynvml"), own_pids)
    except ImportError:
        return None


def users_of(nvml: ModuleType, own_pids: Callable[[], Collection[int]]) -> GpuUsers | None:
    """``gpu_users`` over the given library."""
    try:
        nvml.nvmlInit()
        count = min(nvml.nvmlDeviceGetCount(), _MOST_GPUS)
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    except nvml.NVMLError:
        return None
    return GpuUsers(nvml, handles, own_pids) if handles else None


def _is_trainer(pid: int) -> bool:
    """Of any node here; one that may not be looked at is somebody's work."""
    with suppress(psutil.Error):
        return any(_TRAINERS in word for word in psutil.Process(pid).cmdline())
    return False
