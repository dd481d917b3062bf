"""``lowcomm-node tokenizer``: train one on text, and say what a manifest says of one."""

import argparse
from pathlib import Path

from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.errors import ConfigError, StoreError

__all__ = ["add_arguments", "run"]

_LEAST_TOKENS = 257
"""256 bytes and the end of a text."""
_MOST_TOKENS = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare train and show."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    train = actions.add_parser("train", help="make a tokenizer.json (byte-level BPE) from text files or folders")
    train.add_argument("paths", nargs="+", metavar="PATH", help="text: files, folders or globs, as in data.paths")
    train.add_argument("--vocab-size", type=int, default=8192, metavar="N", help="most tokens it has (%(default)s)")
    train.add_argument(
        "-o", "--output", type=Path, default=Path("tokenizer.json"), metavar="FILE", help="file to write (%(default)s)"
    )
    train.add_argument("--force", action="store_true", help="overwrite a file that exists")
    show = actions.add_parser("show", help="print the digest and the manifest's lines of a tokenizer.json")
    show.add_argument("file", type=Path, metavar="FILE", help="a tokenizer.json, one of your own or of somebody else")


def run(args: argparse.Namespace) -> int:
    """Make or read the file, and print what belongs into the manifest and into each node's settings."""
    path: Path = args.file if args.action == "show" else args.output
    if args.action == "train":
        _train(args.paths, args.vocab_size, path, is_forced=args.force)
    _show(path)
    return ExitCode.OK


def _train(paths: list[str], vocab_size: int, output: Path, *, is_forced: bool) -> None:
    if not _LEAST_TOKENS <= vocab_size <= _MOST_TOKENS:
        raise ConfigError(f"--vocab-size {vocab_size}: allowed are {_LEAST_TOKENS} to {_MOST_TOKENS}")
    if output.exists() and not is_forced:
        raise StoreError(f"{output} exists already; choose another name, or overwrite it with --force")
    from lowcomm_node.settings.manifest import DataConfig
    from lowcomm_node.train.data.held_out import is_held_out
    from lowcomm_node.train.data.text_files import find_documents
    from lowcomm_node.train.data.tokenizer import train_tokenizer

    documents = find_documents(tuple(paths))
    # What no node trains on is of no use to the tokenizer either, unless there is nothing else.
    ratio = DataConfig().validation_ratio
    kept = [document for document in documents if not is_held_out(document.name, ratio)] or documents
    content = train_tokenizer([document.text.decode() for document in kept], vocab_size)
    unfinished = output.with_name(f".{output.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(output)
    print(f"wrote {output}, made from {len(kept)} files, {sum(len(document.text) for document in kept)} bytes")


def _show(path: Path) -> None:
    from lowcomm_node.settings.load import toml_value
    from lowcomm_node.train.data.tokenizer import FileEncoder, read_tokenizer

    tokenizer, digest = read_tokenizer(path)
    print(f"digest {digest}")
    print()
    print("in the run's manifest (model.vocab_size may be larger):")
    print("  [model]")
    print(f"  vocab_size = {FileEncoder(tokenizer).vocab_size}")
    print("  [data]")
    print(f"  tokenizer = {toml_value(digest)}")
    print()
    print("in the config.toml of each node, which needs a copy of this very file:")
    print("  [data]")
    print(f"  tokenizer = {toml_value(str(path.absolute()))}")
