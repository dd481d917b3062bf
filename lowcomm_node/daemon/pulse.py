"""Asks a member for an echo now and then: how far away are the others, and is this machine's clock like theirs?

Only over a connection that meetings or bells have made and that is still up, so a question costs some hundred bytes, and nobody
is dialled for it.
"""

import asyncio
import random

from lowcomm_node.adapters.grpc_endpoints import ChannelCache
from lowcomm_node.adapters.line import Line
from lowcomm_node.adapters.probe import ask_echo
from lowcomm_node.core.places import Fullness
from lowcomm_node.core.swarm_clock import SwarmClock
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.errors import LinkError, RemoteProtocolError

__all__ = ["Pulse"]

_EVERY_S = 10.0


class Pulse:
    """``line``: while it is closed nobody is asked. ``recorder`` is told what is heard."""

    def __init__(self, channels: ChannelCache, line: Line, recorder: Recorder, *, every_s: float = _EVERY_S) -> None:
        self._channels = channels
        self._line = line
        self._recorder = recorder
        self._every_s = every_s
        self._clock = SwarmClock()

    @property
    def fullness(self) -> Fullness:
        """Of clocks that are remembered."""
        return self._clock.fullness

    async def run(self) -> None:
        """For as long as the node lives."""
        while True:
            await asyncio.sleep(self._every_s)
            if self._line.is_open:
                await self.beat()

    async def beat(self) -> None:
        """Ask one, if there is one to be asked; who does not answer is the meetings' business."""
        connected = self._channels.connected()
        if not connected:
            return
        peer = random.choice(connected)
        try:
            echo = await ask_echo(self._channels, peer)
        except (LinkError, RemoteProtocolError):
            return
        now = asyncio.get_running_loop().time()
        if echo.ahead_s is not None:
            self._clock.heard(peer, echo.ahead_s, now)
        self._recorder.echo_heard(peer, echo.rtt_s, self._clock.ahead_s(now))
