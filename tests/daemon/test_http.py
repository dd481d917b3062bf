"""The local HTTP port, asked over a real socket."""

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from lowcomm_node.daemon.http import Health, LocalHttp
from lowcomm_node.errors import ConfigError
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import Status, TrainingStatus

_HEALTHY = Health(loop_beat_s=100.0, trainer_beat_s=100.0, is_joined=True, has_state=True, is_leaving=False)


class Node:
    """What the server looks at, set by the tests."""

    def __init__(self) -> None:
        self.now = 100.0
        self.health = _HEALTHY
        self.metrics: Callable[[], bytes] = lambda: b"lowcomm_x 1\n"

    def exposition(self) -> bytes:
        return self.metrics()

    def serve(self, port: int = 0) -> LocalHttp:
        server = LocalHttp(
            host="127.0.0.1",
            port=port,
            metrics=self.exposition,
            status=lambda: Status(state="training", training=TrainingStatus(steps=7)),
            health=lambda: self.health,
            clock=lambda: self.now,
        )
        server.start()
        return server


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def server(node: Node) -> Iterator[LocalHttp]:
    server = node.serve()
    yield server
    server.stop()


def _ask(server: LocalHttp, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()
    finally:
        connection.close()


def test_metrics_are_the_given_bytes(server: LocalHttp) -> None:
    """The exposition goes out as it is, under Prometheus' content type."""
    status, kind, body = _ask(server, "/metrics")

    assert (status, body) == (200, b"lowcomm_x 1\n")
    assert kind.startswith("text/plain; version=0.0.4")


def test_status_is_json_with_all_fields(server: LocalHttp) -> None:
    """Fields have the names of the contract, numbers are numbers, zeros are there."""
    status, kind, body = _ask(server, "/status")

    read = json.loads(body)
    assert (status, kind) == (200, "application/json")
    assert set(read) == {field.name for field in Status.DESCRIPTOR.fields}
    assert read["training"]["steps"] == 7
    assert read["meetings"]["completed"] == 0


def test_a_living_node_is_live_and_ready(server: LocalHttp) -> None:
    """Both probes answer 200."""
    assert _ask(server, "/livez") == (200, "text/plain; charset=utf-8", b"ok\n")
    assert _ask(server, "/readyz")[0] == 200


def test_an_old_heartbeat_of_the_loop_is_death(node: Node, server: LocalHttp) -> None:
    """A loop that has not come round is reported by the thread that still can."""
    node.now += 9.0
    assert _ask(server, "/livez")[0] == 200

    node.now += 2.0
    status, _, body = _ask(server, "/livez")
    assert status == 503
    assert b"event loop" in body


def test_a_silent_trainer_is_death_only_while_one_is_expected(node: Node, server: LocalHttp) -> None:
    """A wedged trainer makes the node dead; none at all (starting, finished) does not."""
    node.now = 1000.0
    node.health = replace(_HEALTHY, loop_beat_s=1000.0)
    status, _, body = _ask(server, "/livez?verbose")
    assert status == 503
    assert json.loads(body)["ok"] is False
    assert "trainer" in json.loads(body)["reasons"][0]

    node.health = replace(_HEALTHY, loop_beat_s=1000.0, trainer_beat_s=None)
    assert _ask(server, "/livez")[0] == 200


@pytest.mark.parametrize(
    ("health", "word"),
    [
        (replace(_HEALTHY, is_joined=False), "member"),
        (replace(_HEALTHY, has_state=False), "state"),
        (replace(_HEALTHY, is_leaving=True), "leave"),
    ],
)
def test_readiness_names_what_is_missing_and_is_not_liveness(
    node: Node, server: LocalHttp, health: Health, word: str
) -> None:
    """A node without run or state, or about to leave, is not ready, but restarting it would cure nothing."""
    node.health = health

    status, _, body = _ask(server, "/readyz?verbose")

    assert status == 503
    assert word in json.loads(body)["reasons"][0]
    assert _ask(server, "/livez")[0] == 200


def test_nothing_else_is_there_and_nothing_can_be_changed(server: LocalHttp) -> None:
    """Unknown paths are 404 with the known ones named, other methods 405."""
    status, _, body = _ask(server, "/debug")
    assert status == 404
    assert b"/metrics" in body
    for method in ("POST", "PUT", "DELETE", "HEAD"):
        assert _ask(server, "/metrics", method)[0] == 405


def test_a_failing_view_leaves_the_others(node: Node, server: LocalHttp) -> None:
    """An error in one callable is a 500 of that path without a word of its insides."""

    def broken() -> bytes:
        raise RuntimeError("inside")

    node.metrics = broken
    status, _, body = _ask(server, "/metrics")

    assert status == 500
    assert b"inside" not in body
    assert _ask(server, "/livez")[0] == 200


def test_idle_connections_are_bounded(server: LocalHttp) -> None:
    """Clients that connect and say nothing take a bounded number of threads; the next one is turned away at once."""
    address = ("127.0.0.1", server.port)
    idle = [socket.create_connection(address, timeout=10) for _ in range(8)]
    try:
        with socket.create_connection(address, timeout=10) as ninth:
            assert ninth.recv(1) == b""
    finally:
        for connection in idle:
            connection.close()


def test_a_port_in_use_is_one_clear_error(node: Node, server: LocalHttp) -> None:
    """The error names the setting, the port and the way out."""
    with pytest.raises(ConfigError, match=rf"metrics\.port = {server.port}.*in use.*0 picks a free one"):
        node.serve(server.port)


def test_a_stopped_server_gives_its_port_back(node: Node) -> None:
    """The same port can be had again at once; stopping twice does no harm."""
    first = node.serve()
    port = first.port
    first.stop()
    first.stop()

    second = node.serve(port)
    try:
        assert second.port == port
        assert _ask(second, "/livez")[0] == 200
    finally:
        second.stop()
