"""The held-out examples of a run as this node has them, on more windows than a look during training takes."""

from collections.abc import Sequence
from pathlib import Path

from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import DataSettings
from lowcomm_node.train.batches import Batch
from lowcomm_node.train.data.corpus import open_corpus
from lowcomm_node.train.data.stream import validation_batches
from lowcomm_node.train.tasks import load_task
from lowcomm_node.units import PeerId, RunId

__all__ = ["HELD_OUT_WINDOWS", "held_out_batches"]

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
