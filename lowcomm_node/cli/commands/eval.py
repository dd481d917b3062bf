"""``lowcomm-node eval``: how good an exported model is on held-out data."""

import argparse
import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lowcomm_node.cli.common import add_settings_arguments, settings_from
from lowcomm_node.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from lowcomm_node.settings.node import NodeSettings

__all__ = ["Judgement", "add_arguments", "judge", "run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Of one model on one machine's held-out data."""

    loss: float
    """Nats per token, or what the task measures."""
    perplexity: float
    bits_per_byte: float | None
    """Null where tokens stand for no text."""
    accuracy: float | None
    """Share of the examples that are answered right; null of language models, and of tasks that do not say."""
    examples: int

    def sentence(self) -> str:
        """For people."""
        more = "" if self.bits_per_byte is None else f", {self.bits_per_byte:.3f} bits per byte"
        more += "" if self.accuracy is None else f", accuracy {self.accuracy:.2%}"
        what = "windows" if self.accuracy is None else "examples"
        return (
            f"loss {self.loss:.4f}{more}, over {self.examples} {what} of held-out data of the machine that exported it"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the model and the data."""
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="folder that 'lowcomm-node export' has made"
    )
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="PATH",
        help="files, folders or globs (data.paths); of these the held-out part is taken",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure it."""
    settings, _ = settings_from(args, {"data.paths": ("--data", args.data)})
    judged = judge(args.model, settings)
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


def judge(folder: Path, settings: "NodeSettings") -> Judgement:
    """The model of ``folder`` on the held-out part of ``data.paths``. Raises ConfigError, DataError and StoreError."""
    from lowcomm_node.errors import DataError
    from lowcomm_node.train.batches import num_rows
    from lowcomm_node.train.data.words import bytes_per_token
    from lowcomm_node.train.evaluate import look_at, loss_of
    from lowcomm_node.train.exported import read_exported
    from lowcomm_node.train.held_out import held_out_batches
    from lowcomm_node.train.session import choose_device

    exported = read_exported(folder)
    if settings.data.dataset and not settings.data.paths:
        raise DataError(
            "a dataset (data.dataset) is not read for this; name text or token shards with --data or data.paths"
        )
    tokenizer = Path(settings.data.tokenizer).expanduser() if settings.data.tokenizer else exported.tokenizer
    data = dataclasses.replace(settings.data, dataset="", tokenizer="" if tokenizer is None else str(tokenizer))
    # Not in the state directory: that keeps one set of tokens, the one that a node trains on.
    with TemporaryDirectory(prefix="lowcomm-eval-") as scratch:
        batches = held_out_batches(exported.manifest, data, Path(scratch), exported.run_id)
    model = exported.model.to(choose_device(settings.device))
    look = look_at(model, batches, loss_of(exported.manifest))
    num_bytes = bytes_per_token(exported.manifest, batches, tokenizer)
    return Judgement(
        loss=look.loss,
        perplexity=math.exp(min(look.loss, 700.0)),
        bits_per_byte=look.loss / math.log(2) / num_bytes if num_bytes else None,
        accuracy=look.accuracy if math.isfinite(look.accuracy) else None,
        examples=sum(map(num_rows, batches)),
    )
