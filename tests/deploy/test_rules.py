"""Alerts and recording rules are sound without Prometheus; that they fire is what promtool tests (test_prometheus.py)."""

import re
from pathlib import Path

import pytest
import yaml

from deploy.grafana.generate import DASHBOARDS
from deploy.prometheus import generate
from deploy.prometheus.alert import Alert, Recording
from deploy.prometheus.generate import ALERTS
from deploy.prometheus.recording import RECORDINGS
from tests.deploy.promql import check

_ROOT = Path(generate.__file__).parents[2]
_LEVELS = {"run": {"job", "run_id"}, "instance": {"job", "run_id", "instance"}}
_LABELS = {recording.record: frozenset(_LEVELS[recording.record.partition(":")[0]]) for recording in RECORDINGS}


def test_the_files_are_fresh() -> None:
    """What is committed is what the generator writes: renew it with ``python -m deploy.prometheus.generate``."""
    assert generate.main(["--check"]) == 0


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.record)
def test_recordings_have_the_labels_of_their_level(recording: Recording) -> None:
    """The name says which labels are left; and some alert asks for it."""
    assert re.fullmatch(r"[a-z]+:lowcomm_[a-z0-9_]+:[a-z0-9_]+", recording.record)
    assert check(recording.expr, _LABELS) == _LABELS[recording.record]
    others = [other.expr for other in RECORDINGS if other != recording]
    assert any(recording.record in expr for expr in (*others, *(alert.expr for alert in ALERTS)))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_alerts_ask_for_what_there_is_and_name_whom(alert: Alert) -> None:
    """Known metrics and labels; the summary names nothing that the result does not have, and always whom it is about."""
    labels = check(alert.expr, _LABELS)
    named = set(re.findall(r"{{ \$labels\.(\w+) }}", alert.summary))

    assert named <= labels
    assert named & {"instance", "run_id"} or alert.name == "TrainerRestarts"
    assert {"job", "run_id"} <= labels
    for case in alert.fires.fires_for:
        assert set(case) == labels


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_alerts_are_tried_both_ways(alert: Alert) -> None:
    """One history in which it fires and one in which it does not, of the same series: the difference is in what they say."""
    assert alert.fires.fires_for
    assert not alert.silent.fires_for
    assert alert.fires.history != alert.silent.history
    names = [{series.partition("{")[0] for series in case.history} for case in (alert.fires, alert.silent)]
    assert names[0] == names[1]


def test_every_alert_has_its_page() -> None:
    """The anchor that its runbook_url names is a heading of docs/runbooks.md."""
    headings = re.findall(r"^## (.+)$", (_ROOT / "docs/runbooks.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9-]", "", heading.lower().replace(" ", "-")) for heading in headings}
    (document,) = [yaml.safe_load((_ROOT / "deploy/prometheus/rules/lowcomm.alerts.yml").read_text())]
    rules = [rule for group in document["groups"] for rule in group["rules"]]

    assert len(rules) == len(ALERTS) == len({rule["alert"] for rule in rules})
    for rule in rules:
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert (_ROOT / page).is_file()
        assert anchor in anchors


def test_the_pages_name_panels_that_are_there() -> None:
    """What stands between asterisks is the title of a panel."""
    titles = {panel.title for dashboard in DASHBOARDS for row in dashboard.rows for panel in row.panels}

    for alert in ALERTS:
        for title in re.findall(r"\*([^*]+)\*", f"{alert.cause} {alert.look} {alert.cure}"):
            assert title in titles, alert.name


def test_prometheus_loads_all_rules() -> None:
    """Every file of rules is named by prometheus.yml."""
    folder = _ROOT / "deploy/prometheus"
    named = yaml.safe_load((folder / "prometheus.yml").read_text())["rule_files"]
    there = {f"rules/{path.name}" for path in (folder / "rules").glob("*.yml") if not path.name.endswith(".test.yml")}

    assert set(named) == there


def test_a_run_is_named_only_where_it_is_all_that_is_left() -> None:
    """What is said of a node names the node."""
    for alert in ALERTS:
        if "instance" in alert.fires.fires_for[0]:
            assert "$labels.instance" in alert.summary
