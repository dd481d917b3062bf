"""The GPU reader: over a library that answers as NVIDIA's does, and over one that finds no driver."""

from types import ModuleType, SimpleNamespace
from typing import Any

from lowcomm_node.adapters.nvml import gpu_reader, reader_of
from lowcomm_node.ports import GpuReading


class _NVMLError(Exception):
    """As the library's own."""


def _library(*, num_gpus: int, **asked: Any) -> ModuleType:
    nvml = ModuleType("pynvml")

    def refuse(*_: Any) -> Any:
        raise _NVMLError

    answers: dict[str, Any] = {
        "NVMLError": _NVMLError,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: num_gpus,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(used=3, total=8),
        "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=40, memory=1),
        "nvmlDeviceGetTemperature": lambda _handle, _sensor: 61,
        "nvmlDeviceGetTotalEnergyConsumption": lambda _: 2500,
    }
    for name, answer in {**answers, **dict.fromkeys(asked, refuse)}.items():
        setattr(nvml, name, answer)
    return nvml


def test_everything_is_in_base_units() -> None:
    """Per cent become a ratio, millijoules joules."""
    (reading,) = reader_of(_library(num_gpus=1))()

    assert reading == GpuReading(
        index=0,
        memory_used_bytes=3,
        memory_size_bytes=8,
        utilization_ratio=0.4,
        temperature_celsius=61,
        energy_joules=2.5,
    )


def test_what_a_gpu_does_not_know_is_none() -> None:
    """Old GPUs count no energy; the rest is told all the same."""
    (reading,) = reader_of(_library(num_gpus=1, nvmlDeviceGetTotalEnergyConsumption=True))()

    assert reading.energy_joules is None
    assert reading.temperature_celsius == 61


def test_at_most_eight_are_read() -> None:
    """The label's values are a closed set."""
    assert [reading.index for reading in reader_of(_library(num_gpus=16))()] == list(range(8))


def test_without_a_driver_there_is_nothing_to_read() -> None:
    """A library that cannot start is a machine without GPUs."""
    assert reader_of(_library(num_gpus=1, nvmlInit=True))() == ()


def test_this_machine_can_be_asked() -> None:
    """Whatever it has, and whether or not the library is installed: no error."""
    assert all(reading.index < 8 for reading in gpu_reader()())
