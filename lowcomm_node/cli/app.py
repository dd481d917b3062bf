"""The command line's frame: finds the command, imports only its module, turns errors into one line and a status."""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from lowcomm_node import __version__
from lowcomm_node.cli.exit_codes import ExitCode, exit_code_of
from lowcomm_node.cli.parser import CommandModule, Parser, journal_mark
from lowcomm_node.core.versions import SPOKEN
from lowcomm_node.errors import LowcommError
from lowcomm_node.settings.schema import nearest

__all__ = ["COMMANDS", "Command", "main"]

_PROG = "lowcomm-node"


@dataclass(frozen=True, slots=True)
class Command:
    """A line of the command table: all that help needs without importing the module."""

    group: str
    help: str
    example: str
    """Arguments of a typical call."""


COMMANDS: Mapping[str, Command] = {
    "swarm": Command("Try it", "train with a whole swarm of nodes on this computer", "--nodes 4 --minutes 2"),
    "init": Command("Start or join a run", "write a run manifest to edit", "my-run.toml"),
    "tokenizer": Command(
        "Start or join a run",
        "train a tokenizer, or print what a manifest says of one",
        "train --vocab-size 8192 my-texts",
    ),
    "join": Command(
        "Start or join a run", "take part in a run, or start one", "--peers /ip4/203.0.113.5/tcp/7000/p2p/12D3..."
    ),
    "doctor": Command(
        "Start or join a run",
        "check machine, line and peers before anything is downloaded",
        "--peers /ip4/203.0.113.5/tcp/7000/p2p/12D3...",
    ),
    "plan": Command(
        "Start or join a run",
        "what taking part would cost: bytes, memory, time, energy",
        "my-run.toml --up 20 --watts 80",
    ),
    "invite": Command("Start or join a run", "let somebody into a run of yours", "create --valid 30d"),
    "status": Command("Look after a node", "what the node on this machine is doing", "--json"),
    "top": Command("Look after a node", "the same live, with its swarm, until q is pressed", ""),
    "peers": Command("Look after a node", "the members this node knows", "--json"),
    "healthcheck": Command("Look after a node", "does it live? For container engines; by the exit status", "--ready"),
    "pause": Command(
        "Look after a node", "leave the machine to its owner: the state is saved, the GPU is free", "--for 2h"
    ),
    "resume": Command("Look after a node", "take a pause back", ""),
    "leave": Command("Look after a node", "ask the node to finish its meeting, save and stop", ""),
    "debug": Command("Look after a node", "write the node's last events into a file for a bug report", "dump"),
    "export": Command("Use what was trained", "the run's model as a folder that others can use", "my-model"),
    "generate": Command("Use what was trained", "text from an exported model", '--model my-model --prompt "Once upon"'),
    "eval": Command("Use what was trained", "loss and bits per byte on held-out data", "--model my-model"),
    "config": Command("Settings", "show settings with their origins, check files", "show --origin"),
    "identity": Command("Settings", "show this node's peer id", "show"),
    "bench": Command(
        "Research", "compare training methods in a laboratory; what links and checkpoints cost", "methods --seeds 3"
    ),
    "simulate": Command("Research", "a swarm of up to 10,000 nodes in virtual time", "--nodes 1000 --churn 0.3"),
    "replay": Command(
        "Research", "run the events of a dump again and compare what the node decides", "crash-20261126T080000.json"
    ),
}
"""Every command, in the order of the help; the module of each is ``lowcomm_node.cli.commands.<name>``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status and never raises SystemExit."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except SystemExit as stop:  # argparse's way to end --help, --version and usage errors
        return stop.code if isinstance(stop.code, int) else ExitCode.OK
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def _dispatch(arguments: list[str]) -> int:
    at = next((i for i, word in enumerate(arguments) if not word.startswith("-")), len(arguments))
    top = _top_parser()
    common = top.parse_args(arguments[:at])
    if at == len(arguments):
        top.print_help()
        return ExitCode.USAGE
    name = arguments[at]
    command = COMMANDS.get(name)
    if command is None:
        close = nearest(name, COMMANDS)
        top.error(f"unknown command {name!r}" + (f"; did you mean {close}?" if close else ""))
    module = cast("CommandModule", importlib.import_module(f"lowcomm_node.cli.commands.{name}"))
    parser = Parser(
        prog=f"{_PROG} {name}",
        description=f"{command.help[0].upper()}{command.help[1:]}.",
        epilog=f"example: {_example(name)}",
    )
    _add_debug(parser)
    module.add_arguments(parser)
    args = parser.parse_args(arguments[at + 1 :])
    args.debug = args.debug or common.debug or os.environ.get("LOWCOMM_DEBUG", "0") not in {"", "0"}
    return _run(module, args)


def _run(module: CommandModule, args: argparse.Namespace) -> int:
    try:
        status = module.run(args)
        sys.stdout.flush()  # so that a reader who has gone is noticed here, not at exit
    except BrokenPipeError:
        # The reader (head, less) has gone: nothing to tell it. What is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except (LowcommError, OSError) as error:
        if args.debug:
            traceback.print_exc()
        lines = [f"error: {_sentence(error)}", *getattr(error, "__notes__", ())]
        sys.stderr.write("".join(f"{journal_mark()}{line}\n" for line in lines))
        return exit_code_of(error)
    return status


def _sentence(error: LowcommError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror.lower()}"
    return str(error) or type(error).__name__


def _top_parser() -> Parser:
    parser = Parser(
        prog=_PROG,
        usage=f"{_PROG} COMMAND [OPTIONS]",
        description="Train one model on many volunteer machines over the ordinary internet.",
        epilog=_commands_help(),
    )
    version = f"{_PROG} {__version__} (protocol {SPOKEN})"
    parser.add_argument("--version", action="version", version=version)
    _add_debug(parser)
    return parser


def _add_debug(parser: Parser) -> None:
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _commands_help() -> str:
    lines: list[str] = []
    group = ""
    for name, command in COMMANDS.items():
        if command.group != group:
            group = command.group
            lines += ["", f"{group}:"]
        lines += [f"  {name:<13}{command.help}", f"  {'':<13}  {_example(name)}"]
    return "\n".join([*lines[1:], "", f"'{_PROG} COMMAND --help' tells more about a command."])


def _example(name: str) -> str:
    return f"{_PROG} {name} {COMMANDS[name].example}".rstrip()
