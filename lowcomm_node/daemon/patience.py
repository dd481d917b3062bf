"""Asking again while nobody is there: a whole swarm may be starting at once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from lowcomm_node.errors import NoPeerError
from lowcomm_node.telemetry.logs import get_logger

__all__ = ["patiently"]

_FIRST_RETRY_S = 0.5
_LONGEST_RETRY_S = 5.0

_T = TypeVar("_T")


async def patiently(attempt: Callable[[], Awaitable[_T]], timeout_s: float) -> _T:
    """Try, and with growing pauses again until ``timeout_s`` is over. Raises the last NoPeerError then, and all other errors at once."""
    log = get_logger("network")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    wait_s = _FIRST_RETRY_S
    while True:
        try:
            return await attempt()
        except NoPeerError as error:
            if loop.time() + wait_s > deadline:
                raise
            log.warning("no_peer_yet", detail=str(error), next_try_s=wait_s)
        await asyncio.sleep(wait_s)
        wait_s = min(_LONGEST_RETRY_S, 2 * wait_s)
