"""What shaped lines did to meetings, from logs and counters."""

import json

import pytest

from lowcomm_node.cli.swarm.line_report import line_table, make_line_report, read_durations
from lowcomm_node.cli.swarm.lines import Traffic, parse_line


def _entry(event: str, **fields: object) -> str:
    return json.dumps({"event": event, "role": "initiator", "partner": "p", "duration_s": 1.5, **fields})


def test_each_completed_meeting_counts_once() -> None:
    """By the end that started it; what a kill has cut in two, and other lines, are passed over."""
    lines = [
        _entry("meeting_completed"),
        _entry("meeting_completed", role="answerer"),
        _entry("meeting_failed"),
        _entry("meeting_completed", partner="q", duration_s=2.5)[:-9],
        _entry("meeting_completed", partner="q", duration_s=0.5),
        "",
    ]

    assert read_durations(lines) == [("p", 1.5), ("q", 0.5)]


def test_figures_follow_from_what_was_seen() -> None:
    """Efficiency: the mean payload's bits over the mean duration and the slower direction's rate."""
    report = make_line_report(
        parse_line("40/20mbit,100ms"),
        "40/20mbit,100ms",
        durations_s=[3.0, 1.0, 2.0],
        with_nat=2,
        behind_nat=["n3"],
        reachability={"n0": "public", "n3": "outbound_only"},
        links={"grpc": 4, "grpc_reversed": 2},
        payload_bytes=7_500_000,
        meetings=3,
        traffic=[Traffic(received_bytes=10, lost=1), Traffic(received_bytes=5, dropped=2)],
        emulator_cpu_s=1.0,
    )

    assert (report.duration_median_s, report.duration_max_s) == (2.0, 3.0)
    assert report.efficiency == pytest.approx(2.5e6 * 8 / (2.0 * 20e6))
    assert (report.packets_lost, report.packets_dropped, report.bytes_carried) == (1, 2, 15)
    assert line_table(report).row_count == 8


def test_a_run_without_meetings_has_no_figures_made_up() -> None:
    report = make_line_report(
        parse_line("1mbit"), "1mbit", durations_s=[], with_nat=0, behind_nat=[], reachability={}, links={},
        payload_bytes=0, meetings=0, traffic=[], emulator_cpu_s=0.0,
    )  # fmt: skip

    assert report.duration_median_s is report.efficiency is None
    assert line_table(report).row_count == 8
