"""What several commands share: the settings arguments, and the settings made of them."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from lowcomm_node.errors import ConfigError, StoreError
from lowcomm_node.settings.load import read_toml
from lowcomm_node.settings.merge import Override, TomlDocument, merge, parse_set
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.settings.paths import find_config, resolve_state_dir
from lowcomm_node.units import INVITE_PREFIX

__all__ = ["add_settings_arguments", "invitation", "make_state_dir", "settings_from", "state_dir_of"]

_MAX_INVITATION_BYTES = 4096


def add_settings_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options every command has that needs node settings."""
    group = parser.add_argument_group("node settings")
    group.add_argument("--config", metavar="FILE", help="settings file instead of the user's or the machine's own")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting, e.g. network.grpc_port=7001; repeatable",
    )
    group.add_argument("--state-dir", metavar="DIR", help="directory of identity, checkpoints and control socket")


def settings_from(
    args: argparse.Namespace, flags: Mapping[str, tuple[str, object]] | None = None
) -> tuple[NodeSettings, dict[str, str]]:
    """The node settings that hold for this command line, and the origin of each by dotted key.

    ``flags`` are the command's own: dotted key -> (flag's name, value); a value of None was not
    given. A command's flag beats ``--set``. Raises ConfigError.
    """
    overrides = [parse_set(text) for text in args.set]
    for dotted, (flag, value) in {"state_dir": ("--state-dir", args.state_dir), **(flags or {})}.items():
        if value is not None:
            overrides.append(Override(dotted=dotted, value=value, origin=f"flag {flag}"))
    path = find_config(args.config)
    toml = None if path is None else TomlDocument(path=str(path), table=read_toml(path))
    settings, origins = merge(NodeSettings(), toml, os.environ, overrides)
    args.debug = getattr(args, "debug", False) or settings.log.level == "debug"
    return settings, origins


def state_dir_of(settings: NodeSettings) -> Path:
    """The state directory that holds, existing or not."""
    return resolve_state_dir(settings.state_dir, os.environ)


def make_state_dir(settings: NodeSettings) -> Path:
    """Create the state directory, readable by its owner only. Raises StoreError, PermissionError."""
    path = state_dir_of(settings)
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except PermissionError:
        raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StoreError(f"{path}: cannot be made a directory: {reason}; choose another with --state-dir") from error
    return path


def invitation(given: str | None) -> str:
    """The invitation that was given or stands in LOWCOMM_INVITE; where a file is named, what is in it. Raises ConfigError.

    On a command line others may see it.
    """
    text = given or os.environ.get("LOWCOMM_INVITE", "")
    if not text or text.startswith(INVITE_PREFIX):
        return text
    try:
        with Path(text).open(encoding="utf-8") as file:
            return file.read(_MAX_INVITATION_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--invite {text}: neither an invitation, which begins with {INVITE_PREFIX}, nor a file with one: "
            f"{getattr(error, 'strerror', None) or 'it is no text'}"
        ) from error
