"""Command lines of the benchmarks that run swarms of real nodes: ``bench overhead``, ``start`` and ``scaling``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from lowcomm_node.settings.manifest import Manifest

__all__ = ["SWARM_EXPERIMENTS", "add_swarm_experiments", "run_swarm_experiment"]

SWARM_EXPERIMENTS = ("overhead", "start", "scaling")
_LINE = "20mbit,100ms"


def add_swarm_experiments(experiments: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare them and their arguments."""
    overhead = experiments.add_parser(
        "overhead",
        help="tokens a second of a swarm's nodes against as many bare training loops on the same cores, processor time and memory",
        epilog="Each group is frozen while another one trains. A line is emulated between networks of their own; that needs Linux and root.",
    )
    overhead.add_argument("--nodes", type=int, default=4, metavar="N", help="and as many bare loops (4)")
    overhead.add_argument("--turns", type=int, default=4, metavar="N", help="windows of each group (4)")
    overhead.add_argument("--window", type=float, default=20.0, metavar="S", help="seconds of a window (20)")
    overhead.add_argument(
        "--every",
        type=int,
        nargs="+",
        default=[0],
        metavar="K",
        help="own steps between two meetings, one after the other (the manifest's; 5 by default)",
    )
    overhead.add_argument(
        "--line",
        default=_LINE,
        metavar="LINE",
        help=f"a second swarm over such lines: RATE[,ROUND TRIP[,LOSS]], or none ({_LINE} where they can be emulated)",
    )
    _add_common(overhead)
    start = experiments.add_parser(
        "start",
        help="how long a bare loop and a node take to the first step, and a late joiner until its model is as good as the swarm's",
    )
    start.add_argument("--rounds", type=int, default=3, metavar="N", help="starts of each kind (3)")
    start.add_argument("--nodes", type=int, default=3, metavar="N", help="that train when late ones join (3)")
    start.add_argument("--seconds", type=float, default=60.0, metavar="N", help="for which they have trained then (60)")
    start.add_argument(
        "--line",
        metavar="LINE",
        help="they and the late ones have such lines: RATE[,ROUND TRIP[,LOSS]], as in 20mbit,100ms",
    )
    _add_common(start)
    scaling = experiments.add_parser(
        "scaling",
        help="a swarm that grows from 2 nodes on: bytes, processor time and requests to the DHT, for each node",
    )
    scaling.add_argument("--most", type=int, default=32, metavar="N", help="nodes: 2, 4, 8, ... up to these (32)")
    scaling.add_argument(
        "--window", type=float, default=40.0, metavar="S", help="seconds that each size is measured (40)"
    )
    scaling.add_argument("--every", type=int, default=0, metavar="K", help="own steps between two meetings (40)")
    _add_common(scaling)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--manifest", type=Path, metavar="FILE", help="what is trained (see 'init'; a small language model)"
    )
    parser.add_argument("--quick", action="store_true", help="only to see that it works: figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything that was measured")


def run_swarm_experiment(args: argparse.Namespace, console: "Console") -> None:
    """Run the one that was asked for. Raises LowcommError."""
    from lowcomm_node.settings.load import read_manifest

    manifest = read_manifest(args.manifest) if args.manifest is not None else None
    match args.experiment:
        case "overhead":
            _run_overhead(args, manifest, console)
        case "start":
            _run_start(args, manifest, console)
        case _:
            _run_scaling(args, manifest, console)


def _run_overhead(args: argparse.Namespace, manifest: "Manifest | None", console: "Console") -> None:
    from lowcomm_node.cli.bench.overhead import OverheadRequest, measure_overhead
    from lowcomm_node.cli.swarm.lines import parse_line
    from lowcomm_node.cli.swarm.shaping import can_shape

    line_words = "" if args.line == "none" else args.line
    if line_words == _LINE and not can_shape():
        console.print("loopback only: emulated lines need Linux, and root", highlight=False)
        line_words = ""
    request = OverheadRequest(
        nodes=args.nodes,
        turns=1 if args.quick else args.turns,
        window_s=args.window,
        every_steps=tuple(args.every),
        line=parse_line(line_words) if line_words else None,
        line_words=line_words,
        is_quick=args.quick,
    )
    measure_overhead(request, manifest, args.json, console)


def _run_start(args: argparse.Namespace, manifest: "Manifest | None", console: "Console") -> None:
    from lowcomm_node.cli.bench.start import StartRequest, measure_starts
    from lowcomm_node.cli.swarm.lines import parse_line

    request = StartRequest(
        rounds=1 if args.quick else args.rounds,
        nodes=args.nodes,
        train_s=args.seconds,
        line=parse_line(args.line) if args.line else None,
        line_words=args.line or "",
        is_quick=args.quick,
    )
    measure_starts(request, manifest, args.json, console)


def _run_scaling(args: argparse.Namespace, manifest: "Manifest | None", console: "Console") -> None:
    from lowcomm_node.cli.bench.scaling import ScalingRequest, measure_scaling

    request = ScalingRequest(
        most=min(args.most, 4) if args.quick else args.most,
        window_s=args.window,
        every_steps=args.every,
        is_quick=args.quick,
    )
    measure_scaling(request, manifest, args.json, console)
