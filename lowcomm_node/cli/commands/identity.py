"""``lowcomm-node identity``: the peer id this node is known by."""

import argparse
import json

from lowcomm_node.cli.common import add_settings_arguments, make_state_dir, settings_from
from lowcomm_node.cli.exit_codes import ExitCode

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare show."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="show")
    show = actions.add_parser("show", help="print the peer id; the key is made when there is none yet")
    show.add_argument("--json", action="store_true", help="peer id and key file as JSON")
    add_settings_arguments(show)


def run(args: argparse.Namespace) -> int:
    """Print the peer id."""
    from lowcomm_node.adapters.identity import load_or_create

    settings, _ = settings_from(args)
    path = make_state_dir(settings) / "identity.key"
    peer_id = load_or_create(path).peer_id
    print(json.dumps({"peer_id": peer_id, "key_file": str(path)}) if args.json else peer_id)
    return ExitCode.OK
