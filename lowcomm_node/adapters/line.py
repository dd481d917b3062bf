"""This node's share of its owner's line: bytes of meetings and downloads are counted here, and wait here where they are capped."""

import asyncio

from lowcomm_node.core.pacing import Cap

__all__ = ["Line"]

_URGENT_BYTES = 16 << 10
"""Frames up to this size are headers, verdicts, refusals: a payload in front of them must not make their meeting fail."""


_LATE_S = 0.1
"""Sleepers wake late, some per cent of each wait on a busy machine: so much of the line's time is made up for."""
_WINDOW_S = 0.25
"""What may be under way when reading stops: the longest usual round trip, so that the cap can be reached over it."""
_LEAST_WINDOW_BYTES = 64 << 10


class Line:
    """Both directions, shared by all connections. ``up`` and ``down``: bytes per second, 0 is no cap.

    Incoming bytes are held back by not reading on: the transport's flow control then slows the sender, after what its
    windows hold.
    """

    def __init__(self, *, up_bytes_per_s: float = 0.0, down_bytes_per_s: float = 0.0) -> None:
        self.window_bytes = max(_LEAST_WINDOW_BYTES, int(_WINDOW_S * down_bytes_per_s)) if down_bytes_per_s else None
        """Bytes that a peer may send ahead of our reading, on each stream; None leaves it to the transport."""
        self._up = Cap(up_bytes_per_s)
        self._down = Cap(down_bytes_per_s)
        self.is_open = True
        """False while the owner wants it for something else: nothing new is begun on it then."""
        self.sent_bytes = 0
        self.received_bytes = 0

    async def sending(self, num_bytes: int) -> None:
        """Wait until these bytes may go out."""
        self.sent_bytes += num_bytes
        await self._pass(self._up, num_bytes)

    async def received(self, num_bytes: int) -> None:
        """Wait until the next bytes may be read, after these have come."""
        self.received_bytes += num_bytes
        await self._pass(self._down, num_bytes)

    async def _pass(self, cap: Cap, num_bytes: int) -> None:
        now = asyncio.get_running_loop().time() - _LATE_S
        wait_s = cap.wait_s(num_bytes, now, is_urgent=num_bytes <= _URGENT_BYTES) - _LATE_S
        if wait_s > 0:
            await asyncio.sleep(wait_s)
