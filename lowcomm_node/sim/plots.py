"""Pictures of simulations: one run over time, and what a node pays in swarms of different sizes."""

import math
from collections.abc import Sequence
from pathlib import Path

from lowcomm_node.sim.report import Report
from lowcomm_node.telemetry.figures import COLOURS, new_panels, save_panels

__all__ = ["plot_run", "plot_sweep"]


def plot_run(report: Report, path: Path) -> None:
    """Spread, meetings and members over time. Raises StoreError."""
    has_loss = any("loss" in point.extra for point in report.timeline)
    figure, panels = new_panels("Simulated swarm", report.scenario.describe(), 4 if has_loss else 3)
    minutes = [point.at_s / 60 for point in report.timeline]
    spread, meetings, members = panels[:3]
    spread.plot(minutes, [point.spread for point in report.timeline], color=COLOURS[0], label="spread")
    if math.isfinite(report.expected_spread):
        spread.axhline(report.expected_spread, color=COLOURS[6], linestyle=":", linewidth=1.0, label="expected spread")
    if report.attack is not None:
        errors = [point.consensus_error for point in report.timeline]
        spread.plot(minutes, errors, color=COLOURS[1], linestyle="--", label="consensus error")
    spreads = [point.spread for point in report.timeline if point.spread > 0]
    if spreads and max(spreads) > 30 * min(spreads):
        spread.set_yscale("log")
    spread.set_ylabel("rms per number")
    rates = [point.completed_per_node_minute for point in report.timeline]
    meetings.plot(minutes, rates, color=COLOURS[2], label="completed meetings")
    meetings.set_ylabel("per node and minute")
    meetings.set_ylim(bottom=0)
    members.plot(minutes, [point.nodes for point in report.timeline], color=COLOURS[4], label="nodes")
    members.set_ylabel("nodes")
    members.set_ylim(bottom=0)
    if has_loss:
        for colour, name, label in ((0, "loss", "mean over replicas"), (3, "loss_averaged", "averaged model")):
            losses = [point.extra.get(name, math.nan) for point in report.timeline]
            panels[3].plot(minutes, losses, color=COLOURS[colour], label=label)
        panels[3].set_ylabel("validation loss (nats per token)")
    for axes in panels:
        for partition in report.scenario.partitions:
            axes.axvspan(partition.from_s / 60, partition.until_s / 60, color=COLOURS[5], alpha=0.15)
    panels[-1].set_xlabel("minutes")
    save_panels(figure, panels, path)


def plot_sweep(reports: Sequence[Report], path: Path) -> None:
    """What a node pays against the number of nodes. Raises StoreError."""
    figure, panels = new_panels("What a node pays, by size of the swarm", reports[-1].scenario.describe(), 3)
    nodes = [report.scenario.nodes for report in reports]
    traffic, directory, meetings = panels
    kib = [report.traffic.bytes_per_node_minute / 1024 for report in reports]
    traffic.plot(nodes, kib, "o-", color=COLOURS[0], label="sent (KiB)")
    gets = [report.directory.gets_per_node_minute for report in reports]
    puts = [report.directory.puts_per_node_minute for report in reports]
    directory.plot(nodes, gets, "o-", color=COLOURS[1], label="directory reads")
    directory.plot(nodes, puts, "s--", color=COLOURS[3], label="directory writes")
    rates = [report.meetings.per_node_minute for report in reports]
    meetings.plot(nodes, rates, "o-", color=COLOURS[2], label="completed meetings")
    for axes in panels:
        axes.set_ylabel("per node and minute")
        axes.set_ylim(bottom=0)
    panels[-1].set_xscale("log")
    panels[-1].set_xlabel("nodes")
    save_panels(figure, panels, path)
