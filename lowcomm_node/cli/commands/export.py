"""``lowcomm-node export``: the model of a run, as a folder that others can use."""

import argparse
from pathlib import Path

from lowcomm_node.cli.common import add_settings_arguments, settings_from
from lowcomm_node.errors import ConfigError, StoreError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where from and where to."""
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="the folder to make: weights, manifest, tokenizer, model card"
    )
    parser.add_argument(
        "--from",
        dest="sources",
        action="append",
        type=Path,
        metavar="DIR",
        help="state directory of a node, whose newest checkpoint is taken; repeatable: the model is then the mean of the nodes "
        "(default, without --peers and --members: the state directory of this machine's node)",
    )
    parser.add_argument(
        "--peers",
        nargs="+",
        metavar="ADDRESS",
        help="addresses of nodes that are in the run: the model is then the mean of members that are asked for their state over "
        "the network (or LOWCOMM_PEERS, with --members; without either, those that this machine's node knows)",
    )
    parser.add_argument(
        "--members",
        type=int,
        metavar="N",
        help="of so many members of the run, which are asked over the network (default with --peers: 3)",
    )
    parser.add_argument("--run", metavar="ID", default="", help="refuse any run but this one; its beginning is enough")
    parser.add_argument(
        "--invite",
        metavar="INVITATION",
        help="as for 'join', where the run asks for one and this machine's node has not used one before",
    )
    parser.add_argument("--no-eval", action="store_true", help="do not measure losses on held-out data for the card")
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Read, average, judge, write."""
    from lowcomm_node.cli.exporting import Export, export_from_network, export_from_nodes

    settings, _ = settings_from(args)
    if args.folder.exists():
        raise StoreError(f"{args.folder} is there already; name a folder that is not")
    if args.members is not None and args.members < 1:
        raise ConfigError(f"--members {args.members}: at least one")
    is_network = args.peers is not None or args.members is not None
    if is_network and args.sources:
        raise ConfigError(
            "--from takes states from disks, --peers and --members from the network; give only one of the two"
        )
    if not is_network and (args.run or args.invite):
        raise ConfigError("--run and --invite go with --peers or --members")
    export = Export(args.folder, settings, is_judged=not args.no_eval)
    if is_network:
        return export_from_network(export, args)
    return export_from_nodes(export, args.sources)
