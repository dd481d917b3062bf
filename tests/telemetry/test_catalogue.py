"""The catalogue keeps the naming rules, and the reference page is made from it."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lowcomm_node.core import answerer, initiated
from lowcomm_node.telemetry.catalogue import CATALOGUE
from lowcomm_node.telemetry.catalogue.words import PHASES
from lowcomm_node.telemetry.metric import Metric, label_sets

_ROOT = Path(__file__).parents[2]
_CLOSED_LABELS = {
    "state",
    "cause",
    "role",
    "reason",
    "stream",
    "codec",
    "direction",
    "operation",
    "outcome",
    "level",
    "kind",
    "link",
    "reachability",
    "side",
    "gpu",
    "event",
    "place",
    "memory",
    "phase",
    "layers",
    "factor",
}
_TARGET_LABELS = {"job", "instance", "run_id"}
"""What Prometheus gives each target (``/sd``): a metric's own label of that name would come out as exported_..."""


def _ids(metrics: Sequence[Metric]) -> list[str]:
    return [metric.name for metric in metrics]


@pytest.mark.parametrize("metric", CATALOGUE, ids=_ids(CATALOGUE))
def test_names_and_labels_follow_the_rules(metric: Metric) -> None:
    """Counters end in _total and nothing else does; infos in _info; labels are closed enums of snake_case words."""
    assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.name.endswith("_info") == (metric.kind == "info")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert not metric.unit or metric.name.removesuffix("_total").endswith((f"_{metric.unit}", "_loss"))
    if metric.name.removesuffix("_total").endswith(("_seconds", "_bytes", "_steps", "_tokens", "_ratio")):
        assert metric.unit
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert metric.help.endswith(".")
    assert "|" not in metric.help + metric.used_by  # they are cells of a table
    assert metric.used_by.endswith(("?", "."))
    assert not _TARGET_LABELS & set(metric.labels)
    if metric.kind != "info":
        assert set(metric.labels) <= _CLOSED_LABELS
        for values in metric.labels.values():
            assert values
            assert len(set(values)) == len(values)
            assert all(re.fullmatch(r"[a-z0-9_]+", value) for value in values)


def test_names_are_unique() -> None:
    """No metric is declared twice."""
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE)


def test_every_state_of_the_contract_is_a_label_value() -> None:
    """The states that control.proto names and those that node_state can show are the same."""
    proto = (_ROOT / "proto/lowcomm/v1/control.proto").read_text()
    line = re.search(r"string state = 4;\s*// (.*)", proto)
    assert line is not None
    states = next(metric for metric in CATALOGUE if metric.name == "node_state")

    assert {values[0] for values in label_sets(states)} == set(line[1].split())


def test_every_phase_of_a_meeting_is_a_label_value() -> None:
    """Those of either end, as reports and status have them; and no word means two."""
    phases = [phase.name.lower() for phase in (*initiated.Phase, *answerer._Phase)]

    assert list(PHASES) == phases


def test_the_reference_page_is_fresh() -> None:
    """docs/metrics.md is what the catalogue prints; renew it with python -m lowcomm_node.telemetry.catalogue."""
    printed = subprocess.run(
        [sys.executable, "-m", "lowcomm_node.telemetry.catalogue"],
        capture_output=True,
        text=True,
        check=True,
        cwd=_ROOT,
    ).stdout

    assert (_ROOT / "docs/metrics.md").read_text() == printed
