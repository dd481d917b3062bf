"""The owner's word, kept where the node's next life finds it: who has paused it and starts the machine again wants it paused still."""

import json
import math
import os
from pathlib import Path

from lowcomm_node.telemetry.logs import get_logger

__all__ = ["PauseFile"]

_FILE = "pause.json"
_MAX_BYTES = 4096


class PauseFile:
    """A small file in the state directory, there as long as the pause. Nothing raises: the word holds in this life at least."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / _FILE

    def read(self) -> float | None:
        """Unix seconds at which the pause ends, infinity for one without an end; None when there is no pause.

        A file that makes no sense was written for a pause, so it is one.
        """
        try:
            with self._path.open("rb") as file:
                until = json.loads(file.read(_MAX_BYTES))["until_unix_seconds"]
            return math.inf if until is None else float(until)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            get_logger("owner").warning("pause_unreadable", path=str(self._path), detail=str(error))
            return math.inf

    def write(self, until: float | None) -> None:
        """Keep what ``read`` shall say."""
        unfinished = self._path.with_name(f".{_FILE}.{os.getpid()}.unfinished")
        try:
            if until is None:
                self._path.unlink(missing_ok=True)
                return
            unfinished.write_text(json.dumps({"until_unix_seconds": None if math.isinf(until) else until}))
            unfinished.replace(self._path)
        except OSError as error:
            get_logger("owner").warning("pause_not_kept", path=str(self._path), detail=str(error))
