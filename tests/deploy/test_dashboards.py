"""The dashboards are sound without Grafana: their JSON, their grid, and every query against the catalogue."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana import generate
from deploy.grafana.build import Dashboard, Panel, Query
from deploy.grafana.generate import DASHBOARDS
from deploy.prometheus.generate import ALERTS
from deploy.prometheus.recording import RECORDINGS
from lowcomm_node.telemetry.catalogue import CATALOGUE
from tests.deploy.promql import check, expand, metrics_in

_GRAFANA = Path(generate.__file__).parent
_FILLED = {"__rate_interval": "1m", "__interval": "15s", "__range": "1h", "job": ".*", "run": ".*", "instance": "a"}
_UNITS = {"none", "short", "s", "bytes", "Bps", "percentunit", "ops", "celsius", "watt"}


def _queries() -> Iterator[tuple[str, Panel, Query]]:
    for dashboard in DASHBOARDS:
        for row in dashboard.rows:
            for panel in row.panels:
                for query in panel.queries:
                    yield f"{dashboard.uid}: {panel.title}", panel, query


_QUERIES = tuple(_queries())


def _flat(dashboard: Dashboard) -> list[dict[str, Any]]:
    """All panels and headings, those inside of collapsed rows too."""
    panels = dashboard.json()["panels"]
    return [panel for outer in panels for panel in (outer, *outer.get("panels", ()))]


def test_the_files_are_fresh() -> None:
    """What is committed is what the generator writes: renew it with ``python -m deploy.grafana.generate``."""
    assert generate.main(["--check"]) == 0


@pytest.mark.parametrize(("name", "panel", "query"), _QUERIES, ids=[name for name, _, _ in _QUERIES])
def test_queries_ask_for_what_there_is(name: str, panel: Panel, query: Query) -> None:
    """Metrics, labels and label values of the catalogue, and a legend whose labels the result has."""
    labels = check(expand(query.expr, _FILLED), {})

    if panel.kind != "table":
        assert set(re.findall(r"{{ *(\w+) *}}", query.legend)) <= labels, name
    if len(panel.queries) > 1 and panel.kind != "table":
        assert query.legend, f"{name}: which line is which?"
    if labels and panel.kind == "stat":
        pytest.fail(f"{name}: a number that may be several")


def test_every_metric_is_shown_or_watched() -> None:
    """By a panel or an alert; what is not is marked in the catalogue as something to explore, and nothing else is."""
    expressions = [expand(query.expr, _FILLED) for _, _, query in _QUERIES]
    expressions += [*(alert.expr for alert in ALERTS), *(recording.expr for recording in RECORDINGS)]
    used = {name for expr in expressions for name in metrics_in(expr)}

    for metric in CATALOGUE:
        assert (metric.name in used) != metric.is_explored, metric.name


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_panels_have_what_a_reader_needs(dashboard: Dashboard) -> None:
    """A title of their own, a sentence that explains it, a unit, and the data source that was chosen."""
    panels = [panel for panel in _flat(dashboard) if panel["type"] != "row"]

    assert [title for title, count in Counter(panel["title"] for panel in panels).items() if count > 1] == []
    for panel in panels:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in _UNITS, panel["title"]
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_the_grid_is_sound(dashboard: Dashboard) -> None:
    """Ids are unique, nothing overlaps, nothing reaches beyond the 24 columns, and rows have no holes that a panel would fill."""
    everything = _flat(dashboard)
    places = [panel["gridPos"] for panel in everything]

    assert len({panel["id"] for panel in everything}) == len(everything)
    for place in places:
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        under = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or under


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_dashboards_are_provisioned_as_files(dashboard: Dashboard) -> None:
    """Classic JSON of schema 39 without inputs, which provisioning never fills in; linked to the others by a tag."""
    document = json.loads((_GRAFANA / f"dashboards/{dashboard.uid.removeprefix('lowcomm-')}.json").read_text())
    variables = {variable["name"]: variable for variable in document["templating"]["list"]}

    assert document["schemaVersion"] == 39
    assert "__inputs" not in document
    assert document["uid"] == dashboard.uid
    assert document["tags"] == document["links"][0]["tags"]
    assert document["links"][0]["includeVars"]
    assert document["links"][0]["keepTime"]
    assert variables["datasource"]["query"] == "prometheus"
    used = set(
        re.findall(r"\$(?!__)(\w+)", " ".join(q.expr for row in dashboard.rows for p in row.panels for q in p.queries))
    )
    assert used == variables.keys() - {"datasource"}
    for variable in dashboard.variables:
        assert variable.of in check(expand(variable.metric, _FILLED), {})


def test_provisioning_finds_the_dashboards_and_the_data() -> None:
    """A data source under a fixed name with the interval that Prometheus scrapes at, and a folder of files."""
    (source,) = yaml.safe_load((_GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((_GRAFANA / "provisioning/dashboards/lowcomm.yaml").read_text())["providers"]
    prometheus = yaml.safe_load((_GRAFANA.parent / "prometheus/prometheus.yml").read_text())

    assert source["uid"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    assert provider["type"] == "file"
    assert provider["allowUiUpdates"] is False
