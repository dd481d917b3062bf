"""``bench scrape``: measures, and says it in three lines."""

import statistics

from rich.console import Console

from lowcomm_node.bench.scrape import measure_scrapes

__all__ = ["show_scrapes"]

_EVERY_S = 15.0
"""As deploy/prometheus/prometheus.yml."""


def show_scrapes(scrapes: int, console: Console) -> None:
    """Raises ConfigError."""
    cost = measure_scrapes(scrapes)
    median_s = statistics.median(cost.seconds)
    console.print(f"{cost.series} series, {cost.page_bytes / 1000:.1f} kB a page", highlight=False)
    console.print(
        f"{1000 * median_s:.2f} ms a scrape (median of {len(cost.seconds)}), at most {1000 * max(cost.seconds):.2f} ms",
        highlight=False,
    )
    console.print(f"{median_s / _EVERY_S:.3%} of one core when scraped every {_EVERY_S:.0f} s", highlight=False)
