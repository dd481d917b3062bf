"""Whom alerts are told: a configuration that Alertmanager takes, about alerts that exist."""

import re
import subprocess
from typing import Any

import yaml

from deploy.prometheus.generate import ALERTS
from tests.deploy.tools import REPOSITORY, tool

_FILE = REPOSITORY / "deploy/alertmanager/alertmanager.yml"


def test_amtool_finds_no_fault() -> None:
    """Read as Alertmanager reads it."""
    done = subprocess.run([tool("amtool"), "check-config", str(_FILE)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_routes_and_inhibitions_are_about_alerts_that_exist() -> None:
    """A name that no alert has would keep nothing quiet, and a severity that none has would wake nobody."""
    text = _FILE.read_text()
    names, severities = {alert.name for alert in ALERTS}, {alert.severity for alert in ALERTS}

    assert set(re.findall(r'alertname!?="(\w+)"', text)) <= names
    assert set(re.findall(r'severity="(\w+)"', text)) <= severities


def test_prometheus_in_containers_tells_it() -> None:
    """Both configurations of Prometheus load the same rules at the same pace; that of the containers knows its Alertmanager."""
    alone, inside = (_yaml(f"prometheus/{name}") for name in ("prometheus.yml", "compose.yml"))
    services = yaml.safe_load((REPOSITORY / "docker/compose.yaml").read_text())["services"]

    assert inside["global"] == alone["global"]
    assert inside["rule_files"] == alone["rule_files"]
    (target,) = inside["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert target.partition(":")[0] in services
    (job,) = inside["scrape_configs"]
    assert job["job_name"] == alone["scrape_configs"][0]["job_name"]


def test_promtool_takes_the_configuration_of_the_containers() -> None:
    """With its rules."""
    checked = subprocess.run(
        [tool("promtool"), "check", "config", str(REPOSITORY / "deploy/prometheus/compose.yml")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


def _yaml(name: str) -> Any:
    return yaml.safe_load((REPOSITORY / "deploy" / name).read_text())
