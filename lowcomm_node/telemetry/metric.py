"""What a metric is. The tables of all metrics are in ``catalogue``."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

__all__ = ["UNMEASURED", "Metric", "label_sets"]

UNMEASURED = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric as it is exposed, under the prefix ``lowcomm_``."""

    name: str
    kind: Literal["counter", "gauge", "histogram", "info"]
    """info is a gauge that is always 1 and carries identity in labels that are filled at start."""
    help: str
    used_by: str
    """The question it answers."""
    unit: str = ""
    """Base unit of its value (seconds, bytes, steps, tokens, nats, joules, celsius, ratio); empty for a plain number."""
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Label name to its closed set of values; the values of an info metric are open and written once."""
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram, without infinity."""
    initial: float = 0.0
    """Of a gauge before its first value: NaN where zero would be a lie."""
    is_explored: bool = False
    """No dashboard and no alert shows it; it is there for whoever looks into something."""
    needs: Literal["", "gpu", "ab"] = ""
    """What a machine, or a run (AB-training), must have for this metric to exist."""


def label_sets(metric: Metric) -> Iterator[tuple[str, ...]]:
    """Every combination of label values of a metric, in the order of ``metric.labels``."""
    return product(*metric.labels.values())
