"""Commands are tested away from the settings of whoever runs the tests."""

import os
from pathlib import Path

import pytest

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
