"""The reader of queries catches the mistakes it is there for."""

import pytest

from tests.deploy.promql import check, expand, metrics_in

_KEPT = {"run:kept:sum": frozenset({"job", "run_id"})}


@pytest.mark.parametrize(
    ("expr", "complaint"),
    [
        ("lowcomm_nothing_total", "not in the catalogue"),
        ("rate(lowcomm_meeting_duration_seconds[5m])", "not in the catalogue"),
        ("lowcomm_train_loss_bucket", "not in the catalogue"),
        ('lowcomm_peers{stat="reachable"}', "no label stat"),
        ('lowcomm_peers{state="reachabel"}', "never"),
        ('lowcomm_peers{state=~"reachable|dead"}', "never"),
        ("sum by (verb) (rate(lowcomm_dht_requests_total[5m]))", "grouped by"),
        ("lowcomm_train_loss / on (stream) lowcomm_train_loss", "matched on"),
        ("lowcomm_train_loss / lowcomm_peers", "one side alone"),
        ("lowcomm_train_loss - run:kept:sum", "one side alone"),
    ],
)
def test_a_mistake_is_refused(expr: str, complaint: str) -> None:
    """Unknown names, labels and values, wherever they stand."""
    with pytest.raises(AssertionError, match=complaint):
        check(expr, _KEPT)


def test_what_is_no_promql_is_refused() -> None:
    """By the parser itself."""
    with pytest.raises(ValueError, match=r"."):
        check("sum(lowcomm_train_loss", _KEPT)


@pytest.mark.parametrize(
    ("expr", "labels"),
    [
        ("lowcomm_train_loss", {"job", "run_id", "instance"}),
        ("sum(lowcomm_peers)", set()),
        ("topk(3, sum by (state) (lowcomm_peers))", {"state"}),
        ("sum without (state) (lowcomm_peers)", {"job", "run_id", "instance"}),
        ("histogram_quantile(0.5, sum by (le, job) (rate(lowcomm_meeting_duration_seconds_bucket[5m])))", {"job"}),
        ("lowcomm_train_loss - on (job, run_id) group_left () run:kept:sum", {"job", "run_id", "instance"}),
        ("time() - lowcomm_train_loss > 3", {"job", "run_id", "instance"}),
        (
            'lowcomm_peers{state="reachable"} and on (job) lowcomm_line_closed == 0',
            {"job", "run_id", "instance", "state"},
        ),
    ],
)
def test_labels_of_results(expr: str, labels: set[str]) -> None:
    """As Prometheus hands them on."""
    assert check(expr, _KEPT) == labels


def test_names_are_those_of_the_catalogue() -> None:
    """A histogram's series count for the histogram."""
    expr = "rate(lowcomm_meeting_duration_seconds_sum[5m]) / up + run:kept:sum"
    assert list(metrics_in(expr)) == ["meeting_duration_seconds"]


def test_a_variable_that_nobody_fills_in_is_refused() -> None:
    """Longer names are filled in before shorter ones that they begin with."""
    assert expand("rate(x[$__range]) $run $runs", {"__range": "1h", "run": "a", "runs": "b"}) == "rate(x[1h]) a b"
    with pytest.raises(AssertionError, match="nobody fills in"):
        expand("$other", {})
