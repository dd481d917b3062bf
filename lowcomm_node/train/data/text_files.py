"""Which text files make the corpus: found in a fixed order, whatever order the file system lists them in."""

import glob
import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lowcomm_node.errors import DataError

__all__ = ["Document", "describe_paths", "find_documents", "find_shards", "is_shard_pattern"]

_MAX_FOUND_FILE_BYTES = 16 << 20
"""Larger files in folders and globs are data dumps more often than text; name them to have them read."""
_MAX_CORPUS_BYTES = 1 << 30
"""All text is read into memory."""
_MAX_DEFAULT_CORPUS_BYTES = 64 << 20
_SHARD_ENDING = ".bin"
_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules"})
_SKIPPED_STDLIB_FOLDERS = frozenset({"__pycache__", "site-packages", "dist-packages", "test", "tests"})


@dataclass(frozen=True, slots=True)
class Document:
    """One text file."""

    name: str
    """Name relative to the path it was found under, with forward slashes."""
    text: bytes
    """Valid UTF-8 without NUL."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    name: str
    path: Path
    is_named: bool
    """The user named this very file: being unreadable is an error, not a reason to pass over it."""


def find_documents(paths: tuple[str, ...]) -> list[Document]:
    """All text files under ``paths``, ordered by the hash of their names, whole files up to the size limit.

    Raises DataError naming the path that is missing, unreadable or holds no text.
    """
    if not paths:
        documents = _read(list(_stdlib_sources()), _MAX_DEFAULT_CORPUS_BYTES)
        if not documents:
            msg = f"{describe_paths(paths)} holds no sources here; name text files in data.paths"
            raise DataError(msg)
        return documents
    candidates: list[_Candidate] = []
    for pattern in paths:
        found = list(_expand(pattern))
        if not _read(found, 1):
            msg = f"{pattern}: no text file in there (UTF-8, at most {_MAX_FOUND_FILE_BYTES} bytes); correct data.paths"
            raise DataError(msg)
        candidates += found
    unique = {candidate.path.resolve(): candidate for candidate in candidates}
    return _read(list(unique.values()), _MAX_CORPUS_BYTES)


def is_shard_pattern(pattern: str) -> bool:
    """Does an entry of data.paths name token shards? By its ending."""
    return pattern.endswith(_SHARD_ENDING)


def find_shards(paths: tuple[str, ...]) -> list[tuple[str, Path]]:
    """Name and path of each file under ``paths`` (files and globs, all of shards), in the order of their names.

    Raises DataError naming the path that is missing or matches nothing.
    """
    found: dict[Path, str] = {}
    for pattern in paths:
        candidates = list(_expand(pattern))
        if not candidates:
            raise DataError(f"{pattern}: no file of this name; correct data.paths")
        found |= {candidate.path.resolve(): candidate.name for candidate in candidates}
    return sorted((name, path) for path, name in found.items())


def describe_paths(paths: tuple[str, ...]) -> str:
    """How an error text names the corpus."""
    return ", ".join(paths) if paths else "the Python standard library's sources"


def _expand(pattern: str) -> Iterator[_Candidate]:
    path = Path(pattern).expanduser()
    if path.is_file():
        yield _Candidate(path.name, path, is_named=True)
    elif path.is_dir():
        yield from _walk(path, _SKIPPED_FOLDERS)
    elif glob.has_magic(pattern):
        yield from _match(pattern, path)
    else:
        msg = f"{pattern}: no such file or folder; correct data.paths"
        raise DataError(msg)


def _match(pattern: str, path: Path) -> Iterator[_Candidate]:
    fixed = path
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    try:
        matches = sorted(fixed.glob(str(path.relative_to(fixed))))
    except ValueError as error:
        msg = f"{pattern}: not a usable pattern ({error}); correct data.paths"
        raise DataError(msg) from error
    for match in matches:
        if match.is_file():
            yield _Candidate(match.relative_to(fixed).as_posix(), match, is_named=False)


def _walk(root: Path, skipped_folders: frozenset[str]) -> Iterator[_Candidate]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if name not in skipped_folders and name[0] != ".")
        for name in sorted(names):
            path = Path(folder, name)
            if name[0] != "." and path.is_file():
                yield _Candidate(path.relative_to(root).as_posix(), path, is_named=False)


def _stdlib_sources() -> Iterator[_Candidate]:
    root = Path(sysconfig.get_paths()["stdlib"])
    return (candidate for candidate in _walk(root, _SKIPPED_STDLIB_FOLDERS) if candidate.path.suffix == ".py")


def _read(candidates: list[_Candidate], max_bytes: int) -> list[Document]:
    """Texts in hashed order until ``max_bytes`` are reached; the file that reaches it is the last."""
    documents: list[Document] = []
    size = 0
    for candidate in sorted(candidates, key=lambda c: (hashlib.sha256(c.name.encode()).digest(), str(c.path))):
        text = _read_text(candidate)
        if text:
            documents.append(Document(candidate.name, text))
            size += len(text)
        if size >= max_bytes:
            break
    return documents


def _read_text(candidate: _Candidate) -> bytes:
    """Content of a text file; empty for what is not text. Raises DataError for a named file that cannot be read."""
    try:
        limit = _MAX_CORPUS_BYTES if candidate.is_named else _MAX_FOUND_FILE_BYTES
        size = candidate.path.stat().st_size
        if size > limit:
            if candidate.is_named:
                msg = f"{candidate.path}: {size} bytes, over the {limit} that fit; name a part of it in data.paths"
                raise DataError(msg)
            return b""
        text = candidate.path.read_bytes()
        text.decode("utf-8")
    except OSError as error:
        if candidate.is_named:
            msg = f"{candidate.path}: cannot be read ({error.strerror}); correct data.paths or its permissions"
            raise DataError(msg) from error
        return b""
    except UnicodeDecodeError as error:
        if candidate.is_named:
            msg = f"{candidate.path}: not UTF-8 text (byte {error.start}); correct data.paths"
            raise DataError(msg) from error
        return b""
    return b"" if b"\0" in text else text
