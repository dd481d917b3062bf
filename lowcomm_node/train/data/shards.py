"""Files of token ids, mapped into memory: those of nanoGPT, of modded-nanogpt and of llm.c; we write the latter two.

nanoGPT: nothing but uint16, little-endian. modded-nanogpt: 256 int32, of which the first three are magic number 20240520,
version 1 and the number of tokens, then uint16. llm.c writes the same, and, for larger vocabularies, magic number 20240801,
version 7 and uint32.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowcomm_node.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TokenArray", "map_shard", "token_dtype", "write_shard"]

TokenArray = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32]

_HEADER_WORDS = 256
_HEADER_BYTES = 4 * _HEADER_WORDS
_USED_WORDS = 3
_LAYOUTS: Mapping[int, tuple[int, np.dtype[Any]]] = {20240520: (1, np.dtype("<u2")), 20240801: (7, np.dtype("<u4"))}
"""By magic number: version and type of the tokens."""


def token_dtype(vocab_size: int) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    """The narrowest type of a shard that holds every id."""
    return np.dtype(np.uint16) if vocab_size <= 1 << 16 else np.dtype(np.uint32)


def map_shard(path: Path) -> "Tensor":
    """1-D uint16 or uint32 tensor over the file's tokens; nothing is read before it is used.

    Raises DataError for a file that is missing, empty, cut off or of another layout.
    """
    import torch  # noqa: PLC0415 - who writes shards does without it

    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = np.frombuffer(file.read(_HEADER_BYTES)[: size // 4 * 4], dtype="<i4")
        dtype, offset = _layout(path, header, size)
        if size == offset:
            raise DataError(f"{path}: holds no tokens; correct data.paths")
        # Copy on write: torch wants what it is given to be writable, and the file stays as it is.
        mapped = np.memmap(path, dtype=dtype, mode="c", offset=offset)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); correct data.paths") from error
    return torch.from_numpy(mapped)


def _layout(path: Path, header: NDArray[np.int32], size: int) -> tuple[np.dtype[Any], int]:
    """Type of the tokens, and where they begin."""
    known = _LAYOUTS.get(int(header[0])) if len(header) else None
    if known is None:
        if len(header) == _HEADER_WORDS and not header[_USED_WORDS:].any() and size > _HEADER_BYTES:
            known_magic = ", ".join(map(str, _LAYOUTS))
            raise DataError(
                f"{path}: begins with a header of magic number {header[0]}, which is not known here (known: {known_magic})"
            )
        if size % 2:
            raise DataError(f"{path}: {size} bytes are neither 16-bit tokens nor a layout with a header")
        return np.dtype("<u2"), 0
    version, dtype = known
    if len(header) < _HEADER_WORDS:
        raise DataError(f"{path}: cut off within its header")
    if header[1] != version:
        raise DataError(f"{path}: version {header[1]} of magic number {header[0]}, not the known {version}")
    if header[2] < 0 or size != _HEADER_BYTES + int(header[2]) * dtype.itemsize:
        tokens = (size - _HEADER_BYTES) / dtype.itemsize
        raise DataError(
            f"{path}: its header tells of {header[2]} tokens, but it holds {tokens:g}; it is cut off or damaged"
        )
    return dtype, _HEADER_BYTES


def write_shard(path: Path, pieces: Iterable[TokenArray], vocab_size: int) -> int:
    """Write tokens with a header; the file appears when it is complete. Returns their number. Raises OSError."""
    dtype = token_dtype(vocab_size)
    magic, version = next((magic, version) for magic, (version, known) in _LAYOUTS.items() if known == dtype)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    count = 0
    try:
        with unfinished.open("wb") as file:
            file.write(bytes(_HEADER_BYTES))
            for piece in pieces:
                file.write(piece.astype(dtype.newbyteorder("<"), copy=False).tobytes())
                count += len(piece)
            header = np.zeros(_HEADER_WORDS, dtype="<i4")
            header[:_USED_WORDS] = magic, version, count
            file.seek(0)
            file.write(header.tobytes())
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return count
