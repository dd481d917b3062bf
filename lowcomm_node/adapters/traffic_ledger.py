"""How many bytes this node has moved in the current month: a small file in the state directory, so that restarts do not forget."""

import json
import os
from pathlib import Path
from typing import Any

from lowcomm_node.errors import StoreError

__all__ = ["TrafficLedger"]

_FILE = "traffic.json"
_MAX_BYTES = 4096


class TrafficLedger:
    """Written atomically. A month is named as in 2026-11."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / _FILE

    def load(self, month: str) -> int:
        """Bytes used in this month, sent and received together; 0 when nothing of this month is known.

        Raises StoreError for a file that makes no sense: it should be looked at, not taken for an unused budget.
        """
        try:
            with self._path.open("rb") as file:
                data = file.read(_MAX_BYTES)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise StoreError(f"{self._path} cannot be read: {error}") from error
        try:
            document: Any = json.loads(data)
            written, used = document["month"], document["used_bytes"]
            if not isinstance(written, str) or not isinstance(used, int) or used < 0:
                raise ValueError("no month and no number of bytes")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise StoreError(f"{self._path} is damaged: {error}; remove it to count this month from 0") from error
        return used if written == month else 0

    def save(self, month: str, used_bytes: int) -> None:
        """Remember this. Raises StoreError."""
        unfinished = self._path.with_name(f".{_FILE}.unfinished")
        try:
            with unfinished.open("w") as file:
                json.dump({"month": month, "used_bytes": used_bytes}, file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self._path)
        except OSError as error:
            raise StoreError(f"{self._path} cannot be written: {error.strerror}") from error
