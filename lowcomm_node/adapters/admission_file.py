"""This node's own admission to a run, kept for its next start: public, and of no use to any other node."""

import base64
import binascii
import json
from pathlib import Path

from lowcomm_node.errors import StoreError
from lowcomm_node.units import RunId

__all__ = ["AdmissionFile"]

_FILE = "admission.json"
_MAX_BYTES = 4096


class AdmissionFile:
    """One small file in the state directory, written atomically."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / _FILE

    def load(self, run_id: RunId) -> bytes:
        """A serialised Admission to this run; empty when there is none, or none that can be read."""
        try:
            with self._path.open("rb") as file:
                document = json.loads(file.read(_MAX_BYTES))
            return base64.b64decode(document["admission"], validate=True) if document["run_id"] == run_id else b""
        except (OSError, ValueError, KeyError, TypeError, binascii.Error, RecursionError):
            return b""

    def save(self, run_id: RunId, admission: bytes) -> None:
        """Keep this one instead of any other. Raises StoreError."""
        document = {"run_id": run_id, "admission": base64.b64encode(admission).decode()}
        unfinished = self._path.with_name(f".{_FILE}.unfinished")
        try:
            unfinished.write_text(json.dumps(document) + "\n", encoding="ascii")
            unfinished.replace(self._path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise StoreError(f"{self._path} cannot be written: {error.strerror}") from error
