"""What it costs a node to be scraped: its real registry, as it is in a run, written out again and again."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from lowcomm_node.errors import ConfigError
from lowcomm_node.telemetry.metrics import Metrics
from lowcomm_node.units import PeerId, RunId, Stream

__all__ = ["ScrapeCost", "measure_scrapes"]

_WARM_UP = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapeCost:
    """Of each scrape, in the thread that answers it."""

    series: int
    page_bytes: int
    seconds: tuple[float, ...]


def measure_scrapes(scrapes: int, clock: Callable[[], float] = time.perf_counter) -> ScrapeCost:
    """All series of the catalogue but those of GPUs, and both processes' own. Raises ConfigError."""
    if scrapes < 1:
        raise ConfigError(f"--scrapes {scrapes} is not allowed; allowed: at least 1")
    metrics = Metrics()
    metrics.identify(
        peer_id=PeerId("12D3KooWScraped"),
        run_id=RunId("00" * 32),
        run_name="bench",
        codec="ab",
        device="cpu",
        total_steps=1,
    )
    # This process stands for the trainer, too: its figures are read from the system in the same way.
    metrics.trainer_started(os.getpid(), dict.fromkeys(Stream, 1))
    page = b""
    seconds = []
    for _ in range(_WARM_UP + scrapes):
        began_at = clock()
        page = metrics.exposition()
        seconds.append(clock() - began_at)
    series = sum(1 for line in page.splitlines() if line and not line.startswith(b"#"))
    return ScrapeCost(series=series, page_bytes=len(page), seconds=tuple(seconds[_WARM_UP:]))
