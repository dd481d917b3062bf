"""Tokens on disk, so that text is encoded once and not at each start; one set of them in a state directory."""

import fcntl
import hashlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lowcomm_node.errors import StoreError
from lowcomm_node.train.data.shards import write_shard
from lowcomm_node.train.data.tokenizer import Encoder

__all__ = ["cache_key", "encode_once", "open_cache"]

_FOLDER = "tokens"
_LOCK = ".lock"
_KEY_LENGTH = 32


def cache_key(*parts: str | bytes) -> str:
    """Name of what follows from ``parts``, in this order."""
    digest = hashlib.sha256(b"lowcomm/v1/tokens")
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()[:_KEY_LENGTH]


@contextmanager
def open_cache(state_dir: Path, key: str) -> Iterator[Path]:
    """The folder of ``key``, made if there is none; sets of other keys are removed. Nobody else has it meanwhile.

    Raises StoreError for a directory that cannot be written.
    """
    root = state_dir / _FOLDER
    folder = root / key
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (root / _LOCK).open("a") as lock:
            # All devices of a node want the same at the same time.
            fcntl.flock(lock, fcntl.LOCK_EX)
            for other in root.iterdir():
                if other.is_dir() and other != folder:
                    shutil.rmtree(other)
            folder.mkdir(exist_ok=True)
            yield folder
    except OSError as error:
        raise StoreError(f"{folder}: tokens cannot be kept: {(error.strerror or str(error)).lower()}") from error


def encode_once(path: Path, texts: Iterable[str], encoder: Encoder) -> None:
    """Write the tokens of ``texts`` to ``path``, unless it is there. Raises OSError."""
    if not path.exists():
        write_shard(path, encoder.encode(texts), encoder.vocab_size)
