"""``lowcomm-node debug``: what a bug report needs."""

import argparse
import shutil
from pathlib import Path

from lowcomm_node.cli.common import add_settings_arguments, settings_from, state_dir_of
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.cli.words import size
from lowcomm_node.errors import StoreError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare dump."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="dump")
    dump = actions.add_parser("dump", help="write the last events of the node's core, its state and its last warnings")
    dump.add_argument(
        "--full",
        action="store_true",
        help="keep peer ids, addresses, the run's name and what settings say; without it they are replaced, and the "
        "file still runs in 'replay'",
    )
    dump.add_argument("--out", type=Path, metavar="FILE", help="where to put it instead of the state directory")
    add_settings_arguments(dump)


def run(args: argparse.Namespace) -> int:
    """Ask the node for a dump and say where it is. Raises NoNodeError when none is running, StoreError."""
    from lowcomm_node.daemon.control import ControlClient

    settings, _ = settings_from(args)
    out: Path | None = args.out
    if out is not None and out.is_dir():
        raise StoreError(f"{out}: is a directory; --out names the file to write")
    with ControlClient(state_dir_of(settings)) as client:
        path = client.dump(is_full=args.full)
    if out is not None:
        # The node writes where it surely may; it need not share our rights, our root directory or our /tmp.
        path = Path(shutil.move(path, out))
    kept = "names and addresses are in it" if args.full else "no names, addresses or tensors are in it"
    print(f"{path} ({size(path.stat().st_size)}; {kept})")
    print(f"'lowcomm-node replay {path}' runs it; attach it when you report a bug.")
    return ExitCode.OK
