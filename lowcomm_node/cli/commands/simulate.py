"""``lowcomm-node simulate``: a swarm of up to 10,000 nodes in virtual time, in this process."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.errors import ConfigError
from lowcomm_node.sim.plan import plan_manifest
from lowcomm_node.sim.profiles import PROFILES
from lowcomm_node.sim.scenario import Attack, Change, Level, Scenario, Speeds, parse_partition, parse_trace

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["add_arguments", "run"]

_PLAIN_WIDTH = 140
_NODES = {Level.CONSENSUS: 200, Level.TRAINING: 8}
_MINUTES = {Level.CONSENSUS: 5.0, Level.TRAINING: 2.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    default = Scenario()
    swarm = parser.add_argument_group("the swarm")
    swarm.add_argument(
        "--level",
        choices=[level.value for level in Level],
        default=default.level,
        help="consensus: nodes are vectors, thousands of them; training: real replicas on real text, tens of them",
    )
    swarm.add_argument("--nodes", type=int, metavar="N", help="at the start (consensus 200, training 8)")
    swarm.add_argument("--minutes", type=float, metavar="M", help="of virtual time (consensus 5, training 2)")
    swarm.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same report (0)")
    swarm.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="run manifest; without one a small model, for consensus meeting every 30 own steps",
    )
    swarm.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one key of the manifest, e.g. meeting.clip_ratio=0; repeatable",
    )
    swarm.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="PATH",
        help="text to train on instead of the standard library's sources",
    )
    swarm.add_argument(
        "--sweep-nodes",
        metavar="N,N,...",
        help="once for each of these sizes instead of --nodes; what a node pays in each",
    )
    swarm.add_argument(
        "--against",
        type=Path,
        metavar="DIR",
        help="compare with a real swarm: DIR holds what 'swarm --recordings DIR' wrote. Nodes, manifest, network and machines "
        "are as there; of the other options --data, --seed, --minutes and --json count",
    )
    around = parser.add_argument_group("network and machines")
    around.add_argument("--network", choices=[*PROFILES], default=default.network, help="kinds of lines (home)")
    around.add_argument("--latency-ms", type=float, metavar="MS", help="one way, between any two nodes")
    around.add_argument("--mbit", type=float, metavar="RATE", help="megabits per second, up and down, of every node")
    around.add_argument(
        "--serve-ms",
        type=float,
        default=1e3 * default.serve_s,
        metavar="MS",
        help="a trainer's own work for each of a meeting's requests, besides the wait for the end of its step (5)",
    )
    around.add_argument(
        "--step-seconds", type=float, default=default.step_s, metavar="S", help="own step of the median machine (1)"
    )
    around.add_argument(
        "--speeds",
        choices=[speeds.value for speeds in Speeds],
        default=default.speeds,
        help="how machines differ (lognormal; sigma 0.5)",
    )
    around.add_argument(
        "--clock-skew", type=float, default=0.0, metavar="S", help="standard deviation of the nodes' clocks (0)"
    )
    trouble = parser.add_argument_group("trouble")
    trouble.add_argument(
        "--churn", type=float, default=0.0, metavar="SHARE", help="of the nodes that is replaced each minute, e.g. 0.3"
    )
    trouble.add_argument(
        "--trace", type=Path, metavar="FILE", help="comings and goings: lines of SECONDS,join|leave|kill,COUNT"
    )
    trouble.add_argument("--hostile", type=float, default=0.0, metavar="SHARE", help="of the nodes that are hostile")
    trouble.add_argument(
        "--attack",
        choices=[attack.value for attack in Attack],
        default=default.attack,
        help="what hostile nodes show (sign-flip)",
    )
    trouble.add_argument(
        "--attack-from", type=float, default=0.0, metavar="M", help="minute in which the attack begins (0)"
    )
    trouble.add_argument(
        "--partition",
        action="append",
        default=[],
        metavar="SHARE@FROM-UNTIL",
        help="cut off a share of the nodes between two minutes, e.g. 0.3@2-4; repeatable",
    )
    vector = parser.add_argument_group("level consensus")
    vector.add_argument(
        "--dimension", type=int, default=default.dimension, metavar="D", help="numbers of a vector (32)"
    )
    vector.add_argument(
        "--noise", type=float, default=default.noise, metavar="X", help="what a step adds to each number, at random (1)"
    )
    vector.add_argument(
        "--drift", type=float, default=default.drift, metavar="X", help="what a step adds on all nodes alike (0.1)"
    )
    output = parser.add_argument_group("results")
    output.add_argument("--json", type=Path, metavar="FILE", help="the whole report")
    output.add_argument(
        "--plot", type=Path, metavar="DIR", help="folder for pictures (needs matplotlib: the sim extra)"
    )


def run(args: argparse.Namespace) -> int:
    """Simulate; what is wrong with the command line is said before torch is loaded."""
    if args.against is not None:
        return _run_against(args)
    scenarios = _scenarios(args)
    for scenario in scenarios:
        scenario.check()
    if args.plot is not None:
        _check_matplotlib()
    # Imported late: torch takes seconds.
    from lowcomm_node.cli.simulate.show import perform

    perform(scenarios, args.json, args.plot, _console())
    return ExitCode.OK


def _run_against(args: argparse.Namespace) -> int:
    """Status 1 when the bytes are not equal; durations are for people to judge."""
    from lowcomm_node.cli.simulate.against import show_against

    scenario = Scenario(minutes=args.minutes or 0.0, seed=args.seed, data=tuple(args.data))
    has_equal_bytes = show_against(args.against, scenario, args.json, _console())
    return ExitCode.OK if has_equal_bytes else ExitCode.FAILED


def _console() -> "Console":
    from rich.console import Console

    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)


def _scenarios(args: argparse.Namespace) -> list[Scenario]:
    level = Level(args.level)
    minutes = _MINUTES[level] if args.minutes is None else args.minutes
    nodes = _NODES[level] if args.nodes is None else args.nodes
    Scenario(level=level, minutes=minutes, step_s=args.step_seconds, nodes=nodes).check()
    scenario = Scenario(
        level=level,
        nodes=nodes,
        minutes=minutes,
        seed=args.seed,
        manifest=plan_manifest(
            level, args.manifest, args.set, steps=int(60 * minutes / args.step_seconds), seed=args.seed
        ),
        network=args.network,
        latency_s=None if args.latency_ms is None else args.latency_ms / 1e3,
        bytes_per_s=None if args.mbit is None else args.mbit * 125_000,
        serve_s=args.serve_ms / 1e3,
        step_s=args.step_seconds,
        speeds=Speeds(args.speeds),
        churn_per_minute=args.churn,
        trace=_trace(args.trace),
        hostile_ratio=args.hostile,
        attack=Attack(args.attack),
        attack_from_s=60 * args.attack_from,
        partitions=tuple(parse_partition(text) for text in args.partition),
        skew_s=args.clock_skew,
        dimension=args.dimension,
        noise=args.noise,
        drift=args.drift,
        data=tuple(args.data),
    )
    if args.sweep_nodes is None:
        return [scenario]
    try:
        sizes = [int(word) for word in args.sweep_nodes.split(",")]
    except ValueError as error:
        raise ConfigError(f"--sweep-nodes {args.sweep_nodes}: write it as sizes with commas, e.g. 100,1000") from error
    return [dataclasses.replace(scenario, nodes=size) for size in sizes]


def _trace(path: Path | None) -> tuple[Change, ...]:
    return () if path is None else parse_trace(path.read_text(encoding="utf-8"), str(path))


def _check_matplotlib() -> None:
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib: pip install 'lowcomm-node[sim]'")
