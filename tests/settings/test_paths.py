"""settings.paths: the state directory and the config file that hold when nobody names one."""

from pathlib import Path

import pytest

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings import paths


def test_state_directory_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Configured, else systemd's first, else the user's."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    systemd = {"STATE_DIRECTORY": "/var/lib/lowcomm-node:/var/lib/other"}

    assert paths.resolve_state_dir("/srv/node", systemd) == Path("/srv/node")
    assert paths.resolve_state_dir("", systemd) == Path("/var/lib/lowcomm-node")
    assert paths.resolve_state_dir("", {}).name == "lowcomm-node"


def test_a_relative_state_directory_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The trainer process may have another working directory."""
    monkeypatch.chdir(tmp_path)

    assert paths.resolve_state_dir("state", {}) == tmp_path / "state"


def test_the_first_config_file_that_exists_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A person's own file before the machine's; none is fine."""
    own, machine = tmp_path / "own.toml", tmp_path / "machine.toml"
    monkeypatch.setattr(paths, "config_candidates", lambda: (own, machine))

    assert paths.find_config(None) is None
    machine.touch()
    assert paths.find_config(None) == machine
    own.touch()
    assert paths.find_config(None) == own


def test_a_named_config_file_must_exist(tmp_path: Path) -> None:
    """``--config`` is never skipped silently, and beats the others."""
    named = tmp_path / "named.toml"

    with pytest.raises(ConfigError, match=r"named\.toml: no such config file"):
        paths.find_config(str(named))
    named.touch()
    assert paths.find_config(str(named)) == named
