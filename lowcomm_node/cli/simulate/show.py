"""Simulations on the terminal: progress, the table of one run, the table of a sweep."""

import math
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lowcomm_node.bench.store import write_json
from lowcomm_node.sim.perform import simulate
from lowcomm_node.sim.report import Point, Report, report_json
from lowcomm_node.sim.scenario import Scenario

__all__ = ["perform"]

_SWEEP_COLUMNS = (
    "nodes",
    "completed",
    "meetings / node min",
    "KiB / node min",
    "DHT reads / node min",
    "DHT writes / node min",
    "fullest bucket",
    "spread",
    "CPU s",
)


def perform(scenarios: Sequence[Scenario], json_file: Path | None, plot_dir: Path | None, console: Console) -> None:
    """Run one scenario, or a sweep over several, and show what came out. Raises LowcommError."""
    reports: list[Report] = []
    seconds: list[float] = []
    for scenario in scenarios:
        started = time.process_time()
        reports.append(_watched(scenario, console))
        seconds.append(time.process_time() - started)
        if len(scenarios) == 1 or console.is_terminal:
            console.print(_table(reports[-1]))
    if len(reports) > 1:
        console.print(_sweep_table(reports, seconds))
    scale = 1 << (20 if sys.platform == "darwin" else 10)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
    console.print(f"{sum(seconds):.1f} s of CPU time, at most {peak_mib:.0f} MiB", style="dim", highlight=False)
    written: list[str] = []
    if json_file is not None:
        plain = [report_json(report) for report in reports]
        write_json(json_file, plain[0] if len(plain) == 1 else {"sweep": plain})
        written.append(str(json_file))
    if plot_dir is not None:
        written += _plot(reports, plot_dir)
    if written:
        console.print(f"written: {', '.join(written)}", highlight=False, soft_wrap=True)


def _plot(reports: Sequence[Report], folder: Path) -> Iterator[str]:
    from lowcomm_node.sim.plots import plot_run, plot_sweep

    for report in reports:
        path = folder / f"run-{report.scenario.nodes}.png"
        plot_run(report, path)
        yield str(path)
    if len(reports) > 1:
        path = folder / "sweep.png"
        plot_sweep(reports, path)
        yield str(path)


def _watched(scenario: Scenario, console: Console) -> Report:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(f"{scenario.nodes:,} nodes", total=scenario.duration_s)

        def on_look(point: Point) -> None:
            text = f"{scenario.nodes:,} nodes, {point.at_s / 60:.1f} min, spread {_number(point.spread)}"
            progress.update(task, completed=point.at_s, description=text)

        return simulate(scenario, on_look)


