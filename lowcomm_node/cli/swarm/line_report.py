"""What shaped lines did to a swarm's meetings: figures from logs and counters."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.table import Table

from lowcomm_node.cli.swarm.lines import LineShape, Traffic

__all__ = ["LineReport", "line_table", "make_line_report", "read_durations"]

_BITS_PER_MBIT = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class LineReport:
    """Meetings over shaped lines."""

    line: str
    behind_nat: list[str]
    """Nodes whose routers let nobody in."""
    reachability: dict[str, str]
    """What each node has found out about itself, by name."""
    links: dict[str, int]
    """Completed meetings by what they travelled over, counted by each of their ends."""
    meetings: int
    """Completed ones whose dialling end has written so."""
    duration_median_s: float | None
    duration_p90_s: float | None
    duration_max_s: float | None
    payload_bytes_mean: float
    """Of one completed meeting, both directions."""
    efficiency: float | None
    """Payload bits of the mean meeting over the mean duration and the line's rate."""
    with_nat: int
    """Meetings of which one end or both are behind NAT."""
    packets_lost: int
    packets_dropped: int
    """By full queues."""
    bytes_carried: int
    """By all lines, headers included."""
    emulator_cpu_s: float
    traffic: list[Traffic] = field(default_factory=list)
    """By line, in the order of the nodes."""


def read_durations(lines: Iterable[str]) -> list[tuple[str, float]]:
    """Partner (peer id) and seconds of the completed meetings that a node has started, from its JSON log."""
    durations = []
    for line in lines:
        if '"meeting_completed"' not in line:
            continue
        try:
            entry = json.loads(line)
            if entry["role"] == "initiator":
                durations.append((str(entry["partner"]), float(entry["duration_s"])))
        except (ValueError, KeyError, TypeError):
            continue  # a line that a kill has cut in two
    return durations


def make_line_report(
    shape: LineShape, words: str, *, durations_s: Sequence[float], with_nat: int, behind_nat: Sequence[str], reachability: Mapping[str, str], links: Mapping[str, int],
    payload_bytes: int, meetings: int, traffic: Sequence[Traffic], emulator_cpu_s: float,
) -> LineReport:  # fmt: skip
    """``payload_bytes``: sent by all nodes in all ``meetings``."""
    ordered = sorted(durations_s)
    mean_bytes = payload_bytes / meetings if meetings else 0.0
    rate = min(shape.up_mbit, shape.down_mbit) * _BITS_PER_MBIT
    return LineReport(
        line=words,
        behind_nat=list(behind_nat),
        reachability=dict(reachability),
        links=dict(links),
        meetings=len(ordered),
        duration_median_s=statistics.median(ordered) if ordered else None,
        duration_p90_s=ordered[int(0.9 * (len(ordered) - 1))] if ordered else None,
        duration_max_s=ordered[-1] if ordered else None,
        payload_bytes_mean=mean_bytes,
        efficiency=mean_bytes * 8 / (statistics.fmean(ordered) * rate) if ordered else None,
        with_nat=with_nat,
        packets_lost=sum(line.lost for line in traffic),
        packets_dropped=sum(line.dropped for line in traffic),
        bytes_carried=sum(line.received_bytes for line in traffic),
        emulator_cpu_s=emulator_cpu_s,
        traffic=list(traffic),
    )


def line_table(report: LineReport) -> Table:
    """The figures of a shaped swarm."""
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    table.add_row("line of each node", report.line, "rate, round trip, loss")
    found = ", ".join(f"{name} {word}" for name, word in report.reachability.items())
    table.add_row("behind NAT", str(len(report.behind_nat)), found)
    table.add_row("meetings by link", "", ", ".join(f"{link} {count}" for link, count in report.links.items()))
    table.add_row(
        "meeting, median", _seconds(report.duration_median_s),
        f"{_seconds(report.duration_p90_s)} of nine tenths, {_seconds(report.duration_max_s)} at most, {report.with_nat} with a node behind NAT",
    )  # fmt: skip
    table.add_row("payload of a meeting", f"{report.payload_bytes_mean / 1e6:.3f} MB", "both directions")
    efficiency = "-" if report.efficiency is None else f"{report.efficiency:.2f}"
    table.add_row("link efficiency", efficiency, "payload bits over time and rate")
    lost = f"{report.packets_lost:,} packets lost, {report.packets_dropped:,} dropped by full queues"
    table.add_row("carried by all lines", f"{report.bytes_carried / 1e6:.1f} MB", lost)
    table.add_row("emulator", f"{report.emulator_cpu_s:.1f} s", "of processor time")
    return table


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
