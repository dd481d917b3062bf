"""cli.common: the settings arguments every command shares."""

import argparse
import stat
from pathlib import Path

import pytest

from lowcomm_node.cli.common import add_settings_arguments, make_state_dir, settings_from, state_dir_of
from lowcomm_node.errors import StoreError
from lowcomm_node.settings.node import NodeSettings


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_settings_arguments(parser)
    return parser.parse_args(arguments)


def test_a_commands_own_flag_counts_only_when_given() -> None:
    """None means: not on the command line."""
    settings, origins = settings_from(
        parse("--set", "metrics.port=5"), {"metrics.port": ("--metrics-port", None), "device.name": ("--device", "cpu")}
    )

    assert (settings.metrics.port, origins["metrics.port"]) == (5, "flag --set metrics.port")
    assert (settings.device.name, origins["device.name"]) == ("cpu", "flag --device")


def test_a_commands_own_flag_beats_set() -> None:
    """The more specific way of saying it wins."""
    settings, origins = settings_from(parse("--set", "metrics.port=5"), {"metrics.port": ("--metrics-port", 6)})

    assert (settings.metrics.port, origins["metrics.port"]) == (6, "flag --metrics-port")


def test_the_state_directory_is_made_for_its_owner_only(own_home: Path) -> None:
    """Keys live in it."""
    settings, _ = settings_from(parse("--state-dir", str(own_home / "a" / "b")))

    path = make_state_dir(settings)

    assert path == state_dir_of(settings) == own_home / "a" / "b"
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert make_state_dir(settings) == path


def test_a_state_directory_that_cannot_be_made_is_a_store_error(own_home: Path) -> None:
    """A file is in the way: the error says where and what to do."""
    (own_home / "file").touch()

    with pytest.raises(StoreError, match=r"file: cannot be made a directory: .*; choose another with --state-dir"):
        make_state_dir(NodeSettings(state_dir=str(own_home / "file")))
