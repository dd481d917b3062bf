"""The recipe for nodes that nobody can scrape: Prometheus reads it as an agent's, and nothing leaves the machine by itself."""

import re
import subprocess
from pathlib import Path

from tests.deploy.tools import REPOSITORY, tool

_RECIPE = REPOSITORY / "deploy/prometheus/agent.yml"


def test_promtool_takes_it_for_an_agent(tmp_path: Path) -> None:
    """Its file of the password exists here."""
    password = tmp_path / "password"
    password.write_text("x")
    recipe = tmp_path / "agent.yml"
    recipe.write_text(_RECIPE.read_text().replace("/etc/lowcomm-node/push-password", str(password)))

    checked = subprocess.run(
        [tool("promtool"), "check", "config", "--agent", str(recipe)], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stderr


def test_it_pushes_nowhere_as_it_is() -> None:
    """The server and the names in it are nobody's (RFC 2606); the password is in a file; what is read is this machine's."""
    text = re.sub(r"(?m)^\s*#.*$", "", _RECIPE.read_text())

    assert set(re.findall(r"https?://[^/\s]+", text)) == {"http://127.0.0.1:9464", "https://metrics.example"}
    assert "password:" not in text
    assert text.count("change-me") == 2
