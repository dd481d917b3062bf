"""What checkpoints cost, as cells of a table and as plain values."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict

from lowcomm_node.bench.checkpoints import CheckpointCost
from lowcomm_node.settings.node import CheckpointSettings

__all__ = ["CHECKPOINT_COLUMNS", "CHECKPOINT_NOTE", "checkpoint_cells", "checkpoint_json"]

_MIB = 1 << 20
CHECKPOINT_COLUMNS = (
    "state", "parameters", "pause", "of a step", "first", "memory", "write", "rate", "in place", "steps", "while written",
    "lost", "share",
)  # fmt: skip
CHECKPOINT_NOTE = (
    "pause: training stands still for the copy (median; first: the first one; memory: taken by the writing thread before it). write: that "
    "thread needs for the file, safe on disk; in place: the training thread would. steps: without and, as a multiple, while one is "
    "written (medians). lost: training time by pause and slower steps together, and its share at the default checkpoint.every_s."
)


def checkpoint_cells(cost: CheckpointCost) -> tuple[str, ...]:
    """One row, in the order of the columns."""
    pause_s, step_s = statistics.median(cost.pauses_s), cost.step_s
    slowdown, lost_s = cost.slowdown, cost.lost_s
    return (
        f"{cost.state_bytes / _MIB:.0f} MiB",
        f"{cost.parameters / 1e6:.1f} M",
        _milliseconds(pause_s),
        f"{pause_s / step_s:.2f}",
        _milliseconds(cost.first_pause_s),
        _milliseconds(cost.memory_s),
        f"{statistics.median(cost.writes_s):.2f} s",
        f"{cost.bytes_per_s / _MIB:.0f} MiB/s",
        f"{statistics.median(cost.in_place_s):.2f} s",
        _milliseconds(step_s),
        "-" if slowdown is None else f"{slowdown:.2f}, at most {max(cost.slowdowns):.2f}",
        "-" if lost_s is None else f"{lost_s:.2f} s",
        "-" if lost_s is None else f"{lost_s / CheckpointSettings().every_s:.2%}",
    )


def checkpoint_json(costs: Sequence[CheckpointCost]) -> list[dict[str, object]]:
    """All that was measured, durations in seconds, and the figures of the table."""
    return [
        {
            **asdict(cost),
            "step_s": cost.step_s,
            "slowdowns": cost.slowdowns,
            "slowdown": cost.slowdown,
            "bytes_per_s": cost.bytes_per_s,
            "lost_s": cost.lost_s,
        }
        for cost in costs
    ]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
