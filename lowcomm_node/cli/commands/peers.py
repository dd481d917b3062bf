"""``lowcomm-node peers``: the other members the node on this machine knows."""

import argparse
import sys

from lowcomm_node.cli.common import add_settings_arguments, settings_from, state_dir_of
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.cli.words import ago, printable

__all__ = ["OVER", "add_arguments", "run"]

OVER = {"grpc": "grpc", "grpc_reversed": "bell", "libp2p": "p2p"}
"""What the last meeting travelled over, in a few letters."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="everything, for scripts; the fields of control.proto")
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the node and print its answer. Raises NoNodeError when none is running."""
    from lowcomm_node.daemon.control import ControlClient
    from lowcomm_node.daemon.plain import as_json

    settings, _ = settings_from(args)
    with ControlClient(state_dir_of(settings)) as client:
        peers = client.peers()
    if args.json:
        sys.stdout.write(as_json(peers))
        return ExitCode.OK
    if not peers.peers:
        print("The node knows no other member yet.")
        return ExitCode.OK

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("peer", no_wrap=True)
    table.add_column("address", overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("over", no_wrap=True)
    table.add_column("progress", justify="right", no_wrap=True)
    table.add_column("meetings", justify="right", no_wrap=True)
    table.add_column("seen", no_wrap=True)
    for peer in sorted(peers.peers, key=lambda peer: (-peer.meetings, peer.peer_id)):
        cells = (
            f"…{printable(peer.peer_id)[-8:]}",
            printable(peer.grpc_address) or peer.reachability,
            peer.state if peer.link else "no way",
            OVER.get(peer.last_link, ""),
            f"{peer.progress_steps:,.0f}",
            f"{peer.meetings:,}",
            ago(peer.seen_ago_seconds),
        )
        table.add_row(*(Text(cell) for cell in cells))
    Console().print(table)
    return ExitCode.OK
