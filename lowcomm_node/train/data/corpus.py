"""What a node trains on and is judged by: text, or token shards."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lowcomm_node.errors import DataError
from lowcomm_node.settings.manifest import BYTES, DataConfig, Manifest
from lowcomm_node.settings.node import DataSettings
from lowcomm_node.train.data.held_out import is_held_out, is_validation_file
from lowcomm_node.train.data.rows import check_dataset
from lowcomm_node.train.data.shards import map_shard
from lowcomm_node.train.data.text_files import (
    Document,
    describe_paths,
    find_documents,
    find_shards,
    is_shard_pattern,
)
from lowcomm_node.train.data.token_cache import cache_key, encode_once, open_cache
from lowcomm_node.train.data.tokenizer import choose_encoder
from lowcomm_node.train.data.tokens import Tokens

__all__ = ["Corpus", "check_data", "load_corpus", "open_corpus"]

_SEPARATOR = b"\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Tokens that share no document (or, with very few files, no token)."""

    train: Tokens
    validation: Tokens


_NOTHING = Corpus(train=Tokens(), validation=Tokens())


def open_corpus(manifest: Manifest, data: DataSettings, state_dir: Path) -> Corpus:
    """The text or the token shards of ``data.paths`` in the run's tokens.

    Tokens of a ``tokenizer.json`` are kept in ``state_dir`` and made only when text or tokenizer have changed.
    Raises DataError for data or a tokenizer that is missing, not the run's or too small, StoreError for a disk that is full.
    """
    if _is_sharded(data.paths):
        corpus = _map_shards(data.paths, manifest)
    elif manifest.data.tokenizer == BYTES:
        return load_corpus(data.paths, manifest.data, manifest.model.context_length)
    else:
        corpus = _encode(manifest, data, state_dir)
    _check_size(corpus, data.paths, manifest.model.context_length)
    return corpus


def check_data(manifest: Manifest | None, data: DataSettings) -> None:
    """Is there something to train on? A quick look, at what takes no time. Raises DataError."""
    if data.dataset:
        check_dataset(data)
    if _is_sharded(data.paths):
        for _, path in find_shards(data.paths):
            map_shard(path)
        return
    if manifest is not None:
        choose_encoder(manifest, data.tokenizer)
    if not data.dataset:
        find_documents(data.paths)


def load_corpus(paths: tuple[str, ...], data: DataConfig, context_length: int) -> Corpus:
    """Text as bytes, in memory: files, folders and globs; no paths means the Python standard library's own sources.

    A file belongs to validation when the hash of its name, relative to the path it was found under, falls into the
    first ``validation_ratio``: nodes with the same text hold out the same files. Where that leaves one side
    empty (a single file, say), the end of each file is held out instead.
    Raises DataError when a path is missing, holds no text, all text together is too short for one window, or the run's tokens are
    not bytes.
    """
    if data.tokenizer != BYTES:
        raise DataError(f'only text in bytes can be used here, but data.tokenizer = "{data.tokenizer}" in the manifest')
    documents = find_documents(paths)
    corpus = _NOTHING
    for train, validation in (_by_file(documents, data.validation_ratio), _by_cut(documents, data.validation_ratio)):
        corpus = Corpus(train=Tokens(_to_tokens(_join(train))), validation=Tokens(_to_tokens(_join(validation))))
        if _is_large_enough(corpus, context_length):
            return corpus
    _check_size(corpus, paths, context_length)
    return corpus


def _is_sharded(paths: tuple[str, ...]) -> bool:
    sharded = [path for path in paths if is_shard_pattern(path)]
    if sharded and len(sharded) < len(paths):
        raise DataError(f"data.paths has token shards ({sharded[0]}) and text; name only one of the two")
    return bool(sharded)


def _map_shards(paths: tuple[str, ...], manifest: Manifest) -> Corpus:
    shards = [(name, path, map_shard(path)) for name, path in find_shards(paths)]
    ratio = manifest.data.validation_ratio
    is_told = any(is_validation_file(name) for name, _, _ in shards)
    held_out = {path for name, path, _ in shards if (is_validation_file(name) if is_told else is_held_out(name, ratio))}
    if is_told or 0 < len(held_out) < len(shards):
        train = [(str(path), tokens) for _, path, tokens in shards if path not in held_out]
        validation = [(str(path), tokens) for _, path, tokens in shards if path in held_out]
    else:
        cuts = [int(len(tokens) * (1 - ratio)) for _, _, tokens in shards]
        train = [(str(path), tokens[:cut]) for (_, path, tokens), cut in zip(shards, cuts, strict=True)]
        validation = [(str(path), tokens[cut:]) for (_, path, tokens), cut in zip(shards, cuts, strict=True)]
    corpus = Corpus(train=_named(train, manifest), validation=_named(validation, manifest))
    corpus.train.check_beginnings()
    corpus.validation.check_beginnings()
    return corpus


def _encode(manifest: Manifest, data: DataSettings, state_dir: Path) -> Corpus:
    encoder = choose_encoder(manifest, data.tokenizer)
    documents = find_documents(data.paths)
    ratio, context_length = manifest.data.validation_ratio, manifest.model.context_length
    texts = [part for document in documents for part in (document.name, document.text)]
    key = cache_key(manifest.data.tokenizer, str(ratio), str(context_length), *texts)
    corpus = _NOTHING
    with open_cache(state_dir, key) as folder:
        for way, split in (("file", _by_file), ("cut", _by_cut)):
            sides = split(documents, ratio)
            if not all(any(document.text for document in side) for side in sides):
                continue
            paths = [folder / f"{name}-by-{way}.bin" for name in ("train", "validation")]
            for path, side in zip(paths, sides, strict=True):
                encode_once(path, (document.text.decode(errors="ignore") for document in side), encoder)
            train, validation = (_named([(str(path), map_shard(path))], manifest) for path in paths)
            corpus = Corpus(train=train, validation=validation)
            if _is_large_enough(corpus, context_length):
                break
    return corpus


def _named(parts: list[tuple[str, Tensor]], manifest: Manifest) -> Tokens:
    names = [name for name, _ in parts]
    return Tokens(*(tokens for _, tokens in parts), vocab_size=manifest.model.vocab_size, names=names)


def _is_large_enough(corpus: Corpus, context_length: int) -> bool:
    return min(corpus.train.num_windows(context_length + 1), corpus.validation.num_windows(context_length + 1)) > 0


def _check_size(corpus: Corpus, paths: tuple[str, ...], context_length: int) -> None:
    if not _is_large_enough(corpus, context_length):
        msg = (
            f"{describe_paths(paths)}: {len(corpus.train)} tokens to train on and {len(corpus.validation)} held out, but one "
            f"window of model.context_length = {context_length} needs {context_length + 1} of each; give more text in data.paths"
        )
        raise DataError(msg)


def _by_file(documents: list[Document], ratio: float) -> tuple[list[Document], list[Document]]:
    held_out = [document for document in documents if is_held_out(document.name, ratio)]
    return [document for document in documents if not is_held_out(document.name, ratio)], held_out


def _by_cut(documents: list[Document], ratio: float) -> tuple[list[Document], list[Document]]:
    cuts = [int(len(document.text) * (1 - ratio)) for document in documents]
    pairs = list(zip(documents, cuts, strict=True))
    return [Document(d.name, d.text[:cut]) for d, cut in pairs], [Document(d.name, d.text[cut:]) for d, cut in pairs]


def _join(documents: list[Document]) -> bytes:
    return b"".join(document.text + _SEPARATOR for document in documents if document.text)


def _to_tokens(text: bytes) -> Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)
