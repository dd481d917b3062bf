"""``lowcomm-node bench``: the laboratory. Methods compared at equal tokens, codecs on real differences, links between two processes."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lowcomm_node.bench.methods import METHODS
from lowcomm_node.bench.plan import CheckpointRequest, CodecRequest, Request, plan_codecs, plan_trials
from lowcomm_node.bench.trial import Shards, Speeds
from lowcomm_node.cli.bench.against import AGAINST, add_against, numbers, run_against
from lowcomm_node.cli.bench.swarm_experiments import SWARM_EXPERIMENTS, add_swarm_experiments, run_swarm_experiment
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.paths import resolve_state_dir
from lowcomm_node.settings.presets import OPTIMIZERS

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["add_arguments", "run"]

_PLAIN_WIDTH = 160


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the experiments and their arguments."""
    experiments = parser.add_subparsers(
        dest="experiment",
        required=True,
        metavar="|".join(("methods|codecs|link|checkpoint|scrape", *SWARM_EXPERIMENTS, *AGAINST)),
    )
    _add_methods(experiments)
    _add_codecs(experiments)
    _add_link(experiments)
    _add_checkpoint(experiments)
    _add_scrape(experiments)
    add_swarm_experiments(experiments)
    add_against(experiments)


def _add_methods(experiments: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    methods = experiments.add_parser(
        "methods",
        help="train the same model on the same data by several methods; loss, traffic and agreement of each",
        epilog="A method is a line of --list, or --set and --manifest. Results are kept in --out: what is there is not run again.",
    )
    which = methods.add_argument_group("what is compared")
    which.add_argument("--list", action="store_true", help="name all methods and stop")
    which.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="these methods instead of the default selection"
    )
    which.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one more method: our meetings with this manifest key, e.g. meeting.dtype=int4; repeat it for several keys",
    )
    which.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="one more method: our meetings with this file's [optimizer], [outer], [meeting] and [ab_training]",
    )
    which.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="KEY=A,B",
        help="each method once for each value, e.g. optimizer.lr=0.003,0.006 or ab_training.cutoff=0.1,0.2; several: each combination",
    )
    how = methods.add_argument_group("under which conditions")
    how.add_argument("--seeds", type=int, default=1, metavar="N", help="initial weights, data order and partners (1)")
    how.add_argument("--steps", type=int, metavar="N", help="length of the schedule (800; --full 2000)")
    how.add_argument("--replicas", type=int, metavar="N", help="nodes (8; --full 16)")
    how.add_argument(
        "--shards",
        choices=[*Shards],
        default=Shards.IID,
        help="windows of all text, or each replica its own files (iid)",
    )
    how.add_argument(
        "--speeds", choices=[*Speeds], default=Speeds.EQUAL, help="all alike, or from 1 down to 1/8 (equal)"
    )
    how.add_argument(
        "--delay", type=float, default=0.1, metavar="STEPS", help="how long a message of a meeting travels (0.1)"
    )
    how.add_argument("--full", action="store_true", help="a new manifest's model and length instead of the small ones")
    how.add_argument(
        "--data", nargs="+", default=[], metavar="PATH", help="text instead of the standard library's sources"
    )
    how.add_argument(
        "--task", default="", metavar="NAME", help="train a task instead: vit or vgg on pictures, or an installed one"
    )
    how.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the task's options, e.g. width=32; repeat it for several",
    )
    output = methods.add_argument_group("work and results")
    output.add_argument("--jobs", type=int, metavar="N", help="runs at a time, one thread each (number of cores)")
    output.add_argument(
        "--out", type=Path, default=Path("runs/bench"), metavar="DIR", help="folder of results (runs/bench)"
    )


