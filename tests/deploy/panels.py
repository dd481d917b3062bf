"""Every panel of every dashboard, asked of a real Prometheus."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from deploy.grafana.generate import DASHBOARDS
from tests.deploy.promql import expand

__all__ = ["faults"]


def faults(query: Callable[[str], list[dict[str, Any]]], variables: Mapping[str, str]) -> list[str]:
    """What a viewer would miss, in words: a query that is empty or NaN, a legend without its label. What needs a GPU or AB-training may be empty.

    ``query`` returns the series of an instant query; ``variables`` are what would be chosen at the top of a dashboard.
    """
    wrong = []
    for dashboard in DASHBOARDS:
        for panel in (panel for row in dashboard.rows for panel in row.panels):
            for asked in panel.queries:
                expr = expand(asked.expr, variables)
                found = query(expr)
                if not found and not panel.needs:
                    wrong.append(f"{dashboard.uid}, {panel.title}: nothing comes of {expr}")
                if any(math.isnan(float(series["value"][1])) for series in found):
                    wrong.append(f"{dashboard.uid}, {panel.title}: NaN comes of {expr}")
                named = set(re.findall(r"{{ *(\w+) *}}", asked.legend))
                if any(not named <= series["metric"].keys() for series in found):
                    wrong.append(f"{dashboard.uid}, {panel.title}: the legend {asked.legend} has no value")
    return wrong
