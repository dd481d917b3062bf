"""Four real nodes scraped by a real Prometheus: every panel and every rule shows something."""

import json
import math
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from deploy.grafana.generate import DASHBOARDS
from deploy.prometheus.generate import ALERTS
from deploy.prometheus.recording import RECORDINGS
from tests.deploy.panels import faults
from tests.deploy.promql import expand, selectors_in
from tests.deploy.tools import tool
from tests.system.real_nodes import TINY_MANIFEST, RealNode, wait_until
from tests.system.real_prometheus import RealPrometheus

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

_NODES = 4
_MEETINGS = 3
_LOOKS = 6
"""Scrapes of a swarm in which everything has happened: a rate takes two."""
_SETTINGS = ("checkpoint.every_s=3", "eval_every_steps=20", "network.poll_every_s=1", "network.record_ttl_s=10")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Live:
    prometheus: RealPrometheus
    targets: tuple[str, ...]

    @property
    def variables(self) -> dict[str, str]:
        """What would be chosen at the top of a dashboard."""
        ranges = {"__rate_interval": "1m", "__interval": "5s", "__range": "5m"}
        return {**ranges, "job": ".*", "run": ".*", "instance": self.targets[1]}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Live]:
    """A swarm that has met, measured, saved, and been looked at for a while."""
    tool("prometheus")
    folder = tmp_path_factory.mktemp("p")
    (folder / "run.toml").write_text(TINY_MANIFEST)
    text = folder / "text"
    text.mkdir()
    for index in range(40):
        (text / f"{index}.txt").write_text(f"the quick brown fox {index} jumps over the lazy dog\n" * 60)
    *ports, own = _free_ports(_NODES + 1)
    targets = tuple(f"127.0.0.1:{port}" for port in ports)
    with ExitStack() as cleaning:
        # First, so that it sees the counters rise from zero.
        prometheus = RealPrometheus(folder, port=own, targets=targets, interval="1s")
        cleaning.callback(prometheus.end)
        nodes: list[RealNode] = []
        for index, port in enumerate(ports):
            whom = ("--peers", nodes[0].status()["join_address"]) if nodes else ("--manifest", str(folder / "run.toml"))
            sets = [word for setting in (*_SETTINGS, f"metrics.port={port}") for word in ("--set", setting)]
            nodes.append(RealNode(folder / f"n{index}", *whom, *sets, text=text))
            cleaning.callback(nodes[-1].clean_up)
            if index == 0:
                nodes[0].wait_for(lambda status: bool(status["join_address"]), 60, "the first node can be joined")
        for node in nodes:
            node.wait_for(lambda status: status["meetings"]["completed"] >= _MEETINGS, 120, "the nodes meet")
        prometheus.wait_until_ready()

        def has_seen_all() -> bool:
            saved = prometheus.query('count(lowcomm_checkpoint_writes_total{outcome="ok"} > 0)')
            measured = prometheus.query("count(lowcomm_train_validation_loss > 0)")
            echoed = prometheus.query("count(lowcomm_peer_rtt_seconds_count > 0)")
            estimated = prometheus.query("count(lowcomm_swarm_spread > 0)")
            all_of_it = (saved, measured, echoed, estimated)
            return all(found and float(found[0]["value"][1]) == _NODES for found in all_of_it)

        wait_until(has_seen_all, 90, "every node has a checkpoint, a validation loss, an echo and a spread")
        time.sleep(_LOOKS)
        yield _Live(prometheus=prometheus, targets=targets)


def test_every_panel_has_data(live: _Live) -> None:
    """No query is refused, empty or NaN, and each legend's labels are there; what needs a GPU may be empty."""
    assert faults(live.prometheus.query, live.variables) == []


def test_every_variable_has_values(live: _Live) -> None:
    """Nothing can be chosen at the top of a dashboard that does not exist."""
    for dashboard in DASHBOARDS:
        for variable in dashboard.variables:
            values = live.prometheus.label_values(expand(variable.metric, live.variables), variable.of)
            assert values, f"{dashboard.uid}: {variable.name}"
            assert len(values) == (_NODES if variable.of == "instance" else 1)


def test_rules_are_evaluated_and_a_healthy_swarm_alarms_nobody(live: _Live) -> None:
    """Prometheus finds no fault with any rule; recordings have values; alerts ask for series that exist, and are silent."""
    evaluated = {rule["name"]: rule for rule in live.prometheus.rules()}
    assert {name for name, rule in evaluated.items() if rule["health"] != "ok"} == set()
    assert evaluated.keys() == {rule.record for rule in RECORDINGS} | {alert.name for alert in ALERTS}

    for recording in RECORDINGS:
        found = live.prometheus.query(recording.record)
        assert found, recording.record
        assert not any(math.isnan(float(series["value"][1])) for series in found), recording.record
    for alert in ALERTS:
        for selector in selectors_in(alert.expr):
            is_there = bool(live.prometheus.query(selector))
            assert is_there or "gpu" in selector or 'state="failed"' in selector, f"{alert.name}: {selector}"
    assert [name for name, rule in evaluated.items() if rule.get("state", "inactive") == "firing"] == []


def test_the_spread_is_told(live: _Live) -> None:
    """A plausible distance: below the size of the weights, above nothing; and each node says the same on its page as to Prometheus."""
    (found,) = live.prometheus.query("run:lowcomm_swarm_spread:rms")
    assert 1e-5 < float(found["value"][1]) < 0.1

    for target in live.targets:
        told = set()
        for _ in range(20):  # both are renewed every second, and not in the same moment
            with urllib.request.urlopen(f"http://{target}/status", timeout=5) as response:
                told.add(json.load(response)["swarm"]["spread"])
            with urllib.request.urlopen(f"http://{target}/metrics", timeout=5) as response:
                scraped = re.search(rb"^lowcomm_swarm_spread (\S+)$", response.read(), re.MULTILINE)
            if scraped is not None and float(scraped[1]) in told:
                break
        else:
            pytest.fail(f"{target}: the page says {told}, and /metrics something else")


def test_no_label_collides_with_those_of_a_target(live: _Live) -> None:
    """Prometheus renames a label of ours that has a target's name; the run is named once, by discovery, and can be joined."""
    assert live.prometheus.query('{__name__=~"lowcomm_.+",exported_run_id!=""}') == []
    joined = live.prometheus.query(
        "lowcomm_train_loss * on (job, run_id, instance) group_left (run_name, peer_id) lowcomm_node_info"
    )
    assert len(joined) == _NODES
    assert {series["metric"]["run_name"] for series in joined} == {"tiny"}


def test_promtool_finds_no_fault_with_what_a_node_says(live: _Live) -> None:
    """Names, units, help and types of the page as a scraper gets it."""
    with urllib.request.urlopen(f"http://{live.targets[0]}/metrics", timeout=5) as response:
        page = response.read()
    done = subprocess.run([tool("promtool"), "check", "metrics"], input=page, capture_output=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def _free_ports(count: int) -> list[int]:
    """Ports that nobody has at this moment."""
    with ExitStack() as sockets:
        opened = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for one in opened:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in opened]
