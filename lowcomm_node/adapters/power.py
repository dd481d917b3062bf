"""Power that this machine tells of: its GPUs by the driver's library, its processors by Linux's powercap files (RAPL)."""

import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from lowcomm_node.adapters.gpu_users import GpuUsers, gpu_users
from lowcomm_node.adapters.nvml import gpu_reader
from lowcomm_node.ports import GpuReading

__all__ = ["Power", "PowerMeter"]

_POWERCAP = Path("/sys/class/powercap")
_PACKAGES = "intel-rapl:?"
"""AMD's have the same name. Parts of a package have a second number, and are in the package's; so is what is named psys."""
_MICRO = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Mean over a time."""

    watts: float
    of: str
    """What was measured, for people; all else that the machine takes is not in it."""


class PowerMeter:
    """Reads counters of energy at the beginning and at the end of a time."""

    def __init__(
        self,
        *,
        powercap: Path = _POWERCAP,
        gpus: Callable[[], Callable[[], Collection[GpuReading]]] = gpu_reader,
        users: Callable[[Callable[[], Collection[int]]], GpuUsers | None] = gpu_users,
        clock_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        packages = [path for path in sorted(powercap.glob(_PACKAGES)) if _text(path / "name").startswith("package")]
        self._packages = {path: _number(path / "max_energy_range_uj") or 0.0 for path in packages}
        self._gpus = gpus()
        self._users = users(lambda: (os.getpid(),))
        self._clock_s = clock_s
        self.begin()

    def begin(self) -> None:
        """The time begins now."""
        self._begun_s = self._clock_s()
        self._packages_j, self._gpus_j = self._read_packages(), self._read_gpus()

    def power(self) -> Power | None:
        """Since ``begin``; of GPUs those that this process uses. None where nothing is told: most need root for processors."""
        seconds = self._clock_s() - self._begun_s
        packages_j, gpus_j = self._read_packages(), self._read_gpus()
        used = set(self._users.read()) if self._users is not None else set()
        # A counter that has gone over its end begins at 0.
        processors = [
            packages_j[path] - before + self._packages[path] * _MICRO * (packages_j[path] < before)
            for path, before in self._packages_j.items()
            if path in packages_j
        ]
        cards = [gpus_j[index] - before for index, before in self._gpus_j.items() if index in used and index in gpus_j]
        found = [(len(processors), "processor"), (len(cards), "GPU")]
        words = [f"{count} {word}{'' if count == 1 else 's'}" for count, word in found if count]
        if not words or seconds <= 0:
            return None
        return Power(watts=sum(processors + cards) / seconds, of=" and ".join(words))

    def _read_packages(self) -> Mapping[Path, float]:
        """Joules of each package that may be read."""
        found = {path: _number(path / "energy_uj") for path in self._packages}
        return {path: value * _MICRO for path, value in found.items() if value is not None}

    def _read_gpus(self) -> Mapping[int, float]:
        return {gpu.index: gpu.energy_joules for gpu in self._gpus() if gpu.energy_joules is not None}


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    """Empty where it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
