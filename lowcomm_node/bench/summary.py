"""Results of one comparison, put together over seeds: rows, the front, a table in Markdown, JSON."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from lowcomm_node.bench.methods import Family
from lowcomm_node.bench.trial import Result, Trial

__all__ = [
    "BYTES_NOTE", "COLUMNS", "Row", "cells_of", "describe", "front", "markdown", "parts_of", "summarise", "summary_json",
]  # fmt: skip

COLUMNS = (
    "method",
    "loss",
    "averaged",
    "accuracy",
    "spread",
    "KiB per node",
    "meetings",
    "captured",
    "duration",
    "seconds",
)
BYTES_NOTE = (
    "loss: nats per token on held-out text, or per example of a task, mean over replicas (and seeds, +/- their standard deviation); "
    "averaged: of the averaged model; accuracy: share of a task's held-out examples that are answered right, mean over replicas; * no other method has both less loss and fewer bytes. Bytes are what a node sends. Meetings: counted, "
    "payloads of both directions. Lockstep: by formula; a ring all-reduce is 2(N-1)/N numbers a value, fp32 for ddp, "
    "dion-sync and ab-training, bf16 for the others, as their authors run them; noloco sends 2 numbers a parameter, as published. captured: share of a "
    "difference's energy that a meeting takes away. duration: in steps of the fastest replica."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method over its seeds."""

    label: str
    family: Family
    trials: tuple[Trial, ...]
    results: tuple[Result, ...]

    def mean(self, name: str) -> float:
        """Of one number over seeds."""
        return statistics.fmean(getattr(result, name) for result in self.results)

    @property
    def bytes_by_part(self) -> dict[str, float]:
        """What a node sent, by what it was for, mean over seeds; empty where it is one thing."""
        parts = dict.fromkeys(part for result in self.results for part in result.bytes_by_part)
        return {
            part: statistics.fmean(result.bytes_by_part.get(part, 0.0) for result in self.results) for part in parts
        }

    def deviation(self, name: str) -> float:
        """Standard deviation over seeds; 0 for one."""
        values = [getattr(result, name) for result in self.results]
        is_known = len(values) > 1 and all(math.isfinite(value) for value in values)
        return statistics.stdev(values) if is_known else 0.0


def summarise(pairs: Sequence[tuple[Trial, Result]]) -> list[Row]:
    """Rows in the order in which their labels first appear."""
    grouped: dict[str, list[tuple[Trial, Result]]] = {}
    for trial, result in pairs:
        grouped.setdefault(trial.label, []).append((trial, result))
    return [
        Row(
            label=label,
            family=members[0][0].family,
            trials=tuple(trial for trial, _ in members),
            results=tuple(result for _, result in members),
        )
        for label, members in grouped.items()
    ]


def front(rows: Sequence[Row]) -> list[Row]:
    """Rows that no other one beats in both loss and bytes, fewest bytes first."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda r: (r.mean("bytes_per_node"), r.mean("loss"))):
        if math.isfinite(row.mean("loss")) and (not best or row.mean("loss") < best[-1].mean("loss")):
            best.append(row)
    return best


def cells_of(row: Row, *, is_on_front: bool) -> tuple[str, ...]:
    """One line of the table, a text per column."""
    is_meeting = row.family is Family.MEETINGS
    deviation = f" +/- {row.deviation('loss'):.4f}" if len(row.results) > 1 else ""
    return (
        row.label + (" *" if is_on_front else ""),
        f"{row.mean('loss'):.4f}{deviation}",
        f"{row.mean('loss_averaged'):.4f}",
        _accuracy(row),
        f"{row.mean('spread'):.5f}",
        f"{row.mean('bytes_per_node') / 1024:,.0f}",
        f"{row.mean('meetings'):,.0f}" if is_meeting else "",
        f"{row.mean('captured_ratio'):.3f}" if is_meeting else "",
        f"{row.mean('duration_steps'):,.0f}",
        f"{row.mean('seconds'):.0f}",
    )


def _accuracy(row: Row) -> str:
    """Empty for language models."""
    if not math.isfinite(row.mean("accuracy")):
        return ""
    deviation = f" +/- {row.deviation('accuracy'):.2%}" if len(row.results) > 1 else ""
    return f"{row.mean('accuracy'):.2%}{deviation}"


def describe(rows: Sequence[Row]) -> str:
    """The setting that all rows share, in one line."""
    trial, result = rows[0].trials[0], rows[0].results[0]
    training = trial.manifest.training
    return (
        f"{trial.replicas} replicas, {result.parameters:,} parameters, {training.total_steps:,} steps of "
        f"{trial.manifest.tokens_per_step:,} tokens, {max(len(row.results) for row in rows)} seed(s), "
        f"shards {trial.shards}, speeds {trial.speeds}, message delay {trial.delay_steps:g} steps"
    )


def parts_of(rows: Sequence[Row]) -> list[str]:
    """What bytes were for, and what rank was left, a line for each method that sends by turns different things."""
    return [
        f"{row.label}: KiB per node by part: "
        + ", ".join(f"{part} {amount / 1024:,.0f}" for part, amount in row.bytes_by_part.items())
        + f"; rank after the last split {row.mean('rank_ratio'):.0%}"
        for row in rows
        if row.bytes_by_part
    ]


def markdown(rows: Sequence[Row]) -> str:
    """A page with the table."""
    best = front(rows)
    lines = [
        "# bench methods",
        "",
        describe(rows) + ".",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + " :--- |" + " ---: |" * (len(COLUMNS) - 1),
        *("| " + " | ".join(cells_of(row, is_on_front=row in best)) + " |" for row in rows),
        "",
        BYTES_NOTE,
        "",
        *(f"* {line}" for line in parts_of(rows)),
    ]
    return "\n".join(lines)


def summary_json(rows: Sequence[Row]) -> dict[str, object]:
    """All rows with their numbers, means and deviations over seeds; curves are in the trials' own files."""
    names = (
        "loss",
        "loss_averaged",
        "spread",
        "bytes_per_node",
        "tokens",
        "duration_steps",
        "captured_ratio",
        "meetings",
        "accuracy",
        "accuracy_averaged",
    )
    best = front(rows)
    return {
        "setting": describe(rows),
        "rows": [
            {
                "label": row.label,
                "family": row.family.value,
                "seeds": [trial.seed for trial in row.trials],
                "keys": [trial.key for trial in row.trials],
                "is_on_front": row in best,
                "mean": {name: _finite(row.mean(name)) for name in names},
                "deviation": {name: _finite(row.deviation(name)) for name in names},
                "bytes_by_part": row.bytes_by_part,
                "rank_ratio": row.mean("rank_ratio"),
                "manifest": asdict(row.trials[0].manifest),
                "ab_training": asdict(row.trials[0].ab_training) if row.family is Family.AB_TRAINING else None,
            }
            for row in rows
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
