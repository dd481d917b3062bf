"""Text into token ids, by the tokenizer that the run's manifest names."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lowcomm_node.errors import DataError
from lowcomm_node.settings.manifest import BYTES, UNKNOWN_TOKENIZER, Manifest
from lowcomm_node.train.data.shards import TokenArray, token_dtype

__all__ = ["ByteEncoder", "Encoder", "FileEncoder", "choose_encoder", "digest_of", "read_tokenizer", "train_tokenizer"]

END_OF_TEXT = "<|endoftext|>"
_ENDS_OF_TEXT = (END_OF_TEXT, "<|end_of_text|>", "<|eos|>", "</s>", "<eos>", "[SEP]")
"""What ends a document, in the vocabularies of others; the first that there is."""
_MAX_FILE_BYTES = 64 << 20
_PIECE_CHARACTERS = 1 << 16
"""Longer texts are encoded in pieces, cut after the end of a line where there is one: memory stays small."""
_BATCH_CHARACTERS = 1 << 20


class Encoder(Protocol):
    """Makes ids of texts; the same on every machine."""

    vocab_size: int
    """All ids are below."""

    def encode(self, texts: Iterable[str]) -> Iterator[TokenArray]:
        """The ids of each text in turn, ended by what ends a document."""


class ByteEncoder:
    """Each byte of UTF-8 is a token; zero ends a document."""

    vocab_size = 256

    def encode(self, texts: Iterable[str]) -> Iterator[TokenArray]:
        for text in texts:
            yield np.frombuffer(text.encode() + b"\0", dtype=np.uint8)


class FileEncoder:
    """The tokenizer of a ``tokenizer.json``."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = 1 + max(vocabulary.values(), default=-1)
        self._dtype = token_dtype(self.vocab_size)
        end = next((vocabulary[word] for word in _ENDS_OF_TEXT if word in vocabulary), None)
        self._end: list[int] = [] if end is None else [end]

    def encode(self, texts: Iterable[str]) -> Iterator[TokenArray]:
        batch: list[list[str]] = []
        size = 0
        for text in texts:
            batch.append(_pieces(text))
            size += len(text)
            if size >= _BATCH_CHARACTERS:
                yield from self._encode(batch)
                batch, size = [], 0
        yield from self._encode(batch)

    def _encode(self, texts: list[list[str]]) -> Iterator[TokenArray]:
        pieces = [piece for text in texts for piece in text]
        encodings = iter(self._tokenizer.encode_batch_fast(pieces, add_special_tokens=False))
        for text in texts:
            ids = [np.array(next(encodings).ids, dtype=self._dtype) for _ in text]
            yield np.concatenate([*ids, np.array(self._end, dtype=self._dtype)])


def choose_encoder(manifest: Manifest, file_name: str) -> Encoder:
    """The run's tokenizer, of ``file_name`` (data.tokenizer) where the manifest holds a digest.

    Raises DataError for a file that is missing, is not the run's, or has more tokens than the model.
    """
    wanted = manifest.data.tokenizer
    if wanted == BYTES:
        return ByteEncoder()
    if wanted == UNKNOWN_TOKENIZER:
        raise DataError(
            f'this run has no tokenizer (data.tokenizer = "{wanted}" in its manifest): it trains on token shards alone; '
            "name .bin files in data.paths"
        )
    if not file_name:
        raise DataError(
            f"this run's text is read with the tokenizer {wanted}: get that tokenizer.json from who started the run, and "
            "name it in data.tokenizer"
        )
    path = Path(file_name).expanduser()
    content = _read(path)
    digest = digest_of(content)
    if digest != wanted:
        raise DataError(
            f"{file_name} (data.tokenizer) is another tokenizer than the run's: it is {digest}, the manifest has {wanted}; get "
            "the tokenizer.json of who started the run, unchanged"
        )
    encoder = FileEncoder(_parse(path, content))
    if encoder.vocab_size > manifest.model.vocab_size:
        raise DataError(
            f"{file_name} (data.tokenizer) has {encoder.vocab_size} tokens, but the manifest's model.vocab_size is "
            f"{manifest.model.vocab_size}; the run needs another manifest, with at least as many"
        )
    return encoder


def read_tokenizer(path: Path) -> tuple[Tokenizer, str]:
    """A ``tokenizer.json`` and its digest, as the manifest writes it. Raises DataError."""
    content = _read(path)
    return _parse(path, content), digest_of(content)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise DataError(f"{path}: larger than any tokenizer.json ({_MAX_FILE_BYTES} bytes); correct data.tokenizer")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); correct data.tokenizer") from error


def _parse(path: Path, content: bytes) -> Tokenizer:
    try:
        return Tokenizer.from_buffer(content)
    except Exception as error:  # a border: the library raises nothing narrower
        raise DataError(f"{path}: not a tokenizer.json ({error}); correct data.tokenizer") from error


def digest_of(content: bytes) -> str:
    """What a manifest's data.tokenizer says of a file."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> bytes:
    """Content of the ``tokenizer.json`` of a byte-level BPE with at most ``vocab_size`` tokens: any text can be encoded.

    The same texts in the same order give the same bytes with the same version of the library.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((piece for text in texts for piece in _pieces(text)), trainer)
    content: str = tokenizer.to_str(pretty=True)
    return content.encode()


def _pieces(text: str) -> list[str]:
    pieces: list[str] = []
    at = 0
    while len(text) - at > _PIECE_CHARACTERS:
        cut = text.rfind("\n", at, at + _PIECE_CHARACTERS) + 1
        end = cut if cut > at else at + _PIECE_CHARACTERS
        pieces.append(text[at:end])
        at = end
    return [*pieces, text[at:]]
