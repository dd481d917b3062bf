"""Meetings and states over libp2p, between two nodes of which neither can be dialled: streams on a direct connection of their p2pds.

libp2p ends a stream in the same way when the other end is done and when it has died, and QUIC drops what is under way when one end
lets go. So each end says that it is done with an empty frame, and lets go when the other one has said so too.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from lowcomm_node.adapters.dht_session import DhtSession, IncomingStream, StreamHandler, StreamTopic
from lowcomm_node.adapters.meeting_link import Dialler, MeetingLink
from lowcomm_node.adapters.state_streams import StateServer
from lowcomm_node.core.places import Places, Room
from lowcomm_node.errors import DirectoryError, LinkError, RefusalReason, RemoteProtocolError
from lowcomm_node.units import LinkKind, PeerId
from lowcomm_node.wire.limits import MAX_FRAME_BYTES

__all__ = ["P2pTransport", "opened", "p2p_dialler", "p2p_handler", "p2p_places"]

_LENGTH_BYTES = 4
_END = bytes(_LENGTH_BYTES)
_MAX_STREAMS = 64
_MAX_STREAMS_OF_PEER = 16
"""As over gRPC: those that are answered, and those that are told that there is no room."""
_BROKEN = (OSError, asyncio.IncompleteReadError)


class P2pTransport:
    """One end of a libp2p stream as a ``FrameTransport``: frames behind their length, an empty one at the end."""

    is_ended_by_leaving = False

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._has_ended = False

    async def read(self) -> bytes | None:
        """As ``FrameTransport``. Raises RemoteProtocolError for a frame that is too long, of which nothing is read."""
        if self._has_ended:
            return None
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES))
            if length > MAX_FRAME_BYTES:
                raise RemoteProtocolError(RefusalReason.OVERSIZED, f"a frame of {length} bytes")
            if not length:
                self._has_ended = True
                return None
            return await self._reader.readexactly(length)
        except _BROKEN as error:
            raise LinkError("disconnect", "the stream has ended without a word") from error

    async def write(self, frame: bytes) -> None:
        await self._put(len(frame).to_bytes(_LENGTH_BYTES) + frame)

    async def half_close(self) -> None:
        await self._put(_END)

    async def _put(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except (OSError, RuntimeError) as error:  # RuntimeError: the event loop's word for a closed transport
            raise LinkError("disconnect", "the stream has ended") from error


@asynccontextmanager
async def opened(session: Callable[[], DhtSession], peer: PeerId, topic: StreamTopic) -> AsyncIterator[P2pTransport]:
    """A stream on a direct connection; where there is none, LinkError: the peer is unreachable, known at once."""
    try:
        reader, writer = await session().open_stream(peer, topic)
    except DirectoryError as error:
        raise LinkError("unreachable", str(error)) from error
    try:
        yield P2pTransport(reader, writer)
    finally:
        writer.close()


def p2p_dialler(session: Callable[[], DhtSession]) -> Dialler:
    """Opens streams for meetings."""
    return lambda peer, _meeting_id: opened(session, peer, StreamTopic.MEETING)


def p2p_places() -> Places:
    """For the streams of one node."""
    return Places(most=_MAX_STREAMS, most_of_one=_MAX_STREAMS_OF_PEER)


def p2p_handler(
    link: MeetingLink,
    is_welcome: Callable[[PeerId], bool],
    states: StateServer | None = None,
    among: Places | None = None,
) -> StreamHandler:
    """Answers what others open; what comes by a relay, on top of too many, or from whom we will not have is not read.

    ``states``: answers questions about this node's state; without it they end at once.
    ``among``: of ``p2p_places``, where somebody wants to see how many are taken.
    """
    places = p2p_places() if among is None else among

    async def take(stream: IncomingStream) -> None:
        if not stream.is_direct or not is_welcome(stream.peer):
            return
        if places.take(stream.peer) is not Room.TAKEN:
            detail = "it has as many libp2p streams open as there may be"
            link.message_refused(stream.peer, RemoteProtocolError(RefusalReason.TOO_MANY, detail))
            return
        transport = P2pTransport(stream.reader, stream.writer)
        try:
            if stream.topic is StreamTopic.MEETING:
                await link.serve(transport, LinkKind.LIBP2P, stream.peer)
            elif states is not None:
                await states(transport, stream.peer)
        finally:
            places.leave(stream.peer)

    return take
