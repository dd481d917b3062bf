"""The local page and discovery, as a browser and a Prometheus see them: two real nodes, a real Chromium."""

import http.client
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from lowcomm_node.adapters.vitals_book import VitalsBook
from lowcomm_node.daemon.board import Board
from lowcomm_node.daemon.http import LocalHttp
from lowcomm_node.daemon.views import Health, Views
from lowcomm_node.settings.node import MetricsSettings
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import Peer, Peers, Status, TrainingStatus
from tests.system.browser import CHROMIUM, Browser
from tests.system.real_nodes import TINY_MANIFEST, RealNode, wait_until

_PATIENCE_S = 150
pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI_NEEDS_CHROMIUM"),
    reason="chromium is not installed (.ci/tools chromium)",
)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RealNode, RealNode]]:
    """Two members of one run; the second publishes where its metrics are, the first hands such addresses on."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "run.toml").write_text(TINY_MANIFEST)
    text = folder / "text.txt"
    text.write_text("\n".join(f"{n} times {m} is {n * m}" for n in range(60) for m in range(60)))
    quick = ("--set", "network.record_ttl_s=6", "--set", "network.poll_every_s=1")
    one_computer = ("--set", "metrics.discover=on", "--set", "metrics.publish=127.0.0.1:2")
    first = RealNode(folder / "a", "--manifest", str(folder / "run.toml"), *quick, *one_computer, text=text)
    second = None
    try:
        address = first.wait_for(lambda s: bool(s["join_address"]), _PATIENCE_S, "first node up")["join_address"]
        second = RealNode(
            folder / "b",
            "--peers",
            address,
            *quick,
            "--set",
            "metrics.publish=127.0.0.1:1",
            "--log-format",
            "logfmt",
            text=text,
        )
        first.wait_for(lambda s: s["swarm"]["spread"] > 0 and s["meetings"]["completed"] > 0, _PATIENCE_S, "they meet")
        yield first, second
    finally:
        for node in filter(None, (second, first)):
            node.clean_up()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile") as started:
        yield started


def _get(node: RealNode, path: str) -> Any:
    host, _, port = node.status()["http_address"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def test_members_tell_each_other_how_it_goes(nodes: tuple[RealNode, RealNode]) -> None:
    """Loss and spread of the swarm at each node, what was published in discovery and nowhere else, the log as wished."""
    first, second = nodes

    status = first.status()
    assert status["swarm"]["members"] == 1
    assert 0 < status["swarm"]["validation_loss"] < 7
    wait_until(lambda: len(_get(first, "/sd")) == 2, 30, "the published address arrives")
    own, other = _get(first, "/sd")
    assert own["targets"] == ["127.0.0.1:2"]
    assert (other["targets"], other["labels"]["run_id"]) == (["127.0.0.1:1"], status["run_id"])
    assert len(_get(second, "/sd")) == 1
    history = _get(first, "/history")
    assert len(history["unix_seconds"]) == len(history["validation_loss"]) > 0
    assert "event=joined" in second.log.read_text()


@needs_chromium
def test_a_person_sees_how_it_goes(nodes: tuple[RealNode, RealNode], browser: Browser) -> None:
    """Loss, plots, members, both colour schemes, keyboard, screen reader; nothing comes from elsewhere or is complained of."""
    first, _ = nodes
    place = first.status()["http_address"]
    browser.open(f"http://{place}/")

    browser.wait_for("document.querySelectorAll('#loss polyline').length", lambda found: found == 2)
    shown = browser.ask("document.querySelector('#numbers dd').textContent")
    assert float(shown) == pytest.approx(first.status()["training"]["validation_loss"], abs=1.0)
    assert browser.ask("document.getElementById('state').textContent") == "training"
    assert browser.ask("document.querySelectorAll('#members tr').length") == 1
    assert browser.ask("document.querySelectorAll('#map line').length") == 1

    papers = []
    for scheme in ("light", "dark"):
        browser.prefer(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
        papers.append(browser.ask("getComputedStyle(document.body).backgroundColor"))
    assert papers == ["rgb(252, 252, 250)", "rgb(21, 23, 26)"]

    browser.press("Tab")
    assert browser.ask("document.activeElement.className") == "skip"
    assert browser.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.press("Tab")
    assert browser.ask("document.activeElement.tagName") == "SUMMARY"
    told = browser.call("Accessibility.getFullAXTree")["nodes"]
    parts = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in told if not node["ignored"]}
    assert {"main", "banner", "contentinfo", "status", "progressbar", "table"} <= {role for role, _ in parts}
    pictures = [name for role, name in parts if role in ("image", "img", "graphics-document")]
    assert len(pictures) == 5
    assert any(name.startswith("Loss on held-out text, in nats per token. this node from ") for name in pictures)
    assert browser.ask("document.querySelectorAll('#loss table tr').length") > 1

    assert {urlsplit(address).netloc for address in browser.requests} - {""} == {place}
    assert browser.complaints == []


@needs_chromium
def test_names_from_elsewhere_stay_text(browser: Browser) -> None:
    """Runs, reasons and members are named by other people; none of it becomes a part of the page."""
    bad = "<img src=x onerror=document.title='owned'>"
    board = Board(MetricsSettings(), VitalsBook())
    training = TrainingStatus(steps=1, validation_loss=2.0, blocked_seconds={bad: 5.0})
    board.show(Status(state=bad, detail=bad, run_name=bad, reachability=bad, training=training), None, 0.0)
    board.peers = Peers(peers=[Peer(peer_id=bad, state=bad, last_link=bad, link=bad, meetings=1)])
    health = Health(loop_beat_s=0.0, trainer_beat_s=None, is_joined=True, has_state=True, is_leaving=False)
    views = Views(metrics=lambda: b"", board=board, health=lambda: health, clock=lambda: 0.0)
    server = LocalHttp(host="127.0.0.1", port=0, names=(), answer=views.answer)
    server.start()
    try:
        browser.open(f"http://{server.address}/")
        browser.wait_for("document.querySelectorAll('#members tr').length", lambda found: found == 1)
        assert browser.ask("document.images.length") == 0
        assert browser.ask("document.getElementById('run').textContent") == bad
        assert "owned" not in browser.ask("document.title").replace(bad, "")
        assert browser.complaints == []
        server.stop()
        browser.wait_for("!document.getElementById('problem').hidden")
    finally:
        server.stop()
