"""What the machine's NVIDIA GPUs say of themselves, through the driver's own library.

Both are optional: without nvidia-ml-py, without a driver or without a GPU there is nothing to read.
"""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from lowcomm_node.ports import GpuReading

__all__ = ["gpu_reader", "reader_of"]

_MOST_GPUS = 8
_MILLIJOULES = 1000.0


def gpu_reader() -> Callable[[], tuple[GpuReading, ...]]:
    """A function that reads all GPUs of this machine, up to eight; of a machine without it reads none."""
    try:
        return reader_of(importlib.import_module("pynvml"))
    except ImportError:
        return tuple


def reader_of(nvml: ModuleType) -> Callable[[], tuple[GpuReading, ...]]:
    """``gpu_reader`` over the given library."""
    try:
        nvml.nvmlInit()
        count = min(nvml.nvmlDeviceGetCount(), _MOST_GPUS)
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    except nvml.NVMLError:
        return tuple
    return lambda: tuple(_read(nvml, index, handle) for index, handle in enumerate(handles))


def _read(nvml: ModuleType, index: int, handle: object) -> GpuReading:
    def told(ask: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - structures of a foreign library
        """A GPU need not know everything, and may fall off its bus."""
        try:
            return ask(handle, *arguments)
        except nvml.NVMLError:
            return None

    memory = told(nvml.nvmlDeviceGetMemoryInfo)
    utilization = told(nvml.nvmlDeviceGetUtilizationRates)
    energy = told(nvml.nvmlDeviceGetTotalEnergyConsumption)
    return GpuReading(
        index=index,
        memory_used_bytes=None if memory is None else memory.used,
        memory_size_bytes=None if memory is None else memory.total,
        utilization_ratio=None if utilization is None else utilization.gpu / 100,
        temperature_celsius=told(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
        energy_joules=None if energy is None else energy / _MILLIJOULES,
    )
