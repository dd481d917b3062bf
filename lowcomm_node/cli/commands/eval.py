"""``lowcomm-node eval``: how good an exported model is on held-out data."""

import argparse
import dataclasses
import json
from pathlib import Path

from lowcomm_node.cli.common import add_settings_arguments, settings_from
from lowcomm_node.cli.exit_codes import ExitCode

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the model and the data."""
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="folder that 'lowcomm-node export' has made"
    )
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="PATH",
        help="files, folders or globs (data.paths), of which the held-out part is taken; without it, what the node settings name: "
        "data.paths, data.dataset",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure it."""
    from lowcomm_node.train.exported import read_exported
    from lowcomm_node.train.judge import Judge

    settings, _ = settings_from(
        args, {"data.paths": ("--data", args.data), "data.dataset": ("--data", "" if args.data else None)}
    )
    exported = read_exported(args.model)
    judge = Judge(exported.manifest, exported.run_id, settings, exported.tokenizer)
    judged = judge.judge(exported.model)
    if args.json:
        print(json.dumps(dataclasses.asdict(judged)))
        return ExitCode.OK
    print(f"loss           {judged.loss:.4f}")
    if judged.accuracy is None:
        print(f"perplexity     {judged.perplexity:.2f}")
    else:
        print(f"accuracy       {judged.accuracy:.2%}")
    if judged.bits_per_byte is not None:
        print(f"bits per byte  {judged.bits_per_byte:.4f}")
    print(f"{'windows' if judged.accuracy is None else 'examples':15}{judged.examples}")
    return ExitCode.OK
