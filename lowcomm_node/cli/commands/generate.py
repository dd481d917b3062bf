"""``lowcomm-node generate``: text from an exported model."""

import argparse
import sys
from itertools import islice
from pathlib import Path

from lowcomm_node.cli.common import add_settings_arguments, settings_from
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.errors import ConfigError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the model, the prompt and how to draw."""
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="folder that 'lowcomm-node export' has made"
    )
    parser.add_argument(
        "--prompt", required=True, metavar="TEXT", help="what it goes on from; - reads it from standard input"
    )
    parser.add_argument("--tokens", type=int, default=200, metavar="N", help="tokens to write (200)")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        metavar="T",
        help="0 takes the likeliest token each time; 1 draws as the model says (0.8)",
    )
    parser.add_argument(
        "--top-k", type=int, default=0, metavar="K", help="draw from the K likeliest tokens; 0 from all (0)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another text with the same numbers (0)")
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write prompt and text as it comes."""
    if args.tokens < 1 or args.temperature < 0 or args.top_k < 0:
        raise ConfigError("--tokens takes 1 or more, --temperature and --top-k take 0 or more")
    from lowcomm_node.train.data.words import words_of
    from lowcomm_node.train.exported import read_exported
    from lowcomm_node.train.generate import generate
    from lowcomm_node.train.session import choose_device

    settings, _ = settings_from(args)
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    exported = read_exported(args.model)
    words = words_of(exported.manifest, exported.tokenizer)
    tokens = words.tokens(prompt)
    if not tokens:
        raise ConfigError("--prompt is empty; give at least a character")
    written = generate(
        exported.model.to(choose_device(settings.device)),
        tokens,
        context_length=exported.manifest.model.context_length,
        temperature=args.temperature,
        top_k=args.top_k,
        seed=args.seed,
    )
    told = ""
    print(prompt, end="", flush=True)
    drawn: list[int] = []
    for token in islice(written, args.tokens):
        drawn.append(token)
        text = words.text(drawn)
        if text.startswith(told):  # a character may take several tokens
            print(text[len(told) :], end="", flush=True)
            told = text
    print()
    return ExitCode.OK