def _add_codecs(experiments: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    codecs = experiments.add_parser(
        "codecs",
        help="what each codec, format and test matrix captures of real differences between replicas, and for how many bytes",
    )
    default = CodecRequest()
    codecs.add_argument("--optimizer", choices=[*OPTIMIZERS], default=default.optimizer, help="inner optimizer (adamw)")
    codecs.add_argument(
        "--every", type=int, default=default.every_steps, metavar="K", help="own steps between two meetings (10)"
    )
    codecs.add_argument(
        "--meetings", type=int, default=default.meetings, metavar="N", help="how many; the first ones only teach (24)"
    )
    codecs.add_argument(
        "--burn-in", type=int, default=default.burn_in_steps, metavar="STEPS", help="before the first meeting (100)"
    )
    codecs.add_argument("--seed", type=int, default=0, metavar="N", help="initial weights and data order (0)")
    codecs.add_argument("--full", action="store_true", help="a new manifest's model instead of the small one")
    codecs.add_argument(
        "--data", nargs="+", default=[], metavar="PATH", help="text instead of the standard library's sources"
    )
    codecs.add_argument(
        "--out", type=Path, default=Path("runs/bench"), metavar="DIR", help="folder of results (runs/bench)"
    )


def _add_link(experiments: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    link = experiments.add_parser(
        "link",
        help="meetings between two processes of this computer over each kind of connection: rate, share of the line, caps",
        epilog="A line is emulated between two networks of their own; that needs Linux and root.",
    )
    link.add_argument(
        "--mb",
        type=float,
        default=10.0,
        metavar="N",
        help="payload that each end sends in a meeting, in 10^6 bytes (10)",
    )
    link.add_argument("--meetings", type=int, default=3, metavar="N", help="over one connection (3)")
    link.add_argument("--rounds", type=int, default=2, metavar="N", help="connections of each kind, in turns (2)")
    link.add_argument(
        "--line", metavar="LINE", help="also over such a line: RATE[,ROUND TRIP[,LOSS]], as in 20mbit,100ms,1%%"
    )
    link.add_argument(
        "--cap-mbit",
        type=float,
        default=0.0,
        metavar="N",
        help="also one payload each with this cap up and down: the rate at the receiver, and control beside it",
    )
    link.add_argument(
        "--carriers",
        nargs="+",
        metavar="NAME",
        help="only these kinds of connections (all there are; tcp: bare, for comparison)",
    )
    link.add_argument("--seed", type=int, default=0, metavar="N", help="which packets are lost (0)")
    link.add_argument("--json", type=Path, metavar="FILE", help="the figures as JSON")


def _add_checkpoint(experiments: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    checkpoint = experiments.add_parser(
        "checkpoint",
        help="what a checkpoint costs here: how long training stands still for it, how long it is written, and how much slower "
        "training is meanwhile",
    )
    default = CheckpointRequest()
    checkpoint.add_argument(
        "--mib",
        type=numbers,
        default=default.mib,
        metavar="A,B",
        help="sizes of the whole state: 20 bytes per parameter with AdamW (64,512)",
    )
    checkpoint.add_argument(
        "--writes", type=int, default=default.writes, metavar="N", help="checkpoints of each size (4)"
    )
    checkpoint.add_argument("--device", default=default.device, metavar="NAME", help="as device.name of a node (auto)")
    checkpoint.add_argument(
        "--threads", type=int, default=default.threads, metavar="N", help="torch's CPU threads; 0: its own choice (0)"
    )
    checkpoint.add_argument(
        "--dir",
        type=Path,
        metavar="DIR",
        help="on the disk to be measured; nothing is left there (a node's state directory)",
    )
    checkpoint.add_argument("--json", type=Path, metavar="FILE", help="everything that was measured")


def _add_scrape(experiments: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    scrape = experiments.add_parser("scrape", help="what it costs a node to be scraped by Prometheus")
    scrape.add_argument("--scrapes", type=int, default=200, metavar="N", help="how many (200)")
    scrape.add_argument(
        "--minutes",
        type=float,
        default=0.0,
        metavar="N",
        help="also train with a node on this computer for so long, left alone and scraped every 15 s and every second by turns of "
        "half a minute, and compare its speed (0: do not)",
    )
    scrape.add_argument(
        "--threads", type=int, default=0, metavar="N", help="torch's CPU threads in that node; 0: its own choice (0)"
    )
    scrape.add_argument(
        "--manifest", type=Path, metavar="FILE", help="what it trains (see 'init'; a small language model)"
    )
    scrape.add_argument("--json", type=Path, metavar="FILE", help="everything that was measured")


def run(args: argparse.Namespace) -> int:
    """Run the experiment; what is wrong with the command line is said before torch is loaded."""
    if args.experiment == "codecs":
        _run_codecs(args)
        return ExitCode.OK
    if args.experiment == "link":
        _run_link(args)
        return ExitCode.OK
    if args.experiment == "checkpoint":
        _run_checkpoint(args)
        return ExitCode.OK
    if args.experiment == "scrape":
        _run_scrape(args)
        return ExitCode.OK
    if args.experiment in SWARM_EXPERIMENTS:
        run_swarm_experiment(args, _console())
        return ExitCode.OK
    if args.experiment in AGAINST:
        run_against(args, _console())
        return ExitCode.OK
    return _run_methods(args)


def _run_scrape(args: argparse.Namespace) -> None:
    from lowcomm_node.cli.bench.scrape import ScrapeRequest, show_scrapes
    from lowcomm_node.settings.load import read_manifest

    request = ScrapeRequest(scrapes=args.scrapes, minutes=args.minutes, threads=args.threads)
    manifest = read_manifest(args.manifest) if args.manifest is not None else None
    show_scrapes(request, manifest, args.json, _console())


def _run_link(args: argparse.Namespace) -> None:
    from lowcomm_node.cli.bench.link import CARRIERS, LinkRequest, measure_links
    from lowcomm_node.cli.swarm.lines import parse_line

    request = LinkRequest(
        megabytes=args.mb,
        meetings=args.meetings,
        rounds=args.rounds,
        line=parse_line(args.line) if args.line else None,
        line_words=args.line or "",
        cap_mbit=args.cap_mbit,
        seed=args.seed,
        carriers=tuple(args.carriers or CARRIERS),
    )
    measure_links(request, args.json, _console())


def _run_codecs(args: argparse.Namespace) -> None:
    request = CodecRequest(
        optimizer=args.optimizer,
        every_steps=args.every,
        meetings=args.meetings,
        burn_in_steps=args.burn_in,
        seed=args.seed,
        is_full=args.full,
        data=tuple(args.data),
    )
    plan_codecs(request)
    from lowcomm_node.cli.bench.measure import measure

    measure(request, args.out, _console())


def _run_checkpoint(args: argparse.Namespace) -> None:
    request = CheckpointRequest(mib=args.mib, writes=args.writes, device=args.device, threads=args.threads)
    request.check()
    from lowcomm_node.cli.bench.checkpoint import measure_cost

    measure_cost(request, args.dir or resolve_state_dir("", os.environ), args.json, _console())


def _run_methods(args: argparse.Namespace) -> int:
    if args.list:
        width = max(map(len, METHODS))
        for method in METHODS.values():
            print(f"{'*' if method.is_default else ' '} {method.name:<{width}}  {method.about}")
        print("* compared when no --only is given")
        return ExitCode.OK
    jobs = args.jobs if args.jobs is not None else os.cpu_count() or 1
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs} is not allowed; allowed: at least 1")
    trials = plan_trials(
        Request(
            only=args.only,
            seeds=args.seeds,
            steps=args.steps,
            replicas=args.replicas,
            shards=Shards(args.shards),
            speeds=Speeds(args.speeds),
            delay_steps=args.delay,
            is_full=args.full,
            sets=args.set,
            manifest=args.manifest,
            grid=args.grid,
            data=tuple(args.data),
            task=args.task,
            options=args.option,
        )
    )
    from lowcomm_node.cli.bench.compare import compare

    compare(trials, args.out, jobs, _console())
    return ExitCode.OK


def _console() -> "Console":
    from rich.console import Console

    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
