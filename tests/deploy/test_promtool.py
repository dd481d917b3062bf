"""Prometheus' own checker reads our configuration and rules, and plays every alert's histories."""

import subprocess
from collections.abc import Sequence

import pytest

from tests.deploy.tools import REPOSITORY, tool


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "deploy/prometheus/prometheus.yml"),
        (
            "check",
            "rules",
            "deploy/prometheus/rules/lowcomm.recording.yml",
            "deploy/prometheus/rules/lowcomm.alerts.yml",
        ),
        ("test", "rules", "deploy/prometheus/rules/lowcomm.test.yml"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_promtool_agrees(arguments: Sequence[str]) -> None:
    """Each alert fires in one history and is silent in another, with exactly the labels and sentences that are expected."""
    done = subprocess.run([tool("promtool"), *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout
