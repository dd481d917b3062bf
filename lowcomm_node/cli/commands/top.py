"""``lowcomm-node top``: the node on this machine and its swarm, live."""

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lowcomm_node.cli.common import add_settings_arguments, settings_from, state_dir_of
from lowcomm_node.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from rich.text import Text

    from lowcomm_node.cli.top.frame import Sight
    from lowcomm_node.daemon.control import ControlClient

__all__ = ["add_arguments", "run"]

_EVERY_S = 1.0
_PATIENCE_S = 2.0
"""Keys wait as long as the node does."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--once", action="store_true", help="one frame and out, as always where the output is no terminal"
    )
    parser.add_argument("--svg", metavar="FILE", help="one frame of 80 by 24 as a picture")
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the node about once a second and show it. Raises NoNodeError when none is running at the start."""
    from rich.console import Console

    from lowcomm_node.cli.top.frame import frame
    from lowcomm_node.cli.top.screen import plain, run_live
    from lowcomm_node.daemon.control import ControlClient
    from lowcomm_node.errors import LowcommError

    settings, _ = settings_from(args)
    console = Console(highlight=False)
    with ControlClient(state_dir_of(settings), timeout_s=_PATIENCE_S) as client:
        sight = _look(client)
        if args.svg:
            _save_picture(args.svg, sight)
            return ExitCode.OK
        if args.once or not console.is_terminal:
            for line in frame(sight, console.width, console.height):
                console.print(plain(console, line))
            return ExitCode.OK

        def paint() -> "Callable[[int, int], Sequence[Text]]":
            nonlocal sight
            try:
                sight = _look(client)
            except LowcommError as error:  # it may be starting again
                sight = _look_back(sight, str(error))
            return lambda width, height: frame(sight, width, height)

        run_live(console, _EVERY_S, paint)
    return ExitCode.OK


def _look(client: "ControlClient") -> "Sight":
    from lowcomm_node.cli.top.frame import Sight

    return Sight(status=client.status(), peers=client.peers(), history=client.history())


def _look_back(sight: "Sight", problem: str) -> "Sight":
    from dataclasses import replace

    return replace(sight, problem=problem)


def _save_picture(path: str, sight: "Sight") -> None:
    import os
    import re
    from pathlib import Path

    from rich.console import Console

    from lowcomm_node.cli.top.frame import frame

    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123 - no path of ours
        console = Console(record=True, width=80, height=24, file=nowhere, force_terminal=True, highlight=False)
        for line in frame(sight, 80, 24):
            console.print(line)
        picture = console.export_svg(title="lowcomm-node top")
    # Without the fonts that rich would have fetched from elsewhere.
    Path(path).write_text(re.sub(r"@font-face\s*{[^}]*}", "", picture), encoding="utf-8")
