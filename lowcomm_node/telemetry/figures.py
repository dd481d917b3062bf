"""The style of our pictures. Colours are those of Okabe and Ito, which the colour-blind can tell apart."""

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lowcomm_node.errors import StoreError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLOURS", "STYLES", "new_figure", "new_panels", "save_figure", "save_panels"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")
_LEGEND_ROWS = 24


def new_figure(title: str, setting: str) -> "tuple[Figure, Axes]":
    """One panel."""
    figure, (axes,) = new_panels(title, setting, 1)
    return figure, axes


def new_panels(title: str, setting: str, count: int) -> "tuple[Figure, list[Axes]]":
    """Panels under each other; more than one share their x axis."""
    figure = Figure(figsize=(11, 6.5 if count == 1 else 2.9 * count), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0])
    panels[0].set_title(f"{title}\n{setting}", fontsize=9, loc="left")
    for axes in panels:
        axes.grid(visible=True, alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def save_figure(figure: Figure, axes: "Axes", path: Path) -> None:
    """Write a PNG with its legend beside the panel. Raises StoreError."""
    save_panels(figure, [axes], path)


def save_panels(figure: Figure, panels: "list[Axes]", path: Path) -> None:
    """Write a PNG with a legend beside each panel that has something to name. Raises StoreError."""
    for axes in panels:
        count = len(axes.get_legend_handles_labels()[0])
        if count:
            columns = -(-count // _LEGEND_ROWS)
            axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0), ncols=columns)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png")
    except OSError as error:
        raise StoreError(f"{path}: the plot cannot be written: {error.strerror}") from error
