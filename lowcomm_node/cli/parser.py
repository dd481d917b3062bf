"""An argparse parser that says what was probably meant, and the shape every command module has."""

import argparse
import os
import re
import sys
from typing import NoReturn, Protocol

from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.settings.schema import nearest

__all__ = ["CommandModule", "Parser", "journal_mark"]


class CommandModule(Protocol):
    """What ``cli.app`` asks of a module in ``cli.commands``."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Do it; returns the exit status, raises LowcommError for what the user should read."""
        ...


class Parser(argparse.ArgumentParser):
    """Whole option names only (they are an interface), examples shown as written, near misses named."""

    def __init__(self, **options: object) -> None:
        merged: dict[str, object] = {
            "allow_abbrev": False,
            "formatter_class": argparse.RawDescriptionHelpFormatter,
            **options,
        }
        super().__init__(**merged)  # type: ignore[arg-type]  # argparse builds sub-parsers with keywords of its own

    def error(self, message: str) -> NoReturn:
        """Print one line and where to read more, then exit with the usage status."""
        hint = self._hint(message)
        sys.stderr.write(f"{journal_mark()}error: {message}{hint}\nRun '{self.prog} --help' to see what it takes.\n")
        raise SystemExit(ExitCode.USAGE)

    def _hint(self, message: str) -> str:
        unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if unknown:
            close = nearest(unknown[1], self.option_names())
        elif choice:
            close = nearest(choice[1], re.findall(r"[\w-]+", choice[2]))
        else:
            close = None
        return f"; did you mean {close}?" if close else ""

    def option_names(self) -> set[str]:
        """Option names of this parser and of its actions' parsers: argparse reports what those leave over up here."""
        names = set(self._option_string_actions)
        for action in self._actions:
            if isinstance(action.choices, dict):
                names.update(*(inner.option_names() for inner in action.choices.values() if isinstance(inner, Parser)))
        return names


def journal_mark() -> str:
    """What makes the line behind it an error where standard error goes into systemd's journal; empty elsewhere."""
    if "JOURNAL_STREAM" not in os.environ:
        return ""
    from lowcomm_node.telemetry.logs import is_journal

    return "<3>" if is_journal(sys.stderr, os.environ) else ""
