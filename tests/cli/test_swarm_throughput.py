"""Minutes with meetings and minutes without, in turns."""

from dataclasses import replace

import pytest

from lowcomm_node.cli.swarm.history import SwarmPoint
from lowcomm_node.cli.swarm.throughput import compare_minutes, quiet_minutes
from lowcomm_node.settings.hours import parse_hours

_NAN = float("nan")


def _points(rate_of_minute: dict[int, float], began_at: float, until_s: int) -> list[SwarmPoint]:
    """A point a second; tokens grow at the rate of the minute."""
    points, tokens = [], 0.0
    for second in range(until_s):
        points.append(
            SwarmPoint(
                time_s=float(second), loss=_NAN, validation_loss=_NAN, spread=_NAN, bytes_sent=0.0, ddp_bytes=0.0,
                meetings=0, tokens=round(tokens),
            )
        )  # fmt: skip
        tokens += rate_of_minute.get(int((began_at + second) // 60), 1000.0)
    return points


def test_quiet_minutes_are_hours_that_nodes_read() -> None:
    """Every second minute, over midnight too."""
    assert parse_hours(quiet_minutes(1437, 3)) == ((1437, 1438), (1439, 1440), (1, 2))


def test_the_ratio_is_of_minutes_in_turns() -> None:
    """The first minute with meetings that counts is the one after the first without; seconds of change do not count."""
    rates = {8: 500.0, 9: 600.0, 10: 1000.0, 11: 950.0, 12: 1000.0, 13: 970.0}

    report = compare_minutes(_points(rates, 500.0, 341), began_at=500.0, from_minute=10, whole_from_s=30.0)

    assert report.without_meetings == pytest.approx([1000.0, 1000.0])
    assert report.with_meetings == pytest.approx([950.0, 970.0])
    assert report.ratio == pytest.approx(0.96)


def test_the_emulators_share_is_told_apart() -> None:
    """By kind of process, minutes with over minutes without; real trainers would have what the emulator takes for meetings."""
    taken, plain = {"trainer": 0.0, "emulator": 0.0}, _points({}, 500.0, 341)
    points = []
    for point in plain:
        points.append(replace(point, processor_s=dict(taken)))
        is_quiet = int((500.0 + point.time_s) // 60) % 2 == 0
        taken["trainer"] += 1.9 if is_quiet else 1.8
        taken["emulator"] += 0.01 if is_quiet else 0.1

    report = compare_minutes(points, began_at=500.0, from_minute=10, whole_from_s=30.0)

    assert report.processor_ms["trainer"] == pytest.approx((1800.0, 1900.0))
    assert report.processor_ms["emulator"] == pytest.approx((100.0, 10.0))
    assert report.ratio == pytest.approx(1.0)
    assert report.ratio_without_emulator == pytest.approx(1890 / 1800)


def test_without_a_pair_of_minutes_there_is_no_ratio() -> None:
    """A run that was interrupted early, or whose nodes did not all come."""
    points = _points({}, 500.0, 120)

    for whole_from_s in (0.0, float("inf")):
        report = compare_minutes(points, began_at=500.0, from_minute=10, whole_from_s=whole_from_s)
        assert report.ratio is None
