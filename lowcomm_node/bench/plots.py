"""Three pictures of a comparison."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from lowcomm_node.bench.methods import Family
from lowcomm_node.bench.summary import Row, describe, front
from lowcomm_node.bench.trial import Point
from lowcomm_node.telemetry.figures import COLOURS, STYLES, new_figure, save_figure

__all__ = ["plot_bytes", "plot_spread", "plot_tokens"]

_MARKERS = {
    Family.DDP: "s",
    Family.DION_SYNC: "P",
    Family.LOCAL: "X",
    Family.AVERAGE: "^",
    Family.DILOCO: "D",
    Family.NOLOCO: "v",
    Family.AB_TRAINING: "p",
    Family.MEETINGS: "o",
}
_FRONT_COLOUR = "#999999"


def plot_bytes(rows: Sequence[Row], path: Path) -> None:
    """Loss against bytes per node, with the front. Raises StoreError."""
    figure, axes = new_figure("Loss against traffic", describe(rows))
    sending = [row for row in rows if row.mean("bytes_per_node") > 0]
    for index, row in enumerate(rows):
        if row in sending:
            axes.errorbar(
                row.mean("bytes_per_node") / 1024,
                row.mean("loss"),
                yerr=row.deviation("loss"),
                fmt=_MARKERS[row.family],
                color=COLOURS[index % len(COLOURS)],
                markersize=6,
                capsize=3,
                label=row.label,
            )
        else:
            axes.axhline(
                row.mean("loss"),
                color=COLOURS[index % len(COLOURS)],
                linestyle="--",
                linewidth=1.0,
                label=f"{row.label}: 0",
            )
    if sending:
        axes.set_xscale("log")
        best = front(sending)
        xs = [row.mean("bytes_per_node") / 1024 for row in best]
        # Between two methods of the front nothing was measured: a step down at each.
        axes.step(xs, [row.mean("loss") for row in best], where="post", color=_FRONT_COLOUR, linewidth=1.0, zorder=0)
    axes.set_xlabel("sent per node (KiB, whole run)")
    axes.set_ylabel("validation loss, mean over replicas (nats per token)")
    save_figure(figure, axes, path)


def plot_tokens(rows: Sequence[Row], path: Path) -> None:
    """Loss against tokens during the run. Raises StoreError."""
    figure, axes = new_figure("Loss during the run", describe(rows))
    for index, row in enumerate(rows):
        points = _mean_curve(row)
        tokens = [point.tokens for point in points]
        losses = [point.loss for point in points]
        axes.plot(
            tokens,
            losses,
            color=COLOURS[index % len(COLOURS)],
            linestyle=STYLES[index // len(COLOURS) % len(STYLES)],
            linewidth=1.4,
            label=row.label,
        )
    axes.set_xlabel("tokens, all replicas together")
    axes.set_ylabel("validation loss, mean over replicas (nats per token)")
    save_figure(figure, axes, path)


def plot_spread(rows: Sequence[Row], path: Path) -> None:
    """Spread against learning rate while it falls, where replicas differ. Raises StoreError."""
    figure, axes = new_figure("Spread against learning rate, from its peak to the end", describe(rows))
    for index, row in enumerate(rows):
        points = [point for point in _falling(_mean_curve(row)) if point.spread > 0 and point.learning_rate > 0]
        if points:
            axes.plot(
                [point.learning_rate for point in points],
                [point.spread for point in points],
                color=COLOURS[index % len(COLOURS)],
                linestyle=STYLES[index // len(COLOURS) % len(STYLES)],
                marker=_MARKERS[row.family],
                markersize=4,
                linewidth=0.9,
                label=row.label,
            )
    if axes.lines:
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_xlabel("learning rate of the inner optimizer")
    axes.set_ylabel("spread: rms distance from the mean, per parameter")
    save_figure(figure, axes, path)


def _mean_curve(row: Row) -> list[Point]:
    """Look by look, the mean over seeds; looks that not all seeds have are left out."""
    curve = []
    for looks in zip(*(result.curve for result in row.results), strict=False):
        means = {name: statistics.fmean(getattr(look, name) for look in looks) for name in Point.__dataclass_fields__}
        if all(math.isfinite(value) for value in means.values()):
            curve.append(Point(**means | {"tokens": looks[0].tokens}))
    return curve


def _falling(curve: list[Point]) -> list[Point]:
    """From the highest learning rate on: before it spread grows from zero, whatever the rate."""
    peak = max(range(len(curve)), key=lambda index: curve[index].learning_rate, default=0)
    return curve[peak:]
