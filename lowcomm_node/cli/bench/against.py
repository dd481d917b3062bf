"""The experiments that stand this project beside others: their arguments, and what runs them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lowcomm_node.bench.requests import AveragerRequest, FieldRequest, UtilisationRequest

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["AGAINST", "add_against", "numbers", "run_against"]

AGAINST = ("field", "averager", "utilisation")


def add_against(experiments: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare them."""
    _add_field(experiments)
    _add_averager(experiments)
    _add_utilisation(experiments)


def run_against(args: argparse.Namespace, console: "Console") -> None:
    """Run the one that was asked for. Raises LowcommError."""
    if args.experiment == "field":
        _run_field(args, console)
    elif args.experiment == "averager":
        _run_averager(args, console)
    else:
        _run_utilisation(args, console)


def _add_field(experiments: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    default = FieldRequest()
    field = experiments.add_parser(
        "field",
        help="a swarm of real nodes beside DDP, DiLoCo and lone replicas, each a process over Gloo on loopback: loss against tokens "
        "and against bytes, with the same model, data, optimizer and number of tokens",
    )
    field.add_argument("--nodes", type=int, default=default.nodes, metavar="N", help="processes of each run (4)")
    field.add_argument("--steps", type=int, default=default.steps, metavar="N", help="of each process (400)")
    field.add_argument("--seeds", type=int, default=default.seeds, metavar="N", help="initial weights and partners (1)")
    field.add_argument(
        "--diloco-every",
        type=_whole_numbers,
        default=default.diloco_every_steps,
        metavar="H,H",
        help="own steps between DiLoCo's exchanges, a run for each (50,10)",
    )
    field.add_argument("--threads", type=int, default=default.threads, metavar="N", help="of torch, each process (1)")
    field.add_argument(
        "--manifest", type=Path, metavar="FILE", help="model, optimizer, meetings (see 'init'; a small one)"
    )
    field.add_argument(
        "--data", nargs="+", default=[], metavar="PATH", help="text instead of the standard library's sources"
    )
    field.add_argument(
        "--json",
        type=Path,
        default=Path("runs/bench/field.json"),
        metavar="FILE",
        help="all runs with their curves; table and pictures go beside it (runs/bench/field.json)",
    )
    field.add_argument("--quick", action="store_true", help="two processes and 25 steps, only to see that it works")


def _run_field(args: argparse.Namespace, console: "Console") -> None:
    from lowcomm_node.settings.load import read_manifest
    from lowcomm_node.settings.manifest import Manifest
    from lowcomm_node.settings.node import DataSettings

    request = FieldRequest(
        nodes=2 if args.quick else args.nodes,
        steps=25 if args.quick else args.steps,
        seeds=1 if args.quick else args.seeds,
        diloco_every_steps=(10,) if args.quick else args.diloco_every,
        threads=args.threads,
    )
    request.check()
    manifest = read_manifest(args.manifest) if args.manifest is not None else Manifest(name="field")
    data = DataSettings(paths=tuple(str(Path(path).expanduser().absolute()) for path in args.data))
    from lowcomm_node.cli.bench.field import compare_field

    compare_field(request, manifest, data, args.json, console)


def _add_averager(experiments: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    default = AveragerRequest()
    averager = experiments.add_parser(
        "averager",
        help="the weights of a model among eight peers, by our meetings and by hivemind's own averager: time, bytes, processor, and "
        "what happens when one peer is killed",
        epilog="Bytes are counted in a network of its own; that needs Linux, and root or user namespaces.",
    )
    averager.add_argument("--model", default=default.model, metavar="SIZE", help="as in 'init --model' (125m)")
    averager.add_argument("--peers", type=int, default=default.peers, metavar="N", help="processes of each side (8)")
    averager.add_argument(
        "--groups", type=_whole_numbers, default=default.groups, metavar="N,N", help="sizes of hivemind's groups (2,8)"
    )
    averager.add_argument("--rounds", type=int, default=default.rounds, metavar="N", help="measured of each kind (1)")
    averager.add_argument(
        "--patience", type=float, default=default.patience_s, metavar="S", help="a longer round has failed (120)"
    )
    averager.add_argument("--threads", type=int, default=default.threads, metavar="N", help="of torch, each peer (1)")
    averager.add_argument("--json", type=Path, metavar="FILE", help="everything that was measured")
    averager.add_argument("--quick", action="store_true", help="two peers and a small model, only to see that it works")


def _run_averager(args: argparse.Namespace, console: "Console") -> None:
    request = AveragerRequest(
        model="1m" if args.quick else args.model,
        peers=2 if args.quick else args.peers,
        groups=(2,) if args.quick else args.groups,
        rounds=args.rounds,
        patience_s=args.patience,
        threads=args.threads,
    )
    request.check()
    from lowcomm_node.cli.bench.averager import compare_averagers

    compare_averagers(request, args.json, console)


def _add_utilisation(experiments: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    utilisation = experiments.add_parser(
        "utilisation",
        help="share of its time that a node trains a 30.8M-parameter model at the end of slow lines, beside published figures of DiLoCo",
        epilog="Lines are emulated between two networks of their own; that needs Linux and root. Elsewhere all of it is reckoned.",
    )
    utilisation.add_argument(
        "--rates", type=numbers, default=(10.0, 50.0, 200.0, 1000.0), metavar="A,B", help="in Mbit/s (10,50,200,1000)"
    )
    utilisation.add_argument("--round-trip", type=float, default=0.0, metavar="MS", help="of the lines (0)")
    utilisation.add_argument("--threads", type=int, default=0, metavar="N", help="of torch (all cores)")
    utilisation.add_argument(
        "--emulate-to",
        type=float,
        default=200.0,
        metavar="N",
        help="faster lines are reckoned from those that were measured (200 Mbit/s)",
    )
    utilisation.add_argument("--json", type=Path, metavar="FILE", help="everything that was measured")
    utilisation.add_argument("--quick", action="store_true", help="one line only, to see that it works")


def _run_utilisation(args: argparse.Namespace, console: "Console") -> None:
    request = UtilisationRequest(
        rates_mbit=(100.0,) if args.quick else args.rates,
        round_trip_ms=args.round_trip,
        threads=args.threads,
        most_emulated_mbit=args.emulate_to,
    )
    request.check()
    from lowcomm_node.cli.bench.utilisation import measure_utilisation

    measure_utilisation(request, args.json, console)


def numbers(text: str) -> tuple[float, ...]:
    """For argparse: a list with commas. Raises ArgumentTypeError."""
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers; write it as 64,512") from error


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers; write it as 50,10") from error
