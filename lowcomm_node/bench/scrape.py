"""What it costs a node to be scraped: its real registry, as it is in a run, written out again and again."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from lowcomm_node.errors import ConfigError
from lowcomm_node.ports import GpuReading
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.telemetry.metrics import Metrics
from lowcomm_node.units import PeerId, RunId, Stream

__all__ = ["MOST_GPUS", "ScrapeCost", "measure_scrapes"]

_WARM_UP = 5
MOST_GPUS = 8
"""As many as the catalogue shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapeCost:
    """Of each scrape, in the thread that answers it."""

    gpus: int
    series: int
    page_bytes: int
    seconds: tuple[float, ...]


def measure_scrapes(scrapes: int, gpus: int = 0, clock: Callable[[], float] = time.perf_counter) -> ScrapeCost:
    """All series of a node with so many GPUs, and both processes' own; what the GPUs' driver takes is not in it. Raises ConfigError."""
    if scrapes < 1:
        raise ConfigError(f"--scrapes {scrapes} is not allowed; allowed: at least 1")
    metrics = Metrics(gpus=lambda: tuple(map(_reading, range(gpus))))
    metrics.identify(PeerId("12D3KooWScraped"), RunId("00" * 32), Manifest(name="bench"), "cpu")
    # This process stands for the trainer, too: its figures are read from the system in the same way.
    metrics.trainer_started(os.getpid(), dict.fromkeys(Stream, 1), cuda="none")
    page = b""
    seconds = []
    for _ in range(_WARM_UP + scrapes):
        began_at = clock()
        page = metrics.exposition()
        seconds.append(clock() - began_at)
    series = sum(1 for line in page.splitlines() if line and not line.startswith(b"#"))
    return ScrapeCost(gpus=gpus, series=series, page_bytes=len(page), seconds=tuple(seconds[_WARM_UP:]))


def _reading(index: int) -> GpuReading:
    return GpuReading(
        index=index,
        memory_used_bytes=1 << 30,
        memory_size_bytes=2 << 30,
        utilization_ratio=0.5,
        temperature_celsius=50.0,
        energy_joules=1.0,
    )
