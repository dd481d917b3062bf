"""What do meetings cost training? The same nodes in the same run, minute by minute with them and without, as quiet hours make it."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from lowcomm_node.cli.swarm.history import SwarmPoint

__all__ = ["ThroughputReport", "compare_minutes", "quiet_minutes", "throughput_table"]

_DAY_MINUTES = 24 * 60
_MINUTE_S = 60.0
_SETTLE_S = 10.0
"""The begin of each minute does not count: lines are looked at once a second, and meetings that had begun go on to their end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputReport:
    """Training with meetings against the same nodes at the same time without them, minute by minute in turns."""

    with_meetings: list[float]
    """Tokens per second of all nodes together, one figure a minute."""
    without_meetings: list[float]
    ratio: float | None
    """Mean with over mean without; null when one of them is missing."""


def quiet_minutes(from_minute: int, count: int) -> str:
    """Every second minute of the day as quiet hours: ``count`` of them, the first at minute ``from_minute`` since midnight."""
    begins = [(from_minute + 2 * index) % _DAY_MINUTES for index in range(count)]
    return ", ".join(f"{_clock(begin)}-{_clock(begin + 1)}" for begin in begins)


def compare_minutes(
    points: Sequence[SwarmPoint], *, began_at: float, from_minute: int, whole_from_s: float
) -> ThroughputReport:
    """Tokens a second of each whole minute.

    Args:
        points: the swarm over time.
        began_at: seconds since local midnight of the points' time 0.
        from_minute: minutes since midnight; from it on, every second minute is one without meetings.
        whole_from_s: points' time from which all nodes trained.
    """
    rates: dict[int, float] = {}
    minutes = {int((began_at + point.time_s) // _MINUTE_S) for point in points if point.time_s >= whole_from_s}
    for minute in minutes:
        within = [
            point
            for point in points
            if point.time_s >= whole_from_s
            and minute * _MINUTE_S + _SETTLE_S <= began_at + point.time_s < (minute + 1) * _MINUTE_S
        ]
        if len(within) > 1 and within[-1].time_s - within[0].time_s > (_MINUTE_S - _SETTLE_S) / 2:
            rates[minute] = (within[-1].tokens - within[0].tokens) / (within[-1].time_s - within[0].time_s)
    first = min((minute for minute in rates if minute >= from_minute), default=0)
    # The minutes before the first pair, in which nodes still find each other, are not a measure.
    on = [rate for minute, rate in sorted(rates.items()) if minute > first and (minute - from_minute) % 2]
    off = [rate for minute, rate in sorted(rates.items()) if minute >= from_minute and not (minute - from_minute) % 2]
    pairs = min(len(on), len(off))
    on, off = on[:pairs], off[:pairs]
    ratio = statistics.fmean(on) / statistics.fmean(off) if pairs else None
    return ThroughputReport(with_meetings=on, without_meetings=off, ratio=ratio)


def throughput_table(report: ThroughputReport) -> Table:
    """The ratio and what it is made of."""
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    ratio = "-" if report.ratio is None else f"{report.ratio:.3f}"
    table.add_row("training throughput", ratio, "with meetings over without, minutes in turns")
    for name, rates in (("with", report.with_meetings), ("without", report.without_meetings)):
        mean = f"{statistics.fmean(rates):,.0f}" if rates else "-"
        table.add_row(f"  tokens/s {name}", mean, ", ".join(f"{rate:,.0f}" for rate in rates))
    return table


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
