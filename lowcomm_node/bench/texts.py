"""What each replica trains on, and what all are judged by: text, or the examples of a task."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from lowcomm_node.bench.trial import Shards, Trial
from lowcomm_node.errors import ConfigError, DataError
from lowcomm_node.settings.manifest import DataConfig
from lowcomm_node.train.batches import Batch, BatchSource
from lowcomm_node.train.data.corpus import load_corpus
from lowcomm_node.train.data.held_out import is_held_out
from lowcomm_node.train.data.stream import Stream, validation_batches
from lowcomm_node.train.data.text_files import find_documents
from lowcomm_node.train.data.tokens import Tokens
from lowcomm_node.train.tasks import load_task
from lowcomm_node.units import PeerId, RunId

__all__ = ["Texts", "load_texts", "peer_of", "run_of"]

_WINDOWS_PER_BATCH = 64
_NUM_BATCHES = 12
_NUM_QUICK_BATCHES = 2
_QUICK_WINDOWS_PER_BATCH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Tokens of one trial, or a task's examples."""

    streams: tuple[BatchSource, ...]
    """Batches of each replica."""
    validation: Sequence[Batch]
    """For the end of a run."""
    quick_validation: Sequence[Batch]
    """For looks during a run."""


def load_texts(trial: Trial) -> Texts:
    """Read the corpus once a process. Raises ConfigError for a task that is not installed, and DataError."""
    if trial.manifest.model.kind == "task":
        return _of_task(trial)
    manifest = trial.manifest
    context_length, batch_size = manifest.model.context_length, manifest.training.batch_size
    train, validation = _corpus(trial.data_paths, manifest.data, context_length)
    shards = (train,) * trial.replicas
    if trial.shards is Shards.BY_FILE:
        shards = _slices(
            _in_order_of_names(trial.data_paths, manifest.data, context_length), trial.replicas, context_length
        )
    run = run_of(trial.seed)
    return Texts(
        streams=tuple(
            Stream(tokens, batch_size, context_length, run, peer_of(index)) for index, tokens in enumerate(shards)
        ),
        validation=validation_batches(validation, _WINDOWS_PER_BATCH, context_length, _NUM_BATCHES),
        quick_validation=validation_batches(validation, _QUICK_WINDOWS_PER_BATCH, context_length, _NUM_QUICK_BATCHES),
    )


def _of_task(trial: Trial) -> Texts:
    if trial.shards is not Shards.IID:
        raise ConfigError(f"--shards {trial.shards} is for text; the replicas of a task draw from the same examples")
    rows = trial.manifest.training.batch_size
    most = max(1, _NUM_BATCHES * _WINDOWS_PER_BATCH // rows)
    first = load_task(trial.manifest, trial.data_paths, run_of(trial.seed), peer_of(0), most)
    return Texts(
        streams=tuple(replace(first, peer_id=peer_of(index)) for index in range(trial.replicas)),
        validation=first.held_out,
        quick_validation=first.held_out[: max(1, _NUM_QUICK_BATCHES * _QUICK_WINDOWS_PER_BATCH // rows)],
    )


def run_of(seed: int) -> RunId:
    """A run id that depends on the seed alone: all methods draw the same batches."""
    return RunId(f"{seed:064x}")


def peer_of(index: int) -> PeerId:
    """Name of replica ``index``."""
    return PeerId(f"replica{index:03d}")


@lru_cache(maxsize=2)
def _corpus(paths: tuple[str, ...], data: DataConfig, context_length: int) -> tuple[Tokens, Tokens]:
    corpus = load_corpus(paths, data, context_length)
    return corpus.train, corpus.validation


@lru_cache(maxsize=2)
def _in_order_of_names(paths: tuple[str, ...], data: DataConfig, context_length: int) -> Tensor:
    documents = find_documents(paths)
    held_out = {d.name for d in documents if is_held_out(d.name, data.validation_ratio)}
    text = b"\0".join(d.text for d in sorted(documents, key=lambda d: d.name) if d.name not in held_out)
    # With less than a window of held-out files, validation is made of the ends of all files (``load_corpus``).
    if not text or sum(len(d.text) for d in documents if d.name in held_out) <= context_length:
        raise DataError(
            "shards by file need files to train on and held-out files; give more files, or take --shards iid"
        )
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def _slices(tokens: Tensor, count: int, context_length: int) -> tuple[Tokens, ...]:
    if len(tokens) < count * (context_length + 1):
        raise DataError(f"{len(tokens)} bytes are too few for {count} shards of a window each")
    return tuple(map(Tokens, torch.tensor_split(tokens, count)))
