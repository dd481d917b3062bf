"""The held-out examples of a run as this node has them, on more windows than a look during training takes."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import DataSettings
from lowcomm_node.train.batches import Batch
from lowcomm_node.train.data.corpus import open_corpus
from lowcomm_node.train.data.stream import validation_batches
from lowcomm_node.train.tasks import load_task
from lowcomm_node.units import PeerId, RunId

__all__ = ["HELD_OUT_WINDOWS", "bits_per_byte", "held_out_batches"]

HELD_OUT_WINDOWS = 768


def held_out_batches(
    manifest: Manifest, data: DataSettings, state_dir: Path, run_id: RunId, windows: int = HELD_OUT_WINDOWS
) -> Sequence[Batch]:
    """Up to ``windows`` of them, evenly spaced, in batches of the run's size. Raises ConfigError, DataError and StoreError."""
    batch_size = manifest.training.batch_size
    num_batches = max(1, windows // batch_size)
    if manifest.model.kind == "task":
        return load_task(manifest, data.paths, run_id, PeerId(""), num_batches).held_out
    corpus = open_corpus(manifest, data, state_dir)
    return validation_batches(corpus.validation, batch_size, manifest.model.context_length, num_batches)


def bits_per_byte(loss: float, batches: Sequence[Batch], text_of: Callable[[Sequence[int]], str]) -> float:
    """``loss``, nats per token over the targets of these language-model batches, in bits per byte of the text they stand for.

    Comparable between tokenizers, which the loss is not. ``text_of`` makes text of tokens.
    """
    tokens = num_bytes = 0
    for batch in batches:
        for row in batch:
            targets = row[1:].tolist()
            tokens += len(targets)
            num_bytes += len(text_of(targets).encode())
    return loss / math.log(2) * tokens / max(num_bytes, 1)
