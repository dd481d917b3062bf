"""``lowcomm-node init``: write a commented run manifest to edit."""

import argparse
import shlex
from dataclasses import replace
from pathlib import Path

from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.errors import StoreError
from lowcomm_node.settings.canonical import run_id
from lowcomm_node.settings.load import build
from lowcomm_node.settings.manifest import Manifest, OptimizerConfig
from lowcomm_node.settings.presets import OPTIMIZERS
from lowcomm_node.settings.template import manifest_template

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the file and what goes into it."""
    parser.add_argument("file", type=Path, metavar="FILE", help="manifest to write, e.g. my-run.toml")
    parser.add_argument("--name", help="name of the run; default: the file's name without its ending")
    parser.add_argument(
        "--optimizer",
        choices=tuple(OPTIMIZERS),
        default=OptimizerConfig().kind,
        help="inner optimizer, with the learning rate of its kind (%(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite a file that exists")


def run(args: argparse.Namespace) -> int:
    """Write the manifest; prints the run id and what to do next."""
    path: Path = args.file
    named = build(Manifest, {"name": path.stem if args.name is None else args.name}, "--name")
    manifest = replace(named, optimizer=OPTIMIZERS[args.optimizer])
    try:
        with path.open("w" if args.force else "x", encoding="utf-8", newline="\n") as file:
            file.write(manifest_template(manifest))
    except FileExistsError as error:
        raise StoreError(f"{path} exists already; choose another name, or overwrite it with --force") from error
    except FileNotFoundError as error:
        raise StoreError(f"{path}: the folder {path.parent} does not exist; create it first") from error
    except IsADirectoryError as error:
        raise StoreError(f"{path} is a folder; give the name of a file") from error
    shown = shlex.quote(str(path))
    print(f"wrote {path}")
    print(f"run id {run_id(manifest)} (changes with every change you make to the file)")
    print()
    print("next:")
    print(f"  edit {shown}")
    print(f"  lowcomm-node config check {shown}       is it sound, and which run is it?")
    print(f"  lowcomm-node join --manifest {shown}    start the run; prints the line others join with")
    return ExitCode.OK
