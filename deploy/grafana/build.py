"""Dashboards as data: panels and rows in, Grafana's Classic JSON out, with no library of Grafana's.

schemaVersion 39 is read by Grafana 10.4 and whatever came after; newer ones move it on when they load it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["COLUMNS", "Dashboard", "Json", "Panel", "Query", "Row", "Variable"]

Json = dict[str, Any]

_SCHEMA_VERSION = 39
COLUMNS = 24
_TAG = "lowcomm"
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One PromQL expression of a panel."""

    expr: str
    legend: str = ""
    """May hold labels of the result in double braces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel; its place follows from its size and its row. Made by the functions of ``panels``."""

    kind: str
    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    width: int
    height: int
    defaults: Json = field(default_factory=dict)
    options: Json = field(default_factory=dict)
    transformations: tuple[Json, ...] = ()
    overrides: tuple[Json, ...] = ()
    needs: str = ""
    """As of a metric: what a machine or a run must have for this panel to show something."""

    def json(self, number: int, x: int, y: int) -> Json:
        """As Grafana has it, with this id at this place."""
        instant = self.kind in ("stat", "table")
        panel: Json = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": _DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": {
                "defaults": {"unit": self.unit, **self.defaults},
                "overrides": list(self.overrides),
            },
            "options": self.options,
            "targets": [
                {
                    "refId": chr(ord("A") + index),
                    "datasource": _DATASOURCE,
                    "editorMode": "code",
                    "expr": query.expr,
                    "legendFormat": query.legend or "__auto",
                    "instant": instant,
                    "range": not instant,
                    "format": "table"
                    if self.kind == "table"
                    else "heatmap"
                    if self.kind == "heatmap"
                    else "time_series",
                }
                for index, query in enumerate(self.queries)
            ],
        }
        if self.transformations:
            panel["transformations"] = list(self.transformations)
        return panel


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Panels under one heading, laid out from left to right."""

    title: str
    panels: tuple[Panel, ...]
    is_collapsed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A choice at the top of a dashboard: values of a label."""

    name: str
    label: str
    metric: str
    """Series whose label is listed, with its selector."""
    of: str
    """The label."""
    is_single: bool = False

    @property
    def query(self) -> str:
        """In Grafana's words."""
        return f"label_values({self.metric}, {self.of})"

    def json(self) -> Json:
        """As Grafana has it."""
        variable: Json = {
            "type": "query",
            "name": self.name,
            "label": self.label,
            "datasource": _DATASOURCE,
            "definition": self.query,
            "query": {"qryType": 1, "query": self.query, "refId": f"variable-{self.name}"},
            "refresh": 2,
            "sort": 1,
            "multi": not self.is_single,
            "includeAll": not self.is_single,
        }
        if not self.is_single:
            # Matches targets without the label, too.
            variable |= {"allValue": ".*", "current": {"selected": True, "text": ["All"], "value": ["$__all"]}}
        return variable


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """A whole one. Time range and variables are kept when one goes to another by its links."""

    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]

    def json(self) -> Json:
        """As Grafana reads it from a file."""
        return {
            "annotations": {"list": [_alerts()]},
            "description": self.description,
            "editable": False,
            "fiscalYearStartMonth": 0,
            "graphTooltip": 1,
            "id": None,
            "links": [
                {
                    "type": "dashboards",
                    "title": "LowComm",
                    "tags": [_TAG],
                    "asDropdown": False,
                    "includeVars": True,
                    "keepTime": True,
                    "icon": "external link",
                    "targetBlank": False,
                    "tooltip": "",
                    "url": "",
                }
            ],
            "panels": list(_laid_out(self.rows)),
            "refresh": "30s",
            "schemaVersion": _SCHEMA_VERSION,
            "tags": [_TAG],
            "templating": {
                "list": [
                    {
                        "type": "datasource",
                        "name": "datasource",
                        "label": "Data source",
                        "query": "prometheus",
                        "refresh": 1,
                    },
                    *(variable.json() for variable in self.variables),
                ]
            },
            "time": {"from": "now-1h", "to": "now"},
            "timepicker": {},
            "timezone": "",
            "title": self.title,
            "uid": self.uid,
            "version": 1,
        }


def _alerts() -> Json:
    return {
        "name": "Alerts",
        "enable": True,
        "hide": False,
        "iconColor": "red",
        "datasource": _DATASOURCE,
        "expr": 'ALERTS{alertstate="firing"}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{instance}}",
        "step": "30s",
    }


def _laid_out(rows: Sequence[Row]) -> Iterator[Json]:
    """Rows under each other, each a heading and its panels; panels of a collapsed row are inside of it."""
    number = y = 0
    for row in rows:
        number += 1
        heading: Json = {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": row.is_collapsed,
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
            "panels": [],
        }
        y += 1
        placed: list[Json] = []
        x = tallest = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            number += 1
            placed.append(panel.json(number, x, y))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
        if row.is_collapsed:
            heading["panels"] = placed
        yield heading
        if not row.is_collapsed:
            yield from placed
