"""Ends connections to our port that should not stay: gRPC takes whom it can, and cannot be told whom to let go."""

import asyncio
from collections.abc import Callable

from lowcomm_node.adapters.tcp import end_incoming, incoming
from lowcomm_node.core.doorway import Doorway
from lowcomm_node.errors import RemoteProtocolError

__all__ = ["Doorkeeper"]

_LOOK_EVERY_S = 1.0


class Doorkeeper:
    """Carries out what a doorway decides. On a system that does not show its sockets (not Linux) there is nothing to look at.

    Args:
        doorway: decides; others tell it who has proven to be whom.
        on_ended: told of each connection that was ended, and why.
    """

    def __init__(self, doorway: Doorway, on_ended: Callable[[RemoteProtocolError], None]) -> None:
        self._doorway = doorway
        self._on_ended = on_ended
        self._task: asyncio.Task[None] | None = None

    def begin(self, port: int) -> None:
        """Look after this port from now on."""
        self._task = asyncio.create_task(self._watch(port), name="doorkeeper")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def look(self, port: int, now: float) -> None:
        """Once: see who is there, and end what should."""
        endings = {ending.address: ending for ending in self._doorway.looked(incoming(port), now)}
        for address in end_incoming(port, endings):
            self._on_ended(RemoteProtocolError(endings[address].reason, endings[address].detail))

    async def _watch(self, port: int) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            self.look(port, clock())
            await asyncio.sleep(_LOOK_EVERY_S)
