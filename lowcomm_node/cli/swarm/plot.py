"""A picture of a swarm's run: losses, validation, spread, bytes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lowcomm_node.cli.swarm.chaos import Fault
from lowcomm_node.cli.swarm.history import History, NodePoint
from lowcomm_node.cli.swarm.report import SwarmReport
from lowcomm_node.errors import StoreError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_swarm"]

_MEAN_COLOUR = "#1a1a1a"
_ALONE_COLOUR = "#b4532a"
_CONSENSUS_COLOUR = "#1b7f5c"
_DDP_COLOUR = "#9a9a9a"
_MARKS = {"killed": ("#c0392b", ":"), "died": ("#c0392b", "-"), "joined late": ("#2d6cdf", ":")}
_MARKS |= {fault.value: ("#d68910", ":") for fault in Fault if fault not in {Fault.KILL, Fault.STRAND, Fault.END_FIRST}}
"""Nodes that chaos kills are marked as killed."""
_MIB = 1 << 20
_SMOOTH_REACH = 4


def plot_swarm(history: History, report: SwarmReport, path: Path) -> None:
    """Write a PNG of four panels over training time. Raises StoreError when the file cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    (top_left, top_right), (bottom_left, bottom_right) = figure.subplots(2, 2, sharex=True)
    _plot_loss(top_left, history)
    _plot_validation(top_right, history, report)
    _plot_spread(bottom_left, history, report)
    _plot_bytes(bottom_right, history)
    for axes in (top_left, top_right, bottom_left, bottom_right):
        axes.grid(visible=True, alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        for mark in history.marks:
            if mark.kind in _MARKS:
                colour, style = _MARKS[mark.kind]
                axes.axvline(mark.time_s, color=colour, linestyle=style, linewidth=0.8, alpha=0.7)
    for axes in (bottom_left, bottom_right):
        axes.set_xlabel("training time (s)")
    figure.suptitle(_title(report), fontsize=11)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png")
    except OSError as error:
        raise StoreError(f"{path}: the plot cannot be written: {error.strerror}") from error


def _plot_loss(axes: "Axes", history: History) -> None:
    for index, (name, points) in enumerate(_by_number(history)):
        times = [point.time_s for point in points]
        axes.plot(times, [p.loss for p in points], color=f"C{index % 10}", linewidth=0.7, alpha=0.55, label=name)
    times = [point.time_s for point in history.swarm]
    mean = _smooth([point.loss for point in history.swarm])
    axes.plot(times, mean, color=_MEAN_COLOUR, linewidth=1.8, label="swarm mean, smoothed")
    axes.set_title("Training loss", fontsize=10, loc="left")
    axes.set_ylabel("loss (nats per token)")
    _legend(axes)


def _plot_validation(axes: "Axes", history: History, report: SwarmReport) -> None:
    for index, (name, points) in enumerate(_by_number(history)):
        times = [point.time_s for point in points]
        axes.plot(times, [p.validation_loss for p in points], color=f"C{index % 10}", linewidth=0.9, label=name)
    times = [point.time_s for point in history.swarm]
    means = [point.validation_loss for point in history.swarm]
    axes.plot(times, means, color=_MEAN_COLOUR, linewidth=1.8, label="mean of the nodes")
    for loss, colour, label in (
        (report.val_loss_local_only, _ALONE_COLOUR, "training alone, end"),
        (report.val_loss_consensus, _CONSENSUS_COLOUR, "averaged model, end"),
    ):
        if loss is not None:
            axes.axhline(loss, color=colour, linestyle="--", linewidth=1.3, label=f"{label}: {loss:.3f}")
    axes.set_title("Validation loss", fontsize=10, loc="left")
    axes.set_ylabel("loss (nats per token)")
    _legend(axes)


def _plot_spread(axes: "Axes", history: History, report: SwarmReport) -> None:
    times = [point.time_s for point in history.swarm]
    axes.plot(
        times, [p.spread for p in history.swarm], color=_MEAN_COLOUR, linewidth=1.5, label="estimated from sketches"
    )
    if report.spread_end is not None and times:
        label = f"measured at the end: {report.spread_end:.4f}"
        axes.plot([times[-1]], [report.spread_end], "o", color=_CONSENSUS_COLOUR, markersize=5, label=label)
    axes.set_ylim(bottom=0)
    axes.set_title("Spread between replicas", fontsize=10, loc="left")
    axes.set_ylabel("rms distance from the mean, per parameter")
    _legend(axes)


def _plot_bytes(axes: "Axes", history: History) -> None:
    points = [point for point in history.swarm if point.tokens]
    times = [point.time_s for point in points]
    ddp = [point.ddp_bytes / _MIB for point in points]
    sent = [point.bytes_sent / _MIB for point in points]
    if any(value > 0 for value in (*ddp, *sent)):
        axes.set_yscale("log")
    axes.plot(times, [value or math.nan for value in ddp], color=_DDP_COLOUR, linewidth=1.5, label="DDP would send")
    axes.plot(times, [value or math.nan for value in sent], color=_MEAN_COLOUR, linewidth=1.8, label="swarm sent")
    axes.set_title("Bytes sent, all nodes together", fontsize=10, loc="left")
    axes.set_ylabel("MiB since the start")
    _legend(axes)


def _by_number(history: History) -> list[tuple[str, list[NodePoint]]]:
    """Nodes in the order of their numbers: n2 before n10."""
    return sorted(history.nodes.items(), key=lambda node: (len(node[0]), node[0]))


def _legend(axes: "Axes") -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False, ncols=2)


def _title(report: SwarmReport) -> str:
    parts = [f"{report.run_name or 'swarm'}: {report.nodes} nodes, {report.parameters:,} parameters"]
    parts.append(f"{report.tokens_total:,} tokens, {report.meetings_completed:,} meetings")
    if report.killed or report.joined_late:
        parts.append(f"{report.killed} killed (red), {report.joined_late} joined late (blue)")
    if report.chaos is not None:
        parts.append(f"{sum(report.chaos.injected.values())} faults (kills red, others orange)")
    return "   |   ".join(parts)


def _smooth(values: Sequence[float]) -> list[float]:
    """Mean over the neighbours on both sides, so that the curve does not lag; NaN points are passed over."""
    smoothed: list[float] = []
    for index in range(len(values)):
        around = values[max(0, index - _SMOOTH_REACH) : index + _SMOOTH_REACH + 1]
        known = [value for value in around if not math.isnan(value)]
        smoothed.append(sum(known) / len(known) if known else math.nan)
    return smoothed
