"""``lowcomm-node join``: take part in a run, or start one. Runs in the foreground until told to leave."""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from lowcomm_node.cli.common import add_settings_arguments, invitation, make_state_dir, settings_from
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.errors import ConfigError, DirectoryError, LowcommError, StoreError
from lowcomm_node.settings.load import read_manifest
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NodeSettings

__all__ = ["add_arguments", "run"]

_MIN_RUN_DIGITS = 4
_BLOCKING: Mapping[str, type[LowcommError]] = {"disk": StoreError, "open-files": ConfigError, "ports": DirectoryError}
"""Findings of 'doctor' that keep a node from starting, as the errors they are then; what is not here the node says itself."""


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
    parser.add_argument("--log-format", metavar="FORMAT", help="auto, text, logfmt or json (setting log.format)")
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Join and stay until a signal or ``lowcomm-node leave``."""
    flags = {
        "network.host": ("--host", args.host),
        "network.announce_host": ("--announce", args.announce),
        "network.dht_port": ("--dht-port", args.dht_port),
        "network.grpc_port": ("--grpc-port", args.grpc_port),
        "metrics.port": ("--metrics-port", args.metrics_port),
        "log.format": ("--log-format", args.log_format),
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
    invite = invitation(args.invite)
    manifest = read_manifest(Path(args.manifest)) if args.manifest else None
    state_dir = make_state_dir(settings)
    _check(settings, state_dir, manifest)

    # gRPC's fork handlers would complain about each process we start; we never fork without exec.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # whoever fails to connect would write into our log; we count it
    # Imported late: whatever is wrong with the command line is said at once.
    from lowcomm_node.daemon.entry import run_node
    from lowcomm_node.daemon.join_options import JoinOptions

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


def _check(settings: NodeSettings, state_dir: Path, manifest: Manifest | None) -> None:
    """What 'doctor' says of this machine, where a node would not get far. Raises LowcommError."""
    from lowcomm_node.core.diagnosis import Facts, Level, diagnose
    from lowcomm_node.daemon.doctor.machine import look_at_machine

    for finding in diagnose(look_at_machine(Facts(), settings, state_dir, manifest)):
        error = _BLOCKING.get(finding.code)
        if error is not None and finding.level is Level.FAIL:
            raise error(f"{finding.found}; {finding.cure}")
