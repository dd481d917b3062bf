"""Questions about a member's state over streams of frames: from it to who has rung its bell, or over libp2p."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing

from lowcomm_node.adapters.meeting_stream import FrameTransport
from lowcomm_node.adapters.state_donor import StateDonor
from lowcomm_node.errors import LinkError, RemoteProtocolError
from lowcomm_node.units import PeerId
from lowcomm_node.wire.state_frames import encode_message, encode_question, encode_refusal, read_answer, read_question

__all__ = ["StateDialler", "StateServer", "StateWay", "framed_way", "serve_states"]

_log = logging.getLogger(__name__)

_FIRST_WORD_S = 8.0
_STALL_TIMEOUT_S = 60.0

StateDialler = Callable[[PeerId], AbstractAsyncContextManager[FrameTransport]]
"""Makes a connection to a peer, for one question. Raises LinkError: ``unreachable`` when none comes about in time."""

StateWay = Callable[[PeerId, str, bytes, float], AsyncGenerator[bytes, None]]
"""Asks a peer by method and request, and gives the messages of its answer, each within so many seconds.

Raises LinkError (``unreachable``: no connection came about, and another way may lead there) and RemoteProtocolError.
"""

StateServer = Callable[[FrameTransport, PeerId], Awaitable[str]]
"""Answers what the peer, who has proven to be at the other end, asks; gives how the stream broke, empty where it has not."""


def serve_states(donor: StateDonor) -> StateServer:
    """What ``donor`` gives, one question a stream."""

    async def serve(transport: FrameTransport, peer: PeerId) -> str:
        try:
            async with asyncio.timeout(_FIRST_WORD_S):
                data = await transport.read()
            if data is not None:
                await _answer(donor, transport, data)
            await transport.half_close()
            async with asyncio.timeout(_STALL_TIMEOUT_S):
                while await transport.read() is not None:
                    pass  # to the end: what we have said is still on its way until then
        except (LinkError, RemoteProtocolError, TimeoutError) as error:
            _log.debug("state_stream_ended peer=%s detail=%s", peer, error)
            return "disconnect"
        return ""

    return serve


async def _answer(donor: StateDonor, transport: FrameTransport, data: bytes) -> None:
    """Raises LinkError, TimeoutError: nobody reads."""
    refusal: RemoteProtocolError | None = None
    try:
        async with aclosing(donor.answer(*read_question(data))) as messages:
            async for message in messages:
                async with asyncio.timeout(_STALL_TIMEOUT_S):  # who does not read leaves the place to somebody else
                    await transport.write(encode_message(message))
    except RemoteProtocolError as error:
        refusal = error
    if refusal is not None:
        await transport.write(encode_refusal(refusal))


def framed_way(dial: StateDialler, on_refused: Callable[[PeerId, RemoteProtocolError], None]) -> StateWay:
    """Asks over a stream of frames, one for each question; ``on_refused``: whose frame cannot be read."""

    async def ask(peer: PeerId, method: str, request: bytes, timeout_s: float) -> AsyncGenerator[bytes, None]:
        async with dial(peer) as transport:
            try:
                async with asyncio.timeout(timeout_s):
                    await transport.write(encode_question(method, request))
                while True:
                    async with asyncio.timeout(timeout_s):
                        data = await transport.read()
                    if data is None:
                        return
                    try:
                        answer = read_answer(data)
                    except RemoteProtocolError as error:
                        on_refused(peer, error)
                        raise
                    if not isinstance(answer, bytes):
                        raise answer
                    yield answer
            except TimeoutError:
                raise LinkError("timeout", f"the donor was silent for {timeout_s:g} s") from None

    return ask
