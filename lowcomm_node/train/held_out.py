"""The held-out examples of a run as this node has them, on more windows than a look during training takes."""

from collections.abc import Sequence
from pathlib import Path

from lowcomm_node.errors import DataError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import DataSettings
from lowcomm_node.train.batches import Batch
from lowcomm_node.train.data.corpus import open_corpus
from lowcomm_node.train.data.held_out_rows import write_held_out
from lowcomm_node.train.data.shards import map_shard
from lowcomm_node.train.data.stream import validation_batches
from lowcomm_node.train.data.token_cache import cache_key, open_cache
from lowcomm_node.train.data.tokenizer import choose_encoder
from lowcomm_node.train.data.tokens import Tokens
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
    tokens = (
        _of_dataset(manifest, data, state_dir) if data.dataset else open_corpus(manifest, data, state_dir).validation
    )
    return validation_batches(tokens, batch_size, manifest.model.context_length, num_batches)


def _of_dataset(manifest: Manifest, data: DataSettings, state_dir: Path) -> Tokens:
    """Read anew, from its beginning. Raises DataError, StoreError."""
    encoder = choose_encoder(manifest, data.tokenizer)
    key = cache_key(manifest.data.tokenizer, "held out", str(data), str(manifest.data.validation_ratio))
    with open_cache(state_dir, key) as folder:
        path = folder / "validation.bin"
        if not path.exists():
            try:
                write_held_out(path, manifest, data, encoder)
            except DataError:
                raise
            except Exception as error:  # whatever package and network raise, in their words, as where a pool is filled
                raise DataError(f"{data.dataset}: {type(error).__name__}: {error}") from error
    tokens = Tokens(map_shard(path), vocab_size=manifest.model.vocab_size, names=[str(path)])
    if not tokens.num_windows(manifest.model.context_length + 1):
        raise DataError(
            f"{data.dataset}: {len(tokens)} tokens held out, but one window of model.context_length = "
            f"{manifest.model.context_length} needs one more than that; data.dataset needs more rows"
        )
    return tokens
