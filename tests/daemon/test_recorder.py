"""One record of each happening: counter and log line of it cannot differ, and neither comes twice."""

from structlog.testing import capture_logs

from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.errors import DirectoryError, DirectoryTimeoutError
from lowcomm_node.settings.streams import Period
from lowcomm_node.telemetry.metrics import Metrics
from lowcomm_node.units import Reachability, Stream


def _lines(metrics: Metrics, name: str) -> list[str]:
    """What is not zero of a metric."""
    page = metrics.exposition().decode().splitlines()
    return [line for line in page if line.startswith(f"lowcomm_{name}{{") and not line.endswith(" 0.0")]


def test_the_directory_ends_well_in_time_or_with_an_error() -> None:
    """A request that nobody answered is told apart from one that failed."""
    metrics = Metrics()
    recorder = Recorder(metrics)

    with capture_logs() as logs:
        recorder.directory_asked("get", 0.1)
        recorder.directory_asked("get", 15.0, DirectoryTimeoutError("no answer in 15 s"))
        recorder.directory_asked("put", 0.1, DirectoryError("no node took it"))

    assert _lines(metrics, "dht_requests_total") == [
        'lowcomm_dht_requests_total{operation="get",outcome="ok"} 1.0',
        'lowcomm_dht_requests_total{operation="get",outcome="timeout"} 1.0',
        'lowcomm_dht_requests_total{operation="put",outcome="error"} 1.0',
    ]
    assert [line["detail"] for line in logs] == ["no answer in 15 s", "no node took it"]


def test_reachability_is_shown_and_logged_by_one_record() -> None:
    """The gauge says what the newest line says."""
    metrics = Metrics()
    recorder = Recorder(metrics)

    with capture_logs() as logs:
        recorder.reached(Reachability.PUBLIC, is_measured=False)
        recorder.reached(Reachability.RELAYED, is_measured=True)

    assert _lines(metrics, "reachability") == ['lowcomm_reachability{reachability="relayed"} 1.0']
    assert [(line["event"], line["reachability"], line["is_measured"]) for line in logs] == [
        ("reachability", "public", False),
        ("reachability", "relayed", True),
    ]


def test_a_period_is_one_event() -> None:
    """With its reason: much of it follows from the manifest without standing there."""
    with capture_logs() as logs:
        Recorder(Metrics()).periods_chosen([Period(stream=Stream.PARAMS, every_steps=5, reason="set in the manifest")])

    assert logs == [
        {
            "event": "exchange_period",
            "log_level": "info",
            "component": "node",
            "stream": Stream.PARAMS,
            "every_steps": 5,
            "reason": "set in the manifest",
        }
    ]
