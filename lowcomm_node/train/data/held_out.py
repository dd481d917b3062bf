"""Which text no node trains on: the same on all nodes, without anybody asking."""

import hashlib
import re

__all__ = ["is_held_out", "is_validation_file"]

_VALIDATION_NAME = re.compile(r"(^|[^a-z])(val|valid|validation)([^a-z]|$)", re.IGNORECASE)


def is_held_out(name: str, validation_ratio: float) -> bool:
    """Does the file of this name, or the row of this text, belong to validation? By a hash, so that all nodes agree."""
    digest = hashlib.sha256(b"lowcomm/v1/split|" + name.encode()).digest()
    return int.from_bytes(digest[:8], "little") < validation_ratio * 2**64


def is_validation_file(name: str) -> bool:
    """Does a shard say in its name that it is for validation, as in ``val.bin`` and ``fineweb_val_000000.bin``?"""
    return _VALIDATION_NAME.search(name) is not None
