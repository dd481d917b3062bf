"""The local HTTP port, asked over a real socket."""

import http.client
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest

from lowcomm_node.adapters.vitals_book import VitalsBook
from lowcomm_node.daemon.board import Board
from lowcomm_node.daemon.http import LocalHttp, host_of
from lowcomm_node.daemon.views import Health, Views
from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.node import MetricsSettings
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
        board = Board(MetricsSettings(), VitalsBook(), lambda: 1000.0)
        status = Status(state="training", peer_id="P", run_id="ab", training=TrainingStatus(steps=7))
        board.show(status, None, 0.0)
        views = Views(metrics=self.exposition, board=board, health=lambda: self.health, clock=lambda: self.now)
        server = LocalHttp(host="127.0.0.1", port=port, names=["Node.example", ""], answer=views.answer)
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


def _ask(
    server: LocalHttp, path: str, method: str = "GET", headers: Mapping[str, str] = MappingProxyType({})
) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, headers=dict(headers))
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()
    finally:
        connection.close()


def test_a_paused_node_lives_and_is_not_ready(node: Node, server: LocalHttp) -> None:
    """Nothing that a restart could cure, and the one reason that matters."""
    node.health = replace(_HEALTHY, trainer_beat_s=None, has_state=False, paused_for="its owner has said so")

    assert _ask(server, "/livez")[0] == 200
    assert _ask(server, "/readyz")[::2] == (503, b"paused: its owner has said so\n")


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


def test_history_and_peers_are_json(server: LocalHttp) -> None:
    """The page and scripts read them under the names of the contract."""
    for path, field in (("/history", "validation_loss"), ("/peers", "peers")):
        status, kind, body = _ask(server, path)
        assert (status, kind) == (200, "application/json")
        assert field in json.loads(body)


def test_discovery_names_the_node_where_it_was_asked(server: LocalHttp) -> None:
    """Prometheus' format; a port that answers here answers there too."""
    status, kind, body = _ask(server, "/sd")

    assert (status, kind) == (200, "application/json")
    labels = {"run_id": "ab", "__meta_lowcomm_peer_id": "P", "__meta_lowcomm_whose": "own"}
    assert json.loads(body) == [{"targets": [f"127.0.0.1:{server.port}"], "labels": labels}]


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1:9464", "[::1]:9464", "192.0.2.7", "node.example"]
)
def test_own_names_and_addresses_are_answered(server: LocalHttp, host: str) -> None:
    """A page on the internet has none of these for a name."""
    assert _ask(server, "/status", headers={"Host": host})[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[", "node.example.", "0x7f.1"]
)
@pytest.mark.parametrize("path", ["/status", "/metrics", "/", "/nothing"])
def test_a_foreign_name_gets_nothing(server: LocalHttp, host: str, path: str) -> None:
    """A name on the internet that leads here by DNS rebinding reads nothing through somebody's browser."""
    status, kind, body = _ask(server, path, headers={"Host": host})

    assert (status, kind) == (421, "text/plain; charset=utf-8")
    assert b"allowed_hosts" in body


def test_the_host_is_what_stands_before_the_port() -> None:
    """Brackets, capitals and ports are no part of a name."""
    hosts = ["A.example:1", "[::1]:2", "10.0.0.1", "a@b.example:3", "b:c:d", ""]
    assert [host_of(host) for host in hosts] == ["a.example", "::1", "10.0.0.1", "b.example", "b", ""]


def test_nobody_frames_or_feeds_the_page(server: LocalHttp) -> None:
    """Each answer says that scripts, styles and data come from this port alone, and that other pages may not show it."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/")
    response = connection.getresponse()
    response.read()
    connection.close()

    policy = response.headers["Content-Security-Policy"]
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in response.headers


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
