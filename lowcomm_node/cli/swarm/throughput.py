"""What do meetings cost training? The same nodes in the same run, minute by minute with them and without, as quiet hours make it."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.table import Table

from lowcomm_node.cli.swarm.history import SwarmPoint
from lowcomm_node.cli.swarm.processes import Part

__all__ = ["EMULATOR", "ThroughputReport", "compare_minutes", "quiet_minutes", "throughput_table"]

EMULATOR = "emulator"
"""The kind of process that carries the packets of shaped lines: real nodes have none."""
_TRAINER = Part.TRAINER.value
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
    ratio_without_emulator: float | None = None
    """What the ratio would be on full cores if the trainers had the processor time that the emulator takes for meetings; null without one."""
    processor_ms: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Processor time by kind of process in minutes with meetings and in those without: milliseconds a second, all nodes together."""


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
    busy: dict[int, dict[str, float]] = {}
    minutes = {int((began_at + point.time_s) // _MINUTE_S) for point in points if point.time_s >= whole_from_s}
    for minute in minutes:
        within = [
            point
            for point in points
            if point.time_s >= whole_from_s
            and minute * _MINUTE_S + _SETTLE_S <= began_at + point.time_s < (minute + 1) * _MINUTE_S
        ]
        if len(within) > 1 and within[-1].time_s - within[0].time_s > (_MINUTE_S - _SETTLE_S) / 2:
            first_point, last_point = within[0], within[-1]
            seconds = last_point.time_s - first_point.time_s
            rates[minute] = (last_point.tokens - first_point.tokens) / seconds
            busy[minute] = {
                kind: 1e3 * (taken_s - first_point.processor_s.get(kind, 0.0)) / seconds
                for kind, taken_s in last_point.processor_s.items()
            }
    first = min((minute for minute in rates if minute >= from_minute), default=0)
    # The minutes before the first pair, in which nodes still find each other, are not a measure.
    on = [minute for minute in sorted(rates) if minute > first and (minute - from_minute) % 2]
    off = [minute for minute in sorted(rates) if minute >= from_minute and not (minute - from_minute) % 2]
    pairs = min(len(on), len(off))
    on, off = on[:pairs], off[:pairs]
    with_rates, without_rates = [rates[minute] for minute in on], [rates[minute] for minute in off]
    ratio = statistics.fmean(with_rates) / statistics.fmean(without_rates) if pairs else None
    processor_ms = {
        kind: (
            statistics.fmean(busy[minute][kind] for minute in on),
            statistics.fmean(busy[minute][kind] for minute in off),
        )
        for kind in (busy[on[0]] if pairs else ())
    }
    return ThroughputReport(
        with_meetings=with_rates,
        without_meetings=without_rates,
        ratio=ratio,
        ratio_without_emulator=_without_emulator(ratio, processor_ms),
        processor_ms=processor_ms,
    )


def _without_emulator(ratio: float | None, processor_ms: Mapping[str, tuple[float, float]]) -> float | None:
    if ratio is None or EMULATOR not in processor_ms or not processor_ms.get(_TRAINER, (0.0, 0.0))[0]:
        return None
    with_ms, without_ms = processor_ms[EMULATOR]
    trainers_ms = processor_ms[_TRAINER][0]
    return ratio * (trainers_ms + with_ms - without_ms) / trainers_ms


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
    if report.ratio_without_emulator is not None:
        table.add_row("  without the emulator", f"{report.ratio_without_emulator:.3f}", "which real nodes do not have")
    for kind, (with_ms, without_ms) in report.processor_ms.items():
        words = f"ms of processor time a second with meetings, {without_ms:,.0f} without"
        table.add_row(f"  {kind}", f"{with_ms:,.0f}", words)
    return table


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
