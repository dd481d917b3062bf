"""``lowcomm-node doctor``: is this machine fit to join, and if not, what to do about it."""

import argparse
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lowcomm_node.cli.common import add_settings_arguments, invitation, settings_from, state_dir_of
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.cli.words import printable
from lowcomm_node.errors import ConfigError, StoreError
from lowcomm_node.settings.load import read_manifest

if TYPE_CHECKING:
    from lowcomm_node.core.diagnosis import Facts, Finding
    from lowcomm_node.settings.manifest import Manifest

__all__ = ["add_arguments", "run"]

_STYLE = {"pass": "green", "warn": "yellow", "fail": "bold red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--manifest", metavar="FILE", help="the run that will be started here")
    parser.add_argument(
        "--peers",
        nargs="+",
        metavar="ADDRESS",
        help="the nodes that will be joined (or LOWCOMM_PEERS); without any, those of this node's last run",
    )
    parser.add_argument("--run", metavar="ID", default="", help="the run that will be joined; its beginning is enough")
    parser.add_argument("--invite", metavar="TEXT", help="as for 'join'")
    parser.add_argument("--json", action="store_true", help="the findings, for scripts")
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Check everything and say what was found; 1 when something fails."""
    import asyncio

    from lowcomm_node.core.diagnosis import Level, diagnose

    findings = diagnose(asyncio.run(_facts(args)))
    if args.json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=2) + "\n")
    else:
        _print(findings)
    return ExitCode.FAILED if any(finding.level is Level.FAIL for finding in findings) else ExitCode.OK


async def _facts(args: argparse.Namespace) -> "Facts":
    from lowcomm_node.adapters.run_memory import RunMemory
    from lowcomm_node.core.diagnosis import Facts, Seed
    from lowcomm_node.daemon.doctor.machine import look_at_machine, look_at_trainer
    from lowcomm_node.daemon.doctor.peers import Wanted, ask_peers, look_up_names
    from lowcomm_node.settings.canonical import manifest_from_canonical
    from lowcomm_node.telemetry.logs import configure
    from lowcomm_node.wire.limits import MAX_MANIFEST_BYTES

    configure("error", "auto")
    try:
        settings, _ = settings_from(args)
    except ConfigError as error:
        return Facts(settings_error=str(error))
    facts = Facts(settings_error="")
    try:
        invite = invitation(args.invite)
    except ConfigError as error:
        return replace(facts, run_error=str(error))
    manifest: Manifest | None = None
    if args.manifest:
        try:
            manifest = read_manifest(Path(args.manifest))
            facts = replace(facts, manifest_error="")
        except ConfigError as error:
            facts = replace(facts, manifest_error=str(error))
    state_dir = state_dir_of(settings)
    peers = tuple(args.peers or os.environ.get("LOWCOMM_PEERS", "").replace(",", " ").split())
    if not peers and not args.manifest:
        try:
            remembered = RunMemory(state_dir).load()
        except StoreError:
            remembered = None
        peers = remembered.peers if remembered else ()
    facts = look_up_names(facts, settings.network, peers)
    facts = look_at_machine(facts, settings, state_dir, manifest)
    if peers:
        is_ours = facts.running_pid is None and not facts.identity_error and not facts.state_dir_error
        wanted = Wanted(peers=peers, run=args.run, invite=invite)
        try:
            facts, welcome = await ask_peers(facts, settings.network, state_dir if is_ours else None, wanted)
        except ConfigError as error:  # one of them is no address
            facts, welcome = replace(facts, seeds=tuple(Seed(address=a, outcome=str(error)) for a in peers)), None
        if welcome is not None and manifest is None:
            manifest = manifest_from_canonical(welcome.manifest, MAX_MANIFEST_BYTES, "manifest from the swarm")
            facts = look_at_machine(facts, settings, state_dir, manifest)
    return look_at_trainer(facts, settings, manifest)


def _print(findings: "tuple[Finding, ...]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for finding in findings:
        text = Text(printable(finding.found))
        if finding.cure:
            text.append(f"\n→ {finding.cure}", style="italic")
        table.add_row(Text(finding.level.value.upper(), style=_STYLE[finding.level.value]), finding.code, text)
    Console().print(table)
