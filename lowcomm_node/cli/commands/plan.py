"""``lowcomm-node plan``: what a run would cost this machine and its line, by the day and by the month."""

import argparse
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lowcomm_node.cli.common import add_settings_arguments, invitation, settings_from
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.core.versions import SPOKEN
from lowcomm_node.errors import ConfigError, NoPeerError
from lowcomm_node.settings.load import read_manifest

if TYPE_CHECKING:
    from lowcomm_node.core.diagnosis import Facts
    from lowcomm_node.settings.manifest import Manifest
    from lowcomm_node.settings.node import NodeSettings

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("manifest", nargs="?", type=Path, metavar="MANIFEST", help="the run, as a file")
    which.add_argument(
        "--peers", nargs="+", metavar="ADDRESS", help="the run of these nodes; the line to one of them is measured, too"
    )
    which.add_argument(
        "--against", type=Path, metavar="DIR", help="compare with a real swarm: what 'swarm --recordings DIR' wrote"
    )
    parser.add_argument("--run", metavar="ID", default="", help="with --peers, the run wanted; its beginning is enough")
    parser.add_argument("--invite", metavar="TEXT", help="as for 'join'")
    parser.add_argument("--data", nargs="+", metavar="PATH", help="what is trained on while measuring (data.paths)")
    machine = parser.add_argument_group("the machine and its line")
    machine.add_argument(
        "--steps-per-second",
        type=_positive,
        metavar="X",
        help="of the machine planned for, instead of measuring this one",
    )
    machine.add_argument("--hours-per-day", type=_hours, default=24.0, metavar="H", help="in which the node runs (24)")
    machine.add_argument(
        "--up",
        type=_positive,
        metavar="MBIT",
        help="megabits per second; without it the cap of the settings, or what --peers shows",
    )
    machine.add_argument("--down", type=_positive, metavar="MBIT", help="the same of the other direction")
    machine.add_argument(
        "--watts", type=_positive, metavar="W", help="what training takes, where this machine does not say"
    )
    machine.add_argument("--price-per-kwh", type=_positive, metavar="P", help="for the costs of energy")
    machine.add_argument("--currency", default="", metavar="NAME", help="of that price")
    swarm = parser.add_argument_group("the swarm")
    swarm.add_argument("--nodes", type=int, default=0, metavar="N", help="for what all of them together do")
    swarm.add_argument(
        "--joins-per-day", type=_not_negative, default=1.0, metavar="X",
        help="how often a node begins with a state that another one sends, on average (1)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="the same for scripts")
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, reckon and print."""
    if args.against is not None:
        return _check(args)
    settings, _ = settings_from(args, {"data.paths": ("--data", args.data)})
    manifest, facts = _wanted(args, settings)
    if manifest.protocol_version not in SPOKEN:
        raise ConfigError(SPOKEN.advice(manifest.protocol_version))

    from lowcomm_node.cli.plan.estimate import Asked, estimate
    from lowcomm_node.cli.plan.table import print_estimate

    asked = Asked(
        steps_per_second=args.steps_per_second,
        nodes=args.nodes,
        up_mbit_per_s=args.up,
        down_mbit_per_s=args.down,
        hours_per_day=args.hours_per_day,
        joins_per_day=args.joins_per_day,
        watts=args.watts,
        price_per_kwh=args.price_per_kwh,
        currency=args.currency,
    )
    found = estimate(
        manifest,
        settings,
        asked,
        up_bytes_per_s=facts.up_bytes_per_s or 0.0 if facts else 0.0,
        down_bytes_per_s=facts.down_bytes_per_s or 0.0 if facts else 0.0,
        say=lambda text: print(text, file=sys.stderr),
    )
    if args.json:
        print(json.dumps(_strict(asdict(found)), indent=2))
    else:
        print_estimate(found)
    return ExitCode.OK


def _check(args: argparse.Namespace) -> int:
    """Estimates beside what real nodes have counted."""
    from lowcomm_node.cli.plan.against import check_against, print_checked

    checked = check_against(args.against, read_manifest(args.against / "run.toml"))
    if args.json:
        print(json.dumps(_strict(asdict(checked)), indent=2))
    else:
        print_checked(checked)
    return ExitCode.OK


def _wanted(args: argparse.Namespace, settings: "NodeSettings") -> "tuple[Manifest, Facts | None]":
    """The run, and what its peers have told of the line. Raises ConfigError, NoPeerError."""
    if args.manifest is not None:
        return read_manifest(args.manifest), None
    import asyncio

    from lowcomm_node.core.diagnosis import Facts
    from lowcomm_node.daemon.doctor.peers import Wanted, ask_peers
    from lowcomm_node.settings.canonical import manifest_from_canonical
    from lowcomm_node.telemetry.logs import configure
    from lowcomm_node.wire.limits import MAX_MANIFEST_BYTES

    configure("error", "auto")
    wanted = Wanted(peers=tuple(args.peers), run=args.run, invite=invitation(args.invite))
    # Without the state directory: a node may be running with the identity there.
    facts, welcome = asyncio.run(ask_peers(Facts(), settings.network, None, wanted))
    if welcome is None:
        outcomes = "; ".join(f"{seed.address}: {seed.outcome}" for seed in facts.seeds or () if seed.outcome)
        raise NoPeerError(facts.run_error or facts.protocol_error or f"no peer answers: {outcomes or 'none is known'}")
    return manifest_from_canonical(welcome.manifest, MAX_MANIFEST_BYTES, "manifest from the swarm"), facts


def _strict(value: object) -> object:
    """As JSON knows it: what is not finite becomes null."""
    if isinstance(value, dict):
        return {str(key): _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _positive(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _not_negative(text: str) -> float:
    return 0.0 if float(text) == 0 else _positive(text)


def _hours(text: str) -> float:
    value = _positive(text)
    if value > 24:
        raise argparse.ArgumentTypeError(f"{text}: a day has 24")
    return value
