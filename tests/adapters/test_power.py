"""adapters.power: mean power from counters of energy, where there are any that may be read."""

from pathlib import Path

import pytest

from lowcomm_node.adapters.power import PowerMeter
from lowcomm_node.ports import GpuReading


class Gpus:
    """Two cards, of which this process uses the second."""

    def __init__(self) -> None:
        self.joules = [0.0, 0.0]

    def read_all(self) -> tuple[GpuReading, ...]:
        return tuple(
            GpuReading(
                index=index, memory_used_bytes=None, memory_size_bytes=None, utilization_ratio=None,
                temperature_celsius=None, energy_joules=joules,
            )
            for index, joules in enumerate(self.joules)
        )  # fmt: skip

    def read(self) -> dict[int, object]:
        return {1: object()}


def package(folder: Path, number: str, name: str, joules: float, *, most: float = 1000.0) -> None:
    path = folder / f"intel-rapl:{number}"
    path.mkdir(exist_ok=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{joules * 1e6:.0f}\n")
    (path / "max_energy_range_uj").write_text(f"{most * 1e6:.0f}\n")


def meter(folder: Path, times_s: list[float], gpus: Gpus | None = None) -> PowerMeter:
    return PowerMeter(
        powercap=folder,
        gpus=lambda: gpus.read_all if gpus else tuple,
        users=lambda _own: gpus,  # type: ignore[arg-type,return-value]
        clock_s=lambda: times_s.pop(0),
    )


def test_packages_count_and_their_parts_do_not(tmp_path: Path) -> None:
    """Two processors; cores are within a package, and psys is the whole board with the packages in it."""
    for number, name in (("0", "package-0"), ("1", "package-1"), ("2", "psys"), ("0:0", "core")):
        package(tmp_path, number, name, 10)
    measured = meter(tmp_path, [0.0, 4.0])
    for number, name in (("0", "package-0"), ("1", "package-1"), ("2", "psys"), ("0:0", "core")):
        package(tmp_path, number, name, 110)

    power = measured.power()

    assert power is not None
    assert power.watts == pytest.approx(50)
    assert power.of == "2 processors"


def test_a_counter_that_goes_over_its_end(tmp_path: Path) -> None:
    """Its range is 1000 J."""
    package(tmp_path, "0", "package-0", 950)
    measured = meter(tmp_path, [0.0, 2.0])
    package(tmp_path, "0", "package-0", 50)

    power = measured.power()

    assert power is not None
    assert power.watts == pytest.approx(50)


def test_only_the_gpu_that_is_trained_on(tmp_path: Path) -> None:
    """From the last ``begin`` on."""
    gpus = Gpus()
    measured = meter(tmp_path, [0.0, 10.0, 12.0], gpus)
    gpus.joules = [500.0, 500.0]
    measured.begin()
    gpus.joules = [5000.0, 900.0]

    power = measured.power()

    assert power is not None
    assert power.watts == pytest.approx(200)
    assert power.of == "1 GPU"


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    """No files, or such as only root may read: no number is made up."""
    assert meter(tmp_path, [0.0, 1.0]).power() is None
    assert meter(tmp_path / "none", [0.0, 1.0]).power() is None
    package(tmp_path, "0", "package-0", 1)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("?")
    assert meter(tmp_path, [0.0, 1.0]).power() is None
