"""What a node remembers of the run it was in, for its next start: the manifest, and where other members were.

Without it a node whose given peers are gone for good could not come back, although it has a checkpoint, or knows others.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowcomm_node.errors import StoreError
from lowcomm_node.settings.canonical import run_id_of_bytes
from lowcomm_node.units import RunId
from lowcomm_node.wire.limits import MAX_MANIFEST_BYTES

__all__ = ["RememberedRun", "RunMemory"]

_FILE = "run.json"
_MAX_PEERS = 32
_MAX_ADDRESS = 256
_MAX_BYTES = 2 * MAX_MANIFEST_BYTES + 2 * _MAX_PEERS * _MAX_ADDRESS + 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class RememberedRun:
    """A run this node was in."""

    run_id: RunId
    manifest: bytes
    """Canonical; ``run_id`` is its SHA-256."""
    peers: tuple[str, ...]
    """Multiaddresses at which members were, the newest knowledge first."""


class RunMemory:
    """One small file in the state directory, written atomically."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / _FILE

    def load(self) -> RememberedRun | None:
        """The run this node was in last; None when it was in none. Raises StoreError for a file that makes no sense."""
        try:
            with self._path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{self._path} cannot be read: {error}") from error
        try:
            if len(data) > _MAX_BYTES:
                raise ValueError(f"more than {_MAX_BYTES} bytes")
            document: Any = json.loads(data)
            manifest, peers = document["manifest"].encode("ascii"), tuple(document["peers"])
            if not all(isinstance(peer, str) and len(peer) <= _MAX_ADDRESS for peer in peers):
                raise ValueError("a peer that is no address")
            if run_id_of_bytes(manifest) != document["run_id"]:
                raise ValueError("the manifest is another run's")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise StoreError(f"{self._path} is damaged: {type(error).__name__}: {error}") from error
        return RememberedRun(run_id=run_id_of_bytes(manifest), manifest=manifest, peers=peers[:_MAX_PEERS])

    def save(self, manifest: bytes, peers: Sequence[str]) -> None:
        """Remember this run instead of any other. Raises StoreError."""
        known = [peer for peer in dict.fromkeys(peers) if len(peer) <= _MAX_ADDRESS][:_MAX_PEERS]
        document = {"run_id": run_id_of_bytes(manifest), "manifest": manifest.decode("ascii"), "peers": known}
        unfinished = self._path.with_name(f".{_FILE}.unfinished")
        try:
            with unfinished.open("wb") as file:
                file.write(json.dumps(document, indent=1).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self._path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise StoreError(f"{self._path} cannot be written: {error}") from error
