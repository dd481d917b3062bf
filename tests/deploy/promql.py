"""Reads PromQL as Prometheus does, and says of a query what it asks for and which labels its result has."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import promql_parser

from lowcomm_node.telemetry.catalogue import CATALOGUE
from lowcomm_node.telemetry.metric import Metric

__all__ = ["TARGET_LABELS", "check", "expand", "metrics_in", "result_labels", "selectors_in"]

TARGET_LABELS = frozenset({"job", "run_id", "instance"})
"""What Prometheus adds to each series of a node."""
_METRICS: Mapping[str, Metric] = {f"lowcomm_{metric.name}": metric for metric in CATALOGUE}
_SUFFIXES = ("_bucket", "_sum", "_count")
_FOREIGN: Mapping[str, frozenset[str]] = {
    "up": frozenset(),
    "ALERTS": frozenset({"alertname", "alertstate", "severity"}),
    **{
        f"{prefix}process_{name}": frozenset()
        for prefix in ("", "lowcomm_trainer_")
        for name in ("resident_memory_bytes", "cpu_seconds_total", "start_time_seconds")
    },
}
"""Series that are not the catalogue's: Prometheus' own, and those of the client library."""
_KEEPING = {"topk", "bottomk"}
_SET_OPERATORS = {"and", "unless", "or"}


def expand(expr: str, variables: Mapping[str, str]) -> str:
    """The query as Grafana sends it; any variable that is left is a mistake."""
    text = expr
    for name in sorted(variables, key=len, reverse=True):
        text = text.replace(f"${name}", variables[name])
    assert "$" not in text, f"a variable that nobody fills in: {text}"
    return text


def check(expr: str, recordings: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Refuse what names an unknown metric, label or label value anywhere; returns the labels of the result.

    ``recordings`` are the recorded series with their labels.
    """
    for node in _walk(promql_parser.parse(expr)):
        if isinstance(node, promql_parser.VectorSelector):
            _check_selector(node, recordings)
    return result_labels(promql_parser.parse(expr), recordings) or frozenset()


def metrics_in(expr: str) -> Iterator[str]:
    """Names of the catalogue that a query uses, without their prefix."""
    for node in _walk(promql_parser.parse(expr)):
        if isinstance(node, promql_parser.VectorSelector) and (metric := _metric(node.name)) is not None:
            yield metric.name


def selectors_in(expr: str) -> Iterator[str]:
    """Each selector of a query, as it stands and without an offset."""
    for node in _walk(promql_parser.parse(expr)):
        if isinstance(node, promql_parser.VectorSelector):
            yield f"{node.name}{{{','.join(_written(matcher) for matcher in node.matchers.matchers)}}}"


def _written(matcher: Any) -> str:
    signs = {"Equal": "=", "NotEqual": "!=", "Re": "=~", "NotRe": "!~"}
    return f'{matcher.name}{signs[str(matcher.op).rpartition(".")[2]]}"{matcher.value}"'


def result_labels(node: Any, recordings: Mapping[str, frozenset[str]]) -> frozenset[str] | None:
    """Labels that the result's series have; None of a number. Refuses to group or match by a label that is not there."""
    match node:
        case promql_parser.VectorSelector():
            return _labels_of(node.name, recordings)
        case promql_parser.MatrixSelector():
            return _labels_of(node.vector_selector.name, recordings)
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr() | promql_parser.SubqueryExpr():
            return result_labels(node.expr, recordings)
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            return None
        case promql_parser.Call():
            return _of_call(node, recordings)
        case promql_parser.AggregateExpr():
            return _of_aggregate(node, recordings)
        case promql_parser.BinaryExpr():
            return _of_binary(node, recordings)
    raise AssertionError(f"no rule for {node}")


def _of_call(node: Any, recordings: Mapping[str, frozenset[str]]) -> frozenset[str] | None:
    if node.func.name in {"time", "pi"}:
        return None
    if node.func.name == "vector":
        return frozenset()
    inner = [labels for argument in node.args if (labels := result_labels(argument, recordings)) is not None]
    assert len(inner) == 1, f"one vector goes into {node.func.name}"
    return inner[0] - {"le"} if node.func.name == "histogram_quantile" else inner[0]


def _of_aggregate(node: Any, recordings: Mapping[str, frozenset[str]]) -> frozenset[str]:
    inner = result_labels(node.expr, recordings)
    assert inner is not None
    if str(node.op) in _KEEPING:
        return inner
    if node.modifier is None:
        return frozenset()
    named = frozenset(node.modifier.labels)
    assert named <= inner, f"grouped by {set(named - inner)}, which {node.expr.prettify()} does not have"
    return named if node.modifier.type == promql_parser.AggModifierType.By else inner - named


def _of_binary(node: Any, recordings: Mapping[str, frozenset[str]]) -> frozenset[str] | None:
    left, right = (result_labels(side, recordings) for side in (node.lhs, node.rhs))
    if left is None or right is None:
        return left if right is None else right
    operator = str(node.op)
    matching = node.modifier.matching if node.modifier is not None else None
    if operator == "or":
        return left & right
    if matching is None:
        assert left == right, f"{set(left ^ right)} stand on one side alone of: {node.prettify()}"
        return left
    on = frozenset(matching.labels)
    assert on <= left & right, f"matched on {set(on - (left & right))}, which one side does not have"
    is_many_to_one = "group_left" in str(node.modifier)
    return left if operator in _SET_OPERATORS or is_many_to_one else on


def _check_selector(node: Any, recordings: Mapping[str, frozenset[str]]) -> None:
    known = _labels_of(node.name, recordings)
    metric = _metric(node.name)
    for matcher in node.matchers.matchers:
        assert matcher.name in known, f"{node.name} has no label {matcher.name}"
        values = metric.labels.get(matcher.name, ()) if metric is not None else ()
        if values:
            for word in re.split(r"\|", matcher.value):
                assert word in values, f'{node.name}: {matcher.name} is never "{word}"'


def _labels_of(name: str | None, recordings: Mapping[str, frozenset[str]]) -> frozenset[str]:
    assert name is not None, "every selector names its metric"
    if name in recordings:
        return recordings[name]
    if name in _FOREIGN:
        return TARGET_LABELS | _FOREIGN[name]
    metric = _metric(name)
    assert metric is not None, f"{name} is not in the catalogue"
    return TARGET_LABELS | frozenset(metric.labels) | ({"le"} if name.endswith("_bucket") else frozenset())


def _metric(name: str | None) -> Metric | None:
    """The entry behind a series; a histogram alone has suffixes, and nothing but them."""
    name = name or ""
    for suffix in _SUFFIXES:
        metric = _METRICS.get(name.removesuffix(suffix))
        if name.endswith(suffix) and metric is not None and metric.kind == "histogram":
            return metric
    metric = _METRICS.get(name)
    return metric if metric is not None and metric.kind != "histogram" else None


def _walk(node: Any) -> Iterator[Any]:
    yield node
    for name in ("lhs", "rhs", "expr", "vector_selector", "param"):
        child = getattr(node, name, None)
        if child is not None:
            yield from _walk(child)
    for argument in getattr(node, "args", ()):
        yield from _walk(argument)