def _table(report: Report) -> Table:
    table = Table(title=report.scenario.describe(), title_justify="left", title_style="bold", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for rows in (_agreement(report), _meetings(report), _costs(report), _newcomers(report), _attack(report)):
        for name, text in rows:
            table.add_row(name, text)
        table.add_section()
    return table


def _agreement(report: Report) -> Iterable[tuple[str, str]]:
    last = report.timeline[-1]
    expected = f", expected {report.expected_spread:.3g}" if math.isfinite(report.expected_spread) else ""
    yield "spread", f"{_number(report.spread)} over the second half{expected}"
    yield "progress", f"{report.own_steps:.0f} own steps a node, progress apart by {last.progress_spread:.2f} steps"
    if "loss" in last.extra:
        losses = f"{last.extra['loss']:.4f} (mean over replicas), {last.extra['loss_averaged']:.4f} (averaged model)"
        yield "validation loss", losses


def _meetings(report: Report) -> Iterable[tuple[str, str]]:
    meetings = report.meetings
    yield "meetings", f"{meetings.completed:,} of {meetings.started:,} completed, {meetings.completed_ratio:.1%}"
    yield "not completed", _counts(meetings.failed) or "none"
    halves = {**meetings.half, **{f"{r} (answerer)": n for r, n in meetings.half_as_seen_by_answerers.items()}}
    yield "half", _counts(halves) or "none"
    duration = f"{meetings.duration_s:.3g} s in the mean, {meetings.duration_p95_s:.3g} s at the 95th percentile"
    yield "duration", f"{duration}; a node is in one {meetings.engaged_ratio:.0%} of its time"
    yield "busy", f"{meetings.busy_ratio:.1%} of all offers"
    if report.heals:
        yield "healed", _counts(report.heals)
    if report.refused_frames:
        yield "refused frames", _counts(report.refused_frames)


def _costs(report: Report) -> Iterable[tuple[str, str]]:
    traffic, directory = report.traffic, report.directory
    kib = traffic.bytes_per_node_minute / 1024
    yield (
        "sent",
        f"{kib:.4g} KiB per node and minute, {traffic.bytes_per_completed / 1024:.4g} KiB per completed meeting",
    )
    payloads = (f"{key} {size / 1024:.4g} KiB" for key, size in traffic.payload_per_completed.items())
    yield "payload of a meeting", ", ".join(payloads) or "none"
    operations = f"{directory.gets_per_node_minute:.3g} reads, {directory.puts_per_node_minute:.3g} writes"
    bucket = f"up to {directory.largest_bucket} records in a bucket, depth {directory.depth}"
    yield "directory", f"{operations} per node and minute; {bucket}"


def _newcomers(report: Report) -> Iterable[tuple[str, str]]:
    joins = report.joins
    if joins.joined or joins.left or joins.killed:
        yield "came and went", f"{joins.joined} joined, {joins.left} left, {joins.killed} were killed"
    if joins.joined:
        yield "newcomers", f"{joins.ready} got a state, {joins.met} met, {joins.informed} came near the mean"
        yield "time to state", f"median {joins.ready_s:.3g} s"
        yield "time to first meeting", f"median {joins.met_s:.3g} s, 90 % {joins.met_p90_s:.3g} s"
        yield "time to inform", f"median {joins.informed_s:.3g} s, 90 % {joins.informed_p90_s:.3g} s"


def _attack(report: Report) -> Iterable[tuple[str, str]]:
    attack = report.attack
    if attack is None:
        return
    error = f"{_number(attack.consensus_error)}, {attack.consensus_error_over_spread:.3g} times the spread"
    yield "consensus error", f"{error} ({attack.hostile} hostile nodes)"
    states = f"{attack.states_taken_of_honest} of honest donors, {attack.states_taken_of_hostile} of hostile ones"
    refused = f"{attack.states_refused_of_honest} and {attack.states_refused_of_hostile} refused"
    yield "states taken", f"{states}; {refused}"
    yield "hostile meetings", f"{attack.clipped_of_hostile:.1%} clipped, {attack.refused_of_hostile:.1%} refused"
    yield "honest meetings", f"{attack.clipped_of_honest:.2%} clipped, {attack.refused_of_honest:.2%} refused (false)"
    yield (
        "avoided at the end",
        f"{attack.avoided_hostile:.1%} of hostile, {attack.avoided_honest:.1%} of honest peers known",
    )


def _sweep_table(reports: Sequence[Report], seconds: Sequence[float]) -> Table:
    table = Table(title="what a node pays", title_justify="left", title_style="bold")
    for column in _SWEEP_COLUMNS:
        table.add_column(column, justify="right")
    for report, spent_s in zip(reports, seconds, strict=True):
        table.add_row(
            f"{report.scenario.nodes:,}",
            f"{report.meetings.completed_ratio:.1%}",
            f"{report.meetings.per_node_minute:.3f}",
            f"{report.traffic.bytes_per_node_minute / 1024:.1f}",
            f"{report.directory.gets_per_node_minute:.2f}",
            f"{report.directory.puts_per_node_minute:.2f}",
            str(report.directory.largest_bucket),
            _number(report.spread),
            f"{spent_s:.1f}",
        )
    return table


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {number:,}" for reason, number in counts.items())


def _number(value: float) -> str:
    return f"{value:.4g}"
