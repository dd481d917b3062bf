"""Questions to the directory that may come to nothing: each one is recorded, and the next one is asked in time."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.errors import DirectoryError

__all__ = ["recorded"]

_T = TypeVar("_T")


async def recorded(recorder: Recorder, operation: str, request: Callable[[], Awaitable[_T]]) -> _T | None:
    """What the directory answers; None when it does not. ``operation`` is ``get`` or ``put``."""
    began_at = time.monotonic()
    try:
        result = await request()
    except DirectoryError as error:
        recorder.directory_asked(operation, time.monotonic() - began_at, error)
        return None
    recorder.directory_asked(operation, time.monotonic() - began_at)
    return result
