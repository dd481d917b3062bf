"""Battery, heat and load, over sensors that are played; and one look at the machine that the test runs on."""

import subprocess
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from lowcomm_node.adapters.owners_machine import OwnersMachine
from lowcomm_node.core.owner import GpuUse
from lowcomm_node.ports import GpuReading
from lowcomm_node.settings.node import OwnerSettings

_NOON = datetime(2026, 11, 26, 12, 30, tzinfo=UTC)
_USE = GpuUse(others_ratio=0.0, others_bytes=0, own_bytes=1, free_bytes=1, size_bytes=2)


def machine(settings: OwnerSettings | None = None, **parts: Any) -> OwnersMachine:
    return OwnersMachine(
        settings or OwnerSettings(), lambda: (), now=lambda: _NOON, **{"users": lambda _: None, **parts}
    )


@pytest.mark.parametrize(
    ("battery", "is_on"),
    [
        (None, False),
        (SimpleNamespace(power_plugged=True), False),
        (SimpleNamespace(power_plugged=None), False),
        (SimpleNamespace(power_plugged=False), True),
    ],
)
def test_only_a_battery_that_is_drained_counts(monkeypatch: pytest.MonkeyPatch, battery: Any, is_on: bool) -> None:
    """No battery, on the mains, and one that does not say: none of them pauses a node."""
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)

    assert machine().look().on_battery is is_on
    assert machine(OwnerSettings(pause_on_battery=False)).look().on_battery is False


def test_the_hottest_of_what_this_node_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processor and own GPUs; other chips, other GPUs and sensors that are not connected show anything."""
    sensors = {
        "coretemp": [SimpleNamespace(current=70.0), SimpleNamespace(current=65261.8)],
        "nct6798": [SimpleNamespace(current=118.0)],
    }
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: sensors, raising=False)

    def reading(index: int, celsius: float | None) -> GpuReading:
        return GpuReading(
            index=index,
            memory_used_bytes=None,
            memory_size_bytes=None,
            utilization_ratio=None,
            temperature_celsius=celsius,
            energy_joules=None,
        )

    def looks(own_gpu_c: float | None) -> float | None:
        users, gpus = SimpleNamespace(read=lambda: {1: _USE}), (reading(0, 120.0), reading(1, own_gpu_c))
        return machine(users=lambda _: users, gpus=lambda: lambda: gpus).look().temperature_c

    assert looks(81.0) == 81.0
    assert looks(None) == 70.0
    assert machine(OwnerSettings(max_temperature_c=0.0)).look().temperature_c is None


def test_a_machine_without_sensors_tells_no_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    """As most virtual ones."""
    monkeypatch.setattr(psutil, "sensors_temperatures", dict, raising=False)

    assert machine().look().temperature_c is None


def test_others_load_is_what_this_process_and_its_children_have_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten seconds of two processors six were worked, four of them here: a tenth. Waiting for a disk is no work."""
    busy = [
        SimpleNamespace(user=100.0, nice=10.0, system=5.0, idle=500.0, iowait=50.0),
        SimpleNamespace(user=103.0, nice=12.0, system=6.0, idle=512.0, iowait=52.0),
    ]
    monkeypatch.setattr(psutil, "cpu_times", lambda: busy.pop(0) if len(busy) > 1 else busy[0])
    own = [20.0, 24.0]

    class Process:
        def __init__(self, pid: int) -> None:
            self.pid = pid

        def children(self, *, recursive: bool) -> list[Any]:
            return []

        def oneshot(self) -> Any:
            return nullcontext()

        def cpu_times(self) -> Any:
            return SimpleNamespace(user=own.pop(0), system=0.0)

        def create_time(self) -> float:
            return 1.0

    monkeypatch.setattr(psutil, "Process", Process)

    assert machine(OwnerSettings(max_others_load=0.5)).look().others_load == pytest.approx(0.1)


def test_own_work_is_no_load_of_others() -> None:
    """A child of ours that computes counts as ours. On a busy machine others' load is whatever it is, but a share."""
    watched = machine(OwnerSettings(max_others_load=0.5))
    subprocess.run([sys.executable, "-c", "sum(range(10**6))"], check=True)

    assert 0.0 <= watched.look().others_load <= 1.0


def test_the_clock_is_the_machines() -> None:
    """Minutes since midnight, for quiet hours."""
    assert machine().look().minute_of_day == 12 * 60 + 30


def test_this_machine_can_be_looked_at() -> None:
    """Whatever it has."""
    seen = OwnersMachine(OwnerSettings(max_others_load=1.0), lambda: ()).look()

    assert 0 <= seen.minute_of_day < 1440
    assert not seen.gpus
