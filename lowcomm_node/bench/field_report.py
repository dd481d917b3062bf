"""Findings of ``bench field`` as a table, as JSON and as two pictures."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lowcomm_node.bench.field import Look, Outcome, Row
from lowcomm_node.telemetry.figures import COLOURS, new_figure, save_figure

__all__ = ["FIELD_COLUMNS", "FIELD_NOTE", "field_cells", "field_json", "field_markdown", "plot_field"]

FIELD_COLUMNS = ("run", "loss", "averaged", "tokens", "MB per node", "by formula", "all traffic", "seconds")

FIELD_NOTE = (
    "loss: held-out text, nats per token, mean over the nodes; averaged: of their averaged model. MB per node: payload in the whole "
    "run, in 10^6 bytes, for the swarm by the nodes' own counters, for the others TCP payload as the kernel counts it; by formula: ring "
    "all-reduce of fp32, 2 (N - 1) / N of the model each time. all traffic: at the nodes' network devices, directory and headers "
    "included, in networks of their own. seconds: on this computer, where processes share cores and lines have no limit."
)
_MEGA = 1e6


def field_cells(row: Row) -> tuple[str, ...]:
    """One line of the table, a text per column."""
    deviation = row.deviation("loss")
    return (
        row.label,
        f"{row.mean('loss'):.4f}" + (f" ± {deviation:.4f}" if len(row.outcomes) > 1 else ""),
        f"{row.mean('loss_averaged'):.4f}",
        f"{row.mean('tokens'):,.0f}",
        _megabytes(row.mean("bytes_per_node")),
        _megabytes(row.mean("reckoned_bytes")),
        _megabytes(row.mean("wire_bytes_per_node")),
        f"{row.mean('seconds'):.0f}",
    )


def field_markdown(rows: Sequence[Row], setting: str) -> str:
    """A page with the table."""
    return "\n".join(
        [
            "# bench field",
            "",
            setting + ".",
            "",
            "| " + " | ".join(FIELD_COLUMNS) + " |",
            "|" + " :--- |" + " ---: |" * (len(FIELD_COLUMNS) - 1),
            *("| " + " | ".join(field_cells(row)) + " |" for row in rows),
            "",
            FIELD_NOTE,
            "",
        ]
    )


def field_json(outcomes: Sequence[Outcome], setting: str) -> dict[str, object]:
    """All runs with their curves."""
    return {"setting": setting, "runs": [asdict(outcome) for outcome in outcomes]}


def plot_field(rows: Sequence[Row], setting: str, folder: Path) -> list[Path]:
    """Loss over tokens, and loss over bytes on a logarithmic axis; returns the files. Raises StoreError."""
    by_tokens, by_bytes = folder / "field-tokens.png", folder / "field-bytes.png"
    figure, axes = new_figure("Held-out loss over tokens of all nodes together", setting)
    for colour, row in zip(COLOURS, rows, strict=False):
        curve = _mean_curve(row)
        axes.plot(
            [look.tokens for look in curve], [look.loss for look in curve], color=colour, linewidth=1.4, label=row.label
        )
    axes.set_xlabel("tokens")
    axes.set_ylabel("held-out loss (nats per token)")
    save_figure(figure, axes, by_tokens)
    figure, axes = new_figure("Held-out loss over payload of each node", setting)
    for colour, row in zip(COLOURS, rows, strict=False):
        curve = [look for look in _mean_curve(row) if look.bytes_per_node > 0]
        if row.mean("bytes_per_node") < 1000:  # nobody talked but to say that he is there
            axes.axhline(
                row.mean("loss"), color=colour, linestyle="--", linewidth=1.0, label=f"{row.label}, at the end"
            )
            continue
        axes.plot(
            [look.bytes_per_node / _MEGA for look in curve],
            [look.loss for look in curve],
            color=colour,
            linewidth=1.4,
            label=row.label,
        )
    axes.set_xscale("log")
    axes.set_xlabel("payload of each node so far (MB)")
    axes.set_ylabel("held-out loss (nats per token)")
    save_figure(figure, axes, by_bytes)
    return [by_tokens, by_bytes]


def _mean_curve(row: Row) -> list[Look]:
    """Look by look, the mean over seeds; of runs in real time no two take their looks at the same tokens, so the first seed's are drawn."""
    curves = [outcome.curve for outcome in row.outcomes]
    if any([look.tokens for look in curve] != [look.tokens for look in curves[0]] for curve in curves):
        return list(curves[0])
    return [
        Look(
            tokens=looks[0].tokens,
            bytes_per_node=statistics.fmean(look.bytes_per_node for look in looks),
            loss=statistics.fmean(look.loss for look in looks),
        )
        for looks in zip(*curves, strict=True)
    ]


def _megabytes(num_bytes: float) -> str:
    return "" if math.isnan(num_bytes) else f"{num_bytes / _MEGA:,.3f}"
