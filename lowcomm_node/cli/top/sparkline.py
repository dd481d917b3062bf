"""A series of numbers in one line of text."""

from collections.abc import Sequence
from itertools import pairwise

__all__ = ["bar", "differences", "sparkline"]

_STEPS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> str:
    """``values`` from left to right in at most ``width`` characters, from the lowest to the highest of them.

    0 is a value that is not known, and leaves a gap. Several values that share a character show as their mean.
    """
    if not values or width < 1:
        return ""
    columns = min(width, len(values))
    means = []
    for column in range(columns):
        part = values[column * len(values) // columns : (column + 1) * len(values) // columns]
        known = [value for value in part if value]
        means.append(sum(known) / len(known) if known else None)
    seen = [mean for mean in means if mean is not None]
    if not seen:
        return ""
    low, span = min(seen), max(seen) - min(seen)
    return "".join(
        " " if mean is None else _STEPS[round((mean - low) / span * (len(_STEPS) - 1)) if span else 0] for mean in means
    )


def bar(share: float, width: int) -> str:
    """How much of a whole, 0 to 1."""
    done = round(min(1.0, max(0.0, share)) * width)
    return "█" * done + "░" * (width - done)


def differences(values: Sequence[float]) -> list[float]:
    """How much was added from each to the next; never negative, so that a restart is no spike."""
    return [max(0.0, later - earlier) for earlier, later in pairwise(values)]
