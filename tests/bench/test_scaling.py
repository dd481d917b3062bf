"""What a swarm's size costs a node: per node, per minute, per meeting."""

import math
from dataclasses import replace

import pytest

from lowcomm_node.bench.scaling import SizeReading, dht_requests, figures_between, growth
from lowcomm_node.telemetry.metrics import Metrics

_BEGIN = SizeReading(
    at_s=10.0, nodes=4, daemon_s=8.0, p2pd_s=1.0, trainer_s=40.0, exchange_s=2.0, meeting_ends=40, failed=3,
    sent_bytes=100_000, dht_gets=90, dht_puts=20, steps=1000,
)  # fmt: skip


def test_figures_are_of_one_node() -> None:
    """Half a minute of four nodes."""
    end = SizeReading(
        at_s=40.0, nodes=4, daemon_s=14.0, p2pd_s=2.2, trainer_s=90.0, exchange_s=4.4, meeting_ends=60, failed=5,
        sent_bytes=1_100_000, dht_gets=130, dht_puts=40, steps=2200,
    )  # fmt: skip

    found = figures_between(_BEGIN, end, memory_bytes=300 << 20)

    assert found.meetings_per_min == pytest.approx(10.0)
    assert found.failed_per_min == pytest.approx(1.0)
    assert found.steps_per_s == pytest.approx(10.0)
    assert found.kb_per_meeting == pytest.approx(50.0)
    assert found.daemon_ms_per_meeting == pytest.approx(300.0)
    assert found.daemon_ms_per_s == pytest.approx(50.0)
    assert found.p2pd_ms_per_s == pytest.approx(10.0)
    assert found.exchange_ms_per_meeting == pytest.approx(120.0)
    assert found.dht_gets_per_min == pytest.approx(20.0)
    assert found.dht_puts_per_min == pytest.approx(10.0)
    assert found.memory_mib == 300.0


def test_where_nobody_met_there_is_no_price_of_a_meeting() -> None:
    """But one of being there."""
    found = figures_between(_BEGIN, replace(_BEGIN, at_s=40.0, daemon_s=20.0), memory_bytes=0)

    assert math.isnan(found.daemon_ms_per_meeting)
    assert found.daemon_ms_per_s == pytest.approx(100.0)


def test_requests_are_those_that_a_node_shows() -> None:
    """Read from the page of a real registry, all outcomes together."""
    metrics = Metrics()
    for operation, outcome in (("get", "ok"), ("get", "ok"), ("get", "timeout"), ("put", "ok")):
        metrics.dht_requested(operation, outcome, 0.1)

    assert dht_requests(metrics.exposition()) == (3, 1)


def test_growth_is_from_the_smallest_to_the_largest() -> None:
    """In whatever order they were measured."""
    assert growth([4, 2, 32], [1.0, 2.0, 3.0]) == 1.5
    assert math.isnan(growth([2, 4], [0.0, 1.0]))
