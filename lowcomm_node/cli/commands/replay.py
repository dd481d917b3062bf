"""``lowcomm-node replay``: the events of a dump go through the core again; do the same commands come out?"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from lowcomm_node import __version__
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.cli.flight_words import shown
from lowcomm_node.cli.words import count, duration, printable
from lowcomm_node.core.commands import Command
from lowcomm_node.telemetry.flight.dump import Dump, read_dump
from lowcomm_node.telemetry.flight.recorder import Entry
from lowcomm_node.telemetry.flight.replay import CommandsDiffer, Outcome, StateDiffers, replay
from lowcomm_node.telemetry.flight.values import Tree

__all__ = ["add_arguments", "run"]

_MAX_EXCERPT = 400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", type=Path, metavar="FILE", help="what 'debug dump' or a crash has written")
    parser.add_argument("--until", type=int, metavar="N", help="stop after the event of this number")
    parser.add_argument(
        "--show", action="store_true", help="print each event and the commands that were recorded for it"
    )


def run(args: argparse.Namespace) -> int:
    """Replay and report; status 1 when something differs. Raises DumpError."""
    dump = read_dump(args.file)
    print(_origin(dump))
    if dump.recording is None:
        print("It holds no events: the node had not joined its run yet.")
        return ExitCode.OK
    outcome = replay(dump.recording, until=args.until, on_entry=_show if args.show else lambda _: None)
    _report(outcome, dump.recording.entries[: outcome.num_events])
    return ExitCode.FAILED if outcome.difference is not None else ExitCode.OK


def _origin(dump: Dump) -> str:
    """Who wrote the dump, when and why, in a line or more."""
    header = dump.header
    words = {key: printable(str(header.get(key, "?"))) for key in ("lowcomm_node", "written_at", "reason")}
    line = f"Written by lowcomm-node {words['lowcomm_node']} at {words['written_at']} ({words['reason']})"
    status = header.get("status")
    if isinstance(status, dict):
        line += f", state {printable(str(status.get('state')))}"
    if words["lowcomm_node"] != __version__:
        line += f"; this is {__version__}, which may decide otherwise on purpose"
    error = header.get("error")
    lines = [printable(str(text)) for text in error] if isinstance(error, list) else []
    return "\n".join([f"{line}.", *(f"  {text}" for text in lines)])


def _report(outcome: Outcome, entries: Sequence[Entry]) -> None:
    span = f" over {duration(max(0.0, entries[-1].now - entries[0].now))}" if entries else ""
    done = f"{count(outcome.num_events, 'event')}{span}, {count(outcome.num_commands, 'command')}"
    for number in outcome.raised:
        print(f"The core failed at event {number}, here as there.")
    match outcome.difference:
        case None:
            print(f"{done}: all equal.")
        case CommandsDiffer() as differs:
            print(f"{done}: not equal.")
            entry = differs.entry
            print(f"The first difference is at event {entry.number}, at {entry.now:.6f} s:\n  {shown(entry.event)}")
            _print_commands("recorded", entry.commands, entry.raised)
            _print_commands("replayed", differs.commands, differs.raised)
        case StateDiffers() as differs:
            print(f"{done}: the commands are equal, the core's memory before event {differs.before} is not:")
            for path, recorded, replayed in differs.attributes:
                print(f"  {path}\n    recorded: {_excerpt(recorded)}\n    replayed: {_excerpt(replayed)}")


def _show(entry: Entry) -> None:
    print(f"{entry.number:>8}  {entry.now:.6f}  {shown(entry.event)}")
    for command in entry.commands:
        print(f"{'':8}    -> {shown(command)}")
    if entry.raised:
        print(f"{'':8}    -> failed with {printable(entry.raised)}")


def _print_commands(which: str, commands: Sequence[Command], raised: str) -> None:
    print(f"{which}:")
    for command in commands:
        print(f"  {shown(command)}")
    if raised:
        print(f"  failed with {printable(raised)}")
    elif not commands:
        print("  nothing")


def _excerpt(tree: Tree) -> str:
    text = json.dumps(tree)
    return text if len(text) <= _MAX_EXCERPT else f"{text[:_MAX_EXCERPT]}..."
