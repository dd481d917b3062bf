"""The part of a dataset that no node trains on: its own validation split where it has one, else rows by a hash of their text."""

from collections.abc import Iterator
from pathlib import Path

from lowcomm_node.errors import DataError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import DataSettings
from lowcomm_node.train.data.held_out import is_held_out
from lowcomm_node.train.data.rows import open_rows, open_validation_rows, texts_of
from lowcomm_node.train.data.shards import TokenArray, write_shard
from lowcomm_node.train.data.tokenizer import Encoder

__all__ = ["write_held_out"]

_MAX_TOKENS = 1 << 18
_MAX_LOOKED_AT = 1 << 30
"""Most text that is looked at for rows to hold out."""


def write_held_out(path: Path, manifest: Manifest, data: DataSettings, encoder: Encoder) -> bool:
    """Write a shard of held-out tokens, in the dataset's own order: the same for all nodes. Is it of its own validation split?

    A split that is too small for one window does not count. Raises DataError, OSError and whatever the library raises.
    """
    rows = open_validation_rows(data)
    if rows is not None:
        pieces = list(_up_to(encoder.encode(texts_of(rows, data)), _MAX_TOKENS))
        if sum(map(len, pieces)) > manifest.model.context_length:
            write_shard(path, pieces, encoder.vocab_size)
            return True
    ratio = manifest.data.validation_ratio
    pieces = list(_up_to(encoder.encode(_by_hash(texts_of(open_rows(data), data), ratio)), _MAX_TOKENS))
    if not pieces:
        raise DataError(
            f"{data.dataset}: none of its rows is held out, of which a share of {ratio:g} should be; too few rows"
        )
    write_shard(path, pieces, encoder.vocab_size)
    return False


def _by_hash(texts: Iterator[str], ratio: float) -> Iterator[str]:
    looked_at = 0
    for text in texts:
        looked_at += len(text)
        if looked_at > _MAX_LOOKED_AT:
            return
        if is_held_out(text, ratio):
            yield text


def _up_to(pieces: Iterator[TokenArray], count: int) -> Iterator[TokenArray]:
    """At most ``count`` tokens."""
    for piece in pieces:
        yield piece[:count]
        count -= len(piece)
        if count <= 0:
            return
