"""What stands between people's text and a model's tokens, both ways."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from lowcomm_node.errors import DataError
from lowcomm_node.settings.manifest import BYTES, Manifest
from lowcomm_node.train.batches import Batch
from lowcomm_node.train.data.tokenizer import read_tokenizer

__all__ = ["Words", "bytes_per_token", "words_of"]


class Words(Protocol):
    """A run's tokens."""

    def tokens(self, text: str) -> list[int]:
        """Of the text, without an end."""
        ...

    def text(self, tokens: Sequence[int]) -> str:
        """What they stand for; bytes that are no text yet are left out at the end, and marked elsewhere."""
        ...


class _Bytes:
    def tokens(self, text: str) -> list[int]:
        return list(text.encode())

    def text(self, tokens: Sequence[int]) -> str:
        return bytes(token for token in tokens if token < 256).decode(errors="replace").removesuffix("\ufffd")


class _File:
    def __init__(self, path: Path, wanted: str) -> None:
        self._tokenizer, digest = read_tokenizer(path)
        if wanted.startswith("sha256:") and digest != wanted:
            raise DataError(f"{path} is {digest}, but the run's tokenizer is {wanted}")

    def tokens(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def text(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=False)
        return text


def words_of(manifest: Manifest, tokenizer: Path | None) -> Words:
    """The run's tokens, of its ``tokenizer.json`` where they are not bytes. Raises DataError where they cannot be told from here."""
    if manifest.model.kind == "task":
        raise DataError(f'a model of the task "{manifest.model.task}" writes no text')
    if manifest.data.tokenizer == BYTES:
        return _Bytes()
    if tokenizer is None:
        raise DataError(
            f"the run's tokens are those of {manifest.data.tokenizer}: put that tokenizer.json into the model's folder "
            "(export does it when it is named in data.tokenizer)"
        )
    return _File(tokenizer, manifest.data.tokenizer)


def bytes_per_token(manifest: Manifest, batches: Iterable[Batch], tokenizer: Path | None) -> float:
    """Mean bytes of UTF-8 that a target of these language-model batches stands for; 0.0 where that cannot be told.

    A loss in nats per token over ln 2 times this is in bits per byte, which is comparable between tokenizers.
    """
    try:
        words = words_of(manifest, tokenizer)
    except DataError:
        return 0.0
    if manifest.data.tokenizer == BYTES:
        return 1.0
    tokens = num_bytes = 0
    for batch in batches:
        for row in batch if isinstance(batch, Tensor) else ():
            targets = row[1:].tolist()
            tokens += len(targets)
            num_bytes += len(words.text(targets).encode())
    return num_bytes / tokens if tokens else 0.0
