"""Where the node keeps its things when nobody says so."""

from collections.abc import Mapping
from pathlib import Path

import platformdirs

from lowcomm_node.errors import ConfigError

__all__ = ["APP_NAME", "config_candidates", "find_config", "resolve_state_dir"]

APP_NAME = "lowcomm-node"

_SYSTEM_CONFIG = Path("/etc") / APP_NAME / "config.toml"


def resolve_state_dir(configured: str, environ: Mapping[str, str]) -> Path:
    """Directory of identity, checkpoints and control socket; it need not exist.

    The configured one, else systemd's (``StateDirectory=`` arrives as STATE_DIRECTORY), else the
    user's own state directory.
    """
    if configured:
        return Path(configured).expanduser().absolute()
    from_systemd = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if from_systemd:
        return Path(from_systemd)
    return platformdirs.user_state_path(APP_NAME, appauthor=False)


def config_candidates() -> tuple[Path, ...]:
    """Config files that are looked for, the first that exists is used: a person's own before the machine's."""
    return platformdirs.user_config_path(APP_NAME, appauthor=False) / "config.toml", _SYSTEM_CONFIG


def find_config(named: str | None) -> Path | None:
    """The config file to read, or None when there is none. Raises ConfigError when a named one does not exist."""
    if named is not None:
        path = Path(named).expanduser()
        if not path.is_file():
            raise ConfigError(f"{named}: no such config file (given with --config)")
        return path
    return next((path for path in config_candidates() if path.is_file()), None)
