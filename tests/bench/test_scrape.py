"""The cost of scraping is measured on the page that a node really gives."""

import itertools

import pytest

from lowcomm_node.bench.scrape import MOST_GPUS, measure_scrapes
from lowcomm_node.errors import ConfigError


def test_every_scrape_is_timed_on_the_whole_page() -> None:
    """As many times as asked for, after a warm-up; hundreds of series, within the budget of 600."""
    ticks = itertools.count()

    cost = measure_scrapes(3, clock=lambda: float(next(ticks)))

    assert cost.seconds == (1.0, 1.0, 1.0)
    assert 350 < cost.series <= 600
    assert cost.page_bytes > 10_000


def test_a_node_with_all_gpus_has_more_than_four_hundred_series() -> None:
    """Five for each GPU, and still within the budget."""
    costs = [measure_scrapes(1, gpus) for gpus in (0, MOST_GPUS)]

    assert costs[1].series == costs[0].series + 5 * MOST_GPUS
    assert 400 < costs[1].series <= 600


def test_none_is_not_a_number_of_scrapes() -> None:
    """The complaint names the option."""
    with pytest.raises(ConfigError, match="--scrapes 0"):
        measure_scrapes(0)
