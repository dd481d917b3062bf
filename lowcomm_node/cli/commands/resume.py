"""``lowcomm-node resume``: take ``pause`` back."""

import argparse

from lowcomm_node.cli.common import add_settings_arguments, settings_from, state_dir_of
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.cli.words import printable

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Ask, and say what keeps it paused all the same. Raises NoNodeError when no node is running."""
    from lowcomm_node.daemon.control import ControlClient

    settings, _ = settings_from(args)
    with ControlClient(state_dir_of(settings)) as client:
        was_commanded = "command" in client.status().pause.reasons
        client.resume()
        status = client.status()
    if status.pause.reasons:
        print(f"It stays paused for now: {', '.join(map(printable, status.pause.reasons))}; it goes on by itself.")
    else:
        print("It goes on." if was_commanded else "It was not paused.")
    return ExitCode.OK
