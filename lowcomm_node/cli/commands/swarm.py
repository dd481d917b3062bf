"""``lowcomm-node swarm``: a whole swarm of real node processes on this computer."""

import argparse
import sys
from pathlib import Path

from lowcomm_node.cli.swarm.lines import parse_line
from lowcomm_node.cli.swarm.options import DEFAULT_CHAOS_EVERY_S, DEFAULT_MINUTES, MAX_NODES, SwarmOptions
from lowcomm_node.settings.manifest import OptimizerConfig
from lowcomm_node.settings.presets import OPTIMIZERS
from lowcomm_node.sim.profiles import Nat

__all__ = ["add_arguments", "run"]

_PLAIN_WIDTH = 140


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--nodes", type=int, default=4, metavar="N", help=f"nodes at the start, 1 to {MAX_NODES} (4)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help=f"training time ({DEFAULT_MINUTES:g}); without --manifest the schedule's length is chosen to fit it",
    )
    length.add_argument("--steps", type=int, metavar="N", help="length of the schedule; ends when the nodes finish it")
    parser.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="run manifest (see 'init'); its own length unless --minutes, --steps or --sleep",
    )
    parser.add_argument(
        "--optimizer",
        choices=tuple(OPTIMIZERS),
        help=f"inner optimizer, with the learning rate of its kind ({OptimizerConfig().kind}); a manifest names its own",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="PATH",
        help="text or token shards (.bin) to train on instead of the standard library's sources",
    )
    parser.add_argument(
        "--tokenizer", type=Path, metavar="FILE", help="tokenizer.json of a manifest that names one ('tokenizer train')"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the run and of the choice whom to kill")
    trouble = parser.add_argument_group("trouble")
    trouble.add_argument(
        "--kill-every",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="kill -9 a random node but the first so often (not in the last 15 %%); it comes back a moment later",
    )
    trouble.add_argument(
        "--chaos",
        nargs="?",
        type=float,
        const=DEFAULT_CHAOS_EVERY_S,
        default=0.0,
        metavar="SECONDS",
        help=f"a fault of a random kind so often ({DEFAULT_CHAOS_EVERY_S:g}): kill -9, frozen processes, cut lines, full "
        "disks, and the first node dies for good; reported fault by fault, status 1 when a promise is broken",
    )
    trouble.add_argument(
        "--line",
        metavar="LINE",
        help="each node in a network of its own at the end of such a line: RATE[,ROUND TRIP[,LOSS]], as in 20mbit,100ms,1%% or "
        "50/10mbit,40ms (down/up); needs Linux and root",
    )
    trouble.add_argument(
        "--behind-nat",
        type=int,
        default=0,
        metavar="K",
        help="with --line: the last K nodes are behind routers and cannot be dialled",
    )
    trouble.add_argument(
        "--nat",
        choices=[kind.value for kind in Nat if kind is not Nat.OPEN],
        default=Nat.CONE.value,
        help="their routers: cone (two of them reach each other through holes) or symmetric (they do not); default: cone",
    )
    trouble.add_argument(
        "--sleep",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="freeze the newest of the first nodes for so long, once, as a closed lid does, with the settings that nodes have by "
        "default; reported with when it steps and meets again, status 1 when it does not",
    )
    trouble.add_argument(
        "--join-late", type=int, default=0, metavar="N", help="additional nodes that join while the others train"
    )
    output = parser.add_argument_group("results")
    output.add_argument(
        "--compare",
        choices=["local", "calm", "no-meetings"],
        help="afterwards train the same nodes on the same data: without meetings for as many steps (local), or with meetings "
        "and without trouble up to the same progress, by as many nodes as it takes for the same tokens, rounded down and up, and by "
        "the same nodes with the same absences in order (calm); "
        "or, in the run itself, every second minute without meetings: what they cost in tokens a second (no-meetings)",
    )
    output.add_argument("--json", type=Path, metavar="FILE", help="report (runs/swarm-DATE-TIME.json)")
    output.add_argument("--plot", type=Path, metavar="FILE", help="PNG plot (runs/swarm-DATE-TIME.png)")
    output.add_argument(
        "--recordings",
        type=Path,
        metavar="DIR",
        help="at the end, put what the nodes' flight recorders hold into DIR; 'simulate --against DIR' compares with it",
    )
    place = parser.add_argument_group("place")
    place.add_argument(
        "--port-base",
        type=int,
        metavar="P",
        help="node i uses P+3i (DHT), P+3i+1 (gRPC), P+3i+2 (metrics); default: free ones",
    )
    place.add_argument("--dir", type=Path, metavar="DIR", help="new directory for state and logs, kept afterwards")
    place.add_argument("--keep", action="store_true", help="keep the temporary directory of state and logs")


def run(args: argparse.Namespace) -> int:
    """Run the swarm; 0 when it ran to its end with a live node and no promise broken, 130 after Ctrl+C."""
    options = SwarmOptions(
        nodes=args.nodes,
        minutes=args.minutes,
        steps=args.steps,
        manifest=args.manifest,
        optimizer=args.optimizer,
        kill_every_s=args.kill_every,
        chaos_every_s=args.chaos,
        line=parse_line(args.line) if args.line else None,
        line_words=args.line or "",
        behind_nat=args.behind_nat,
        nat=Nat(args.nat),
        sleep_s=args.sleep,
        join_late=args.join_late,
        seed=args.seed,
        json_file=args.json,
        plot_file=args.plot,
        port_base=args.port_base,
        compare_local=args.compare == "local",
        compare_calm=args.compare == "calm",
        compare_no_meetings=args.compare == "no-meetings",
        directory=args.dir,
        keep=args.keep,
        recordings=args.recordings,
        data=tuple(args.data),
        tokenizer=args.tokenizer,
    )
    options.check()
    # Imported late: what is wrong with the command line is said at once.
    from rich.console import Console

    from lowcomm_node.cli.swarm.perform import perform

    # Pipes and logs have no width of their own, and the 80 that rich takes for them breaks the lines of the table.
    return perform(options, Console(file=sys.stdout, width=None if sys.stdout.isatty() else _PLAIN_WIDTH))
