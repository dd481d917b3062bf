"""docker/compose.yaml on a real engine: a node that starts a run, three that join it, and those that watch."""

import json
import os
import signal
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from tests.deploy.containers import Project
from tests.deploy.engine import Engine, wait_until
from tests.deploy.images import ALERTMANAGER, NODE, PROMETHEUS, build_watchers
from tests.deploy.panels import faults
from tests.system.real_nodes import TINY_MANIFEST

pytestmark = [pytest.mark.engine, pytest.mark.timeout(3000)]

_WORKERS = 3
_SERVICES = ("bootstrap", "worker", "prometheus", "alertmanager")
"""All but Grafana, whose image cannot be had without a registry."""
_QUICK = """
services:
  bootstrap: &quick
    environment:
      LOWCOMM_CHECKPOINT__EVERY_S: "10"
      LOWCOMM_EVAL_EVERY_STEPS: "50"
      LOWCOMM_NETWORK__POLL_EVERY_S: "1"
      LOWCOMM_NETWORK__RECORD_TTL_S: "15"
      LOWCOMM_DATA__PATHS: '["/usr/lib/python3.11/[a-d]*.py"]'
  worker: *quick
"""
"""A small run that saves, measures and looks around often, so that all that is to be seen happens within a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cluster:
    project: Project
    bootstrap: str
    workers: tuple[str, ...]

    @property
    def nodes(self) -> tuple[str, ...]:
        return self.bootstrap, *self.workers

    def get(self, url: str) -> Any:
        """What a port on loopback answers, as JSON; asked from the network of the engine, where it is published."""

        def get() -> Any:
            with urllib.request.urlopen(url, timeout=10) as response:
                return json.load(response)

        return self.project.engine.network.call(get)

    def query(self, expr: str) -> list[dict[str, Any]]:
        data = self.get(f"http://127.0.0.1:9090/api/v1/query?{urllib.parse.urlencode({'query': expr})}")["data"]
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        return cast("list[dict[str, Any]]", data["result"])

    def targets(self) -> dict[str, str]:
        """Whom Prometheus scrapes, and how that goes."""
        active = self.get("http://127.0.0.1:9090/api/v1/targets")["data"]["activeTargets"]
        return {target["labels"]["instance"]: target["health"] for target in active}


@pytest.fixture(scope="module")
def cluster(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Cluster]:
    """Up and healthy, by one command."""
    folder = tmp_path_factory.mktemp("cluster")
    build_watchers(engine, folder)
    manifest, quick = Path(folder, "run.toml"), Path(folder, "quick.yaml")
    manifest.write_text(TINY_MANIFEST)
    quick.write_text(_QUICK)
    images = {"NODE_IMAGE": NODE, "PROMETHEUS_IMAGE": PROMETHEUS, "ALERTMANAGER_IMAGE": ALERTMANAGER}
    project = Project(engine, ["compose.yaml", str(quick)], {**images, "RUN_MANIFEST": str(manifest)})
    try:
        began_at = time.monotonic()
        project.up(*_SERVICES)
        print(f"healthy after {time.monotonic() - began_at:.1f} s")
        (bootstrap,) = project.names("bootstrap")
        yield _Cluster(project=project, bootstrap=bootstrap, workers=tuple(project.names("worker")))
    finally:
        project.compose("down", "--volumes", "--timeout", "5", check=False, timeout_s=60)


def test_they_train_together(cluster: _Cluster) -> None:
    """All are in one run, take steps and meet; the page is there for whoever sits at this computer."""
    assert len(cluster.workers) == _WORKERS
    status = [
        cluster.project.wait_for(
            node, lambda s: s["meetings"]["completed"] >= 3 and s["training"]["steps"] > 0, 180, "meets"
        )
        for node in cluster.nodes
    ]

    assert len({one["run_id"] for one in status}) == 1
    assert len({one["peer_id"] for one in status}) == _WORKERS + 1
    before = status[0]["training"]["progress_steps"]
    page = cluster.get("http://127.0.0.1:9464/status")
    assert page["peer_id"] == status[0]["peer_id"]
    cluster.project.wait_for(cluster.bootstrap, lambda s: s["training"]["progress_steps"] > before, 60, "goes on")


def test_prometheus_has_data_for_every_panel(cluster: _Cluster) -> None:
    """It finds each node by the first one, and each query of each dashboard returns something."""
    wait_until(
        lambda: len(found := cluster.targets()) == _WORKERS + 1 and set(found.values()) == {"up"},
        120,
        "every node is scraped",
    )
    node = next(iter(cluster.targets()))
    ranges = {"__rate_interval": "1m", "__interval": "15s", "__range": "5m"}
    variables = {**ranges, "job": ".*", "run": ".*", "instance": node}
    deadline = time.monotonic() + 180
    while wrong := faults(cluster.query, variables):
        assert time.monotonic() < deadline, wrong
        time.sleep(5)
    assert [one["metric"]["run_id"] for one in cluster.query("count by (run_id) (lowcomm_train_steps_total)")] == [
        cluster.project.engine.node_status(cluster.bootstrap)["run_id"]
    ]


def test_alerts_reach_alertmanager(cluster: _Cluster) -> None:
    """Prometheus has found it, and both have read their files."""
    managers = cluster.get("http://127.0.0.1:9090/api/v1/alertmanagers")["data"]["activeAlertmanagers"]
    rules = cluster.get("http://127.0.0.1:9090/api/v1/rules")["data"]["groups"]

    assert [one["url"] for one in managers] == ["http://alertmanager:9093/api/v2/alerts"]
    assert {rule["health"] for group in rules for rule in group["rules"]} == {"ok"}
    assert cluster.get("http://127.0.0.1:9093/api/v2/status")["cluster"]["status"] == "disabled"


def test_a_killed_worker_returns_and_rejoins(cluster: _Cluster) -> None:
    """kill -9 of all that is in the container: the same node is back, takes steps and meets the others again."""
    worker, engine = cluster.workers[0], cluster.project.engine
    before = cluster.project.wait_for(worker, lambda s: s["meetings"]["completed"] >= 1, 60, "has met")

    os.kill(engine.inspect(worker)["State"]["Pid"], signal.SIGKILL)
    killed_at = time.monotonic()
    wait_until(lambda: engine.inspect(worker)["RestartCount"] == 1, 60, "the engine starts it again")
    after = cluster.project.wait_for(
        worker,
        lambda s: s["uptime_seconds"] < before["uptime_seconds"] and s["meetings"]["completed"] >= 1,
        180,
        "meets again",
    )

    print(f"met again {time.monotonic() - killed_at:.1f} s after kill -9")
    assert after["peer_id"] == before["peer_id"]
    assert after["run_id"] == before["run_id"]


def test_the_workers_go_on_without_the_first_node(cluster: _Cluster) -> None:
    """It is needed to find the run, and for nothing afterwards; it comes back into its own run."""
    engine, worker = cluster.project.engine, cluster.workers[1]
    run = engine.node_status(worker)["run_id"]
    engine.docker("stop", "-t", "60", cluster.bootstrap, timeout_s=90)
    met = engine.node_status(worker)["meetings"]["completed"]

    cluster.project.wait_for(worker, lambda s: s["meetings"]["completed"] >= met + 3, 120, "meets others")
    engine.docker("start", cluster.bootstrap)
    back = cluster.project.wait_for(cluster.bootstrap, lambda s: s["meetings"]["completed"] >= 1, 120, "is back")
    assert back["run_id"] == run


def test_down_is_graceful(cluster: _Cluster) -> None:
    """The last test: every process ends by itself when asked to, nodes with their state saved."""
    began_at = time.monotonic()

    statuses = cluster.project.down()

    print(f"down after {time.monotonic() - began_at:.1f} s")
    assert len(statuses) == len(cluster.nodes) + 2
    assert set(statuses.values()) == {0}
