"""The recipe for nodes that nobody can scrape: Prometheus reads it as an agent's, and nothing leaves the machine by itself."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_RECIPE = _ROOT / "deploy/prometheus/agent.yml"
_LOCAL = _ROOT / ".tools/usr/bin/promtool"
_PROMTOOL = str(_LOCAL) if _LOCAL.is_file() else shutil.which("promtool")


@pytest.mark.skipif(
    _PROMTOOL is None and not os.environ.get("CI_NEEDS_PROMETHEUS"),
    reason="promtool is not there (Debian's prometheus)",
)
def test_promtool_takes_it_for_an_agent(tmp_path: Path) -> None:
    """Its file of the password exists here."""
    assert _PROMTOOL is not None
    password = tmp_path / "password"
    password.write_text("x")
    recipe = tmp_path / "agent.yml"
    recipe.write_text(_RECIPE.read_text().replace("/etc/lowcomm-node/push-password", str(password)))

    checked = subprocess.run(
        [_PROMTOOL, "check", "config", "--agent", str(recipe)], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stderr


def test_it_pushes_nowhere_as_it_is() -> None:
    """The server and the names in it are nobody's (RFC 2606); the password is in a file; what is read is this machine's."""
    text = re.sub(r"(?m)^\s*#.*$", "", _RECIPE.read_text())

    assert set(re.findall(r"https?://[^/\s]+", text)) == {"http://127.0.0.1:9464", "https://metrics.example"}
    assert "password:" not in text
    assert text.count("change-me") == 2
