"""Text into tokens: a corpus in memory, a reproducible stream of batches for each node, fixed validation windows.

Tokens are bytes (vocabulary 256); a zero byte ends each document.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcomm_node.errors import DataError
from lowcomm_node.settings.manifest import DataConfig
from lowcomm_node.train.corpus_files import Document, describe_paths, find_documents
from lowcomm_node.units import PeerId, RunId

__all__ = ["Corpus", "Stream", "first_batch_at", "is_held_out", "load_corpus", "validation_batches"]

_SEPARATOR = b"\0"
_BATCHES_PER_STEP = 1 << 20
"""More than a node takes while the run goes on by a step, however fast it is; and below 2^53 for the longest run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Two 1-D uint8 tensors of tokens that share no document (or, with very few files, no byte)."""

    train: Tensor
    validation: Tensor


def load_corpus(paths: tuple[str, ...], data: DataConfig, context_length: int) -> Corpus:
    """Read files, folders and globs; no paths means the Python standard library's own sources.

    A file belongs to validation when the hash of its name, relative to the path it was found under, falls into the
    first ``validation_ratio``: nodes with the same text hold out the same files. Where that leaves one side
    empty (a single file, say), the end of each file is held out instead.
    Raises DataError when a path is missing, holds no text, or all text together is too short for one window.
    """
    documents = find_documents(paths)
    needed = context_length + 1
    train = _join([d for d in documents if not is_held_out(d.name, data.validation_ratio)])
    validation = _join([d for d in documents if is_held_out(d.name, data.validation_ratio)])
    if min(len(train), len(validation)) < needed:
        cuts = [int(len(d.text) * (1 - data.validation_ratio)) for d in documents]
        train = _join([Document(d.name, d.text[:cut]) for d, cut in zip(documents, cuts, strict=True)])
        validation = _join([Document(d.name, d.text[cut:]) for d, cut in zip(documents, cuts, strict=True)])
    if min(len(train), len(validation)) < needed:
        msg = (
            f"{describe_paths(paths)}: {len(train)} bytes to train on and {len(validation)} held out, but one window of "
            f"model.context_length = {context_length} needs {needed} of each; give more text in data.paths"
        )
        raise DataError(msg)
    return Corpus(train=_to_tokens(train), validation=_to_tokens(validation))


class Stream:
    """One node's endless sequence of training batches.

    Batch ``k`` depends on nothing but (run id, peer id, k) and the tokens, so resuming needs only ``k``.
    Window starts are drawn with SHAKE-256, which is the same on every machine and library version.
    """

    def __init__(self, tokens: Tensor, batch_size: int, context_length: int, run_id: RunId, peer_id: PeerId) -> None:
        self._tokens = tokens
        self._batch_size = batch_size
        self._window = torch.arange(context_length + 1)
        self._num_starts = len(tokens) - context_length
        self._name = f"lowcomm/v1/batch|{run_id}|{peer_id}|".encode()

    def batch(self, index: int) -> Tensor:
        """int64 ``(batch_size, context_length + 1)``: inputs are ``[:, :-1]``, targets ``[:, 1:]``."""
        digest = hashlib.shake_256(self._name + str(index).encode()).digest(8 * self._batch_size)
        starts = [
            int.from_bytes(digest[8 * row : 8 * row + 8], "little") % self._num_starts
            for row in range(self._batch_size)
        ]
        return _windows(self._tokens, starts, self._window)


def first_batch_at(progress_steps: float) -> int:
    """Index of the first batch of a node that begins with a donor's state.

    It may have trained in this run before, and lost what it knew of that: from batch 0 it would train on the same text again,
    after each return.
    """
    return int(progress_steps) * _BATCHES_PER_STEP


def validation_batches(tokens: Tensor, batch_size: int, context_length: int, num_batches: int) -> tuple[Tensor, ...]:
    """The same evenly spaced windows for every node that holds out the same text.

    int64 ``(rows, context_length + 1)`` each; fewer rows or batches when the text is short, so that no window is
    counted twice.
    """
    num_windows = max(1, min(batch_size * num_batches, (len(tokens) - 1) // context_length))
    last_start = len(tokens) - context_length - 1
    starts = [row * last_start // max(1, num_windows - 1) for row in range(num_windows)]
    window = torch.arange(context_length + 1)
    return tuple(
        _windows(tokens, starts[first : first + batch_size], window) for first in range(0, num_windows, batch_size)
    )


def _windows(tokens: Tensor, starts: list[int], window: Tensor) -> Tensor:
    return tokens[torch.tensor(starts).unsqueeze(1) + window].long()


def is_held_out(name: str, validation_ratio: float) -> bool:
    """Does the file of this name belong to validation? By a hash, so that all nodes agree."""
    digest = hashlib.sha256(b"lowcomm/v1/split|" + name.encode()).digest()
    return int.from_bytes(digest[:8], "little") < validation_ratio * 2**64


def _join(documents: list[Document]) -> bytes:
    return b"".join(document.text + _SEPARATOR for document in documents if document.text)


def _to_tokens(text: bytes) -> Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)
