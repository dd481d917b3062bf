"""Commands are tested away from the settings of whoever runs the tests."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import lowcomm_node
from lowcomm_node.cli.swarm import fleet as fleet_module
from lowcomm_node.settings import paths


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working directory, empty user directories, no variables of ours, no machine-wide config file."""
    for name in list(os.environ):
        if name.startswith("LOWCOMM_") or name == "STATE_DIRECTORY":
            monkeypatch.delenv(name)
    for kind in ("CONFIG", "STATE"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(tmp_path / kind.lower()))
    monkeypatch.setattr(paths, "_SYSTEM_CONFIG", tmp_path / "etc" / "config.toml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with a short name, for sockets; afterwards no process knows it and no socket is in it."""
    monkeypatch.setenv("PYTHONPATH", str(Path(lowcomm_node.__file__).parents[1]))
    monkeypatch.setattr(fleet_module, "_RETURN_AFTER_S", 0.0)
    with tempfile.TemporaryDirectory(prefix="lcn-") as name:
        yield Path(name)
        users = [
            p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if name in " ".join(p.info["cmdline"] or [])
        ]
        assert users == []
        assert [path for path in Path(name).rglob("*") if path.is_socket()] == []
