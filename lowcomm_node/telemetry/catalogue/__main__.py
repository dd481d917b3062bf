"""Prints the reference page: ``python -m lowcomm_node.telemetry.catalogue > docs/metrics.md``."""

import sys
from collections.abc import Iterable

from lowcomm_node.telemetry.catalogue import CATALOGUE
from lowcomm_node.telemetry.metric import Metric, label_sets


def _series(metric: Metric) -> int:
    if metric.needs:
        return 0
    combinations = sum(1 for _ in label_sets(metric)) if metric.kind != "info" else 1
    return combinations * (len(metric.buckets) + 3 if metric.kind == "histogram" else 1)


def _row(metric: Metric) -> str:
    if metric.kind == "info":
        labels = ", ".join(metric.labels)
    else:
        labels = "; ".join(f"{name}: {' '.join(values)}" for name, values in metric.labels.items())
    cells = (f"`lowcomm_{metric.name}`", metric.kind, metric.unit, labels, metric.help, metric.used_by)
    return f"| {' | '.join(cells)} |"


def _document(metrics: Iterable[Metric]) -> str:
    """The reference page, in Markdown."""
    listed = tuple(metrics)
    series = sum(_series(metric) for metric in listed)
    lines = [
        "# Metrics",
        "",
        "Generated from `lowcomm_node/telemetry/catalogue/` by `python -m lowcomm_node.telemetry.catalogue`; do not edit.",
        "",
        f"A node answers `GET /metrics` on its local port (`metrics.host`, `metrics.port`) with {series} series of its own,",
        "all of which exist from the start; those of GPUs come on top where there are any and nvidia-ml-py is installed",
        '(`pip install lowcomm-node[gpu]`), and those of AB-training in runs with `outer.method = "ab"`. `process_*` describe the daemon\'s process and `lowcomm_trainer_process_*`',
        "the trainer's (Linux). A gauge whose zero would be a lie is NaN until it is first measured.",
        "Counters fall to zero when the daemon starts again; a restart of the trainer does not show in them.",
        "",
        "| name | kind | unit | labels | meaning | question it answers |",
        "|---|---|---|---|---|---|",
        *(_row(metric) for metric in listed),
        "",
    ]
    return "\n".join(lines)


sys.stdout.write(_document(CATALOGUE))
