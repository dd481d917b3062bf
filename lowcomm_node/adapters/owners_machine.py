"""What this machine tells of its owner: battery, heat, what others use of processor and GPUs. Every look is cheap, and blocks."""

import os
from collections.abc import Callable, Collection
from datetime import datetime

import psutil

from lowcomm_node.adapters.gpu_users import GpuUsers, gpu_users
from lowcomm_node.adapters.nvml import gpu_reader
from lowcomm_node.core.owner import Seen
from lowcomm_node.ports import GpuReading
from lowcomm_node.settings.node import OwnerSettings

__all__ = ["OwnersMachine"]

_PROCESSOR_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
"""Other chips have sensors that are not connected, and show anything."""
_HOTTEST_C = 125.0
"""No sensor of a machine that runs shows more and is right."""


class OwnersMachine:
    """Looks at what the settings ask for. ``own_pids``: the trainer and its followers that run now."""

    def __init__(
        self,
        settings: OwnerSettings,
        own_pids: Callable[[], Collection[int]],
        *,
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
        users: Callable[[Callable[[], Collection[int]]], GpuUsers | None] = gpu_users,
        gpus: Callable[[], Callable[[], Collection[GpuReading]]] = gpu_reader,
    ) -> None:
        self._settings = settings
        self._now = now
        self._users = users(own_pids) if settings.yield_gpu or settings.max_temperature_c else None
        self._gpus = gpus() if self._users is not None and settings.max_temperature_c else tuple
        self._cpu = _OthersLoad() if settings.max_others_load else None

    def look(self) -> Seen:
        """The machine as it is now."""
        now = self._now()
        used = self._users.read() if self._users is not None else {}
        return Seen(
            minute_of_day=60 * now.hour + now.minute,
            on_battery=self._settings.pause_on_battery and _on_battery(),
            temperature_c=self._temperature_c(used) if self._settings.max_temperature_c else None,
            others_load=self._cpu.look() if self._cpu is not None else 0.0,
            gpus=used,
        )

    def _temperature_c(self, used: Collection[int]) -> float | None:
        """Of the processor, and of the GPUs that this node trains on."""
        told = [gpu.temperature_celsius for gpu in self._gpus() if gpu.index in used]
        found = [value for value in told if value is not None] + _processor_c()
        return max((value for value in found if 0 < value < _HOTTEST_C), default=None)


class _OthersLoad:
    """Processor time of the whole machine, less that of this process and all that it has started."""

    def __init__(self) -> None:
        self._before = _processor_s()
        self._own_before = _own_s()

    def look(self) -> float:
        """Share of all processors that others have used since the look before."""
        (busy, total), own = _processor_s(), _own_s()
        busy_s, total_s = busy - self._before[0], total - self._before[1]
        # A process that has ended takes its last moments with it: they count as others', once.
        own_s = sum(max(0.0, seconds - self._own_before.get(key, 0.0)) for key, seconds in own.items())
        self._before, self._own_before = (busy, total), own
        return min(1.0, max(0.0, busy_s - own_s) / total_s) if total_s > 0 else 0.0


def _processor_s() -> tuple[float, float]:
    """Seconds in which processors worked, and seconds in all, of all processors since the machine started."""
    times = psutil.cpu_times()
    working = times.user + times.system + getattr(times, "nice", 0.0)
    return working, working + times.idle + getattr(times, "iowait", 0.0)


def _own_s() -> dict[tuple[int, float], float]:
    """Processor seconds of this process and its descendants, by what tells a process from all others."""
    found = {}
    root = psutil.Process(os.getpid())
    for process in (root, *root.children(recursive=True)):
        try:
            with process.oneshot():
                times = process.cpu_times()
                found[process.pid, process.create_time()] = times.user + times.system
        except psutil.Error:  # it has ended meanwhile
            continue
    return found


def _on_battery() -> bool:
    """False where there is no battery, and where it does not say."""
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return battery is not None and battery.power_plugged is False


def _processor_c() -> list[float]:
    if not hasattr(psutil, "sensors_temperatures"):
        return []
    sensors = psutil.sensors_temperatures()
    return [entry.current for name in _PROCESSOR_SENSORS for entry in sensors.get(name, ())]
