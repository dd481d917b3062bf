"""``lowcomm-node join``: take part in a run, or start one. Runs in the foreground until told to leave."""

import argparse
import os
import sys
from pathlib import Path

from lowcomm_node.cli.common import add_settings_arguments, make_state_dir, settings_from
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.load import read_manifest
from lowcomm_node.units import INVITE_PREFIX

__all__ = ["add_arguments", "run"]

_MIN_RUN_DIGITS = 4
_MAX_INVITATION_BYTES = 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--manifest", metavar="FILE", help="start the run this manifest describes (see 'init')")
    parser.add_argument(
        "--peers",
        nargs="+",
        metavar="ADDRESS",
        help="addresses of nodes that are in the run, as their 'join' prints them (or LOWCOMM_PEERS)",
    )
    parser.add_argument("--run", metavar="ID", default="", help="refuse any run but this one; its beginning is enough")
    parser.add_argument(
        "--invite",
        metavar="INVITATION",
        help="what the organiser has given you, or the file it is in, where the run asks for one (or LOWCOMM_INVITE); "
        "needed once",
    )
    parser.add_argument("--host", help="address to listen on, e.g. 0.0.0.0 (setting network.host)")
    parser.add_argument("--announce", metavar="HOST", help="address others dial (setting network.announce_host)")
    parser.add_argument("--dht-port", type=int, metavar="PORT", help="setting network.dht_port")
    parser.add_argument("--grpc-port", type=int, metavar="PORT", help="setting network.grpc_port")
    parser.add_argument("--metrics-port", type=int, metavar="PORT", help="setting metrics.port")
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Join and stay until a signal or ``lowcomm-node leave``."""
    flags = {
        "network.host": ("--host", args.host),
        "network.announce_host": ("--announce", args.announce),
        "network.dht_port": ("--dht-port", args.dht_port),
        "network.grpc_port": ("--grpc-port", args.grpc_port),
        "metrics.port": ("--metrics-port", args.metrics_port),
    }
    settings, _ = settings_from(args, flags)
    peers = tuple(args.peers or os.environ.get("LOWCOMM_PEERS", "").replace(",", " ").split())
    if args.run and (len(args.run) < _MIN_RUN_DIGITS or set(args.run) - set("0123456789abcdef")):
        raise ConfigError(
            f"--run {args.run!r}: give at least the first {_MIN_RUN_DIGITS} hexadecimal digits of a run id"
        )
    if not peers and not args.manifest:
        raise ConfigError(
            "nothing to join: give --peers ADDRESS of a node that is in the run, or start a run with --manifest FILE "
            "('lowcomm-node init my-run.toml' writes one)"
        )
    invite = _invitation(args.invite or os.environ.get("LOWCOMM_INVITE", ""))
    manifest = read_manifest(Path(args.manifest)) if args.manifest else None
    state_dir = make_state_dir(settings)

    # gRPC's fork handlers would complain about each process we start; we never fork without exec.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # whoever fails to connect would write into our log; we count it
    # Imported late: whatever is wrong with the command line is said at once.
    from lowcomm_node.daemon.entry import run_node
    from lowcomm_node.daemon.lifecycle import JoinOptions

    def say(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    run_node(
        JoinOptions(
            manifest=manifest,
            peers=peers,
            run_id=args.run,
            settings=settings,
            state_dir=state_dir,
            invite=invite,
            say=say,
        )
    )
    return ExitCode.OK


def _invitation(text: str) -> str:
    """The invitation itself, from a file where a file is named: on a command line others may see it."""
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
