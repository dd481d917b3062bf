"""The link of meetings: reaches partners, answers theirs, and hands complete messages to the core.

The newest connection of a meeting is the one that counts; older ones end without a word.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress

from lowcomm_node.adapters.line import Line
from lowcomm_node.adapters.meeting_stream import FrameTransport, MeetingStream
from lowcomm_node.adapters.newest import Newest
from lowcomm_node.core.messages import Answer, Busy, Close, Message, Offer, Refusal, StreamPlan
from lowcomm_node.core.places import Fullness, Places, Room
from lowcomm_node.errors import LinkError, RefusalReason, RemoteProtocolError
from lowcomm_node.ports import MeetingSink
from lowcomm_node.units import Codec, LinkKind, MeetingId, PeerId, Stream
from lowcomm_node.wire.frames import decode_frame, to_frames
from lowcomm_node.wire.meeting import MeetingLimits, MeetingReader

__all__ = ["BytesCounted", "Dialler", "MeetingLink"]

_log = logging.getLogger(__name__)

_MAX_REMEMBERED = 256
_TURN_AWAY_S = 5.0

BytesCounted = Callable[[str, Stream, Codec, int], None]
"""Direction (sent, received), stream, codec, payload bytes."""


Dialler = Callable[[PeerId, MeetingId], AbstractAsyncContextManager[FrameTransport]]
"""Makes a connection to a peer, for one meeting. Raises LinkError: ``unreachable`` when none comes about in time."""


class MeetingLink:
    """Implements ``ports.Link`` over every kind of link that there is a dialler for; what others dial is given to ``serve``.

    Args:
        sink: gets complete messages and failures, on the event loop.
        limits: what this node is and takes.
        diallers: how connections are made, by kind of link.
        line: what frames wait for where it is capped.
        stall_timeout_s: seconds without a sign of life, while it is the peer's turn, after which a stream ends.
            Should be longer than the core's own deadline for a phase.
        max_incoming: streams answered at a time; one more is told that this node is busy.
        max_incoming_of_peer: of them to one peer; one more is refused.
        on_bytes: payload bytes of complete messages.
        on_overhead: direction and all other bytes of frames: headers, and payloads that were cut short.
        on_refused: who has sent a message that was refused here, and why it was.
    """

    def __init__(
        self,
        *,
        sink: MeetingSink,
        limits: MeetingLimits,
        diallers: Mapping[LinkKind, Dialler],
        line: Line | None = None,
        stall_timeout_s: float = 30.0,
        max_incoming: int = 16,
        max_incoming_of_peer: int = 4,
        on_bytes: BytesCounted | None = None,
        on_overhead: Callable[[str, int], None] | None = None,
        on_refused: Callable[[PeerId, RemoteProtocolError], None] | None = None,
    ) -> None:
        self._sink = sink
        self._limits = limits
        self._diallers = diallers
        self._line = line or Line()
        self._stall_timeout_s = stall_timeout_s
        self._places = Places(most=max_incoming, most_of_one=max_incoming_of_peer)
        self._on_bytes = on_bytes
        self._on_overhead = on_overhead
        self._on_refused = on_refused
        self._outgoing: dict[MeetingId, MeetingStream] = {}
        self._incoming: dict[MeetingId, MeetingStream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.offers: Newest[MeetingId, PeerId] = Newest(_MAX_REMEMBERED)
        """Whose the meetings are that others have begun."""
        self._plans: Newest[MeetingId, tuple[StreamPlan, ...]] = Newest(_MAX_REMEMBERED)

    @property
    def fullness(self) -> Fullness:
        """Of streams that are answered."""
        return self._places.fullness

    def open(self, meeting_id: MeetingId, peer: PeerId, message: Message, kind: LinkKind = LinkKind.GRPC) -> None:
        """Connect to ``peer`` and send the first message; failure is reported to the sink."""
        stream = self._stream(meeting_id, kind, peer)
        self._replace(self._outgoing, meeting_id, stream)
        stream.send(message)
        task = asyncio.create_task(self._dial(stream, peer, meeting_id))
        self._tasks.add(task)
        task.add_done_callback(self._dialled)

    def send(self, meeting_id: MeetingId, message: Message) -> None:
        """Send over the meeting's newest connection, if there is one."""
        stream = self._outgoing.get(meeting_id) or self._incoming.get(meeting_id)
        if stream is not None:
            stream.send(message)

    def close(self, meeting_id: MeetingId) -> None:
        """Finish the meeting's connections once what was sent is out."""
        for streams in (self._outgoing, self._incoming):
            stream = streams.pop(meeting_id, None)
            if stream is not None:
                stream.close()

    async def stop(self) -> None:
        """Drop all connections this node has dialled; those dialled by others end with the server."""
        for stream in [*self._outgoing.values(), *self._incoming.values()]:
            stream.abandon()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def message_arrived(self, stream: MeetingStream, message: Message) -> None:
        """A stream has a complete message (``StreamOwner``)."""
        if stream.is_closing:
            return  # the meeting has moved on to another connection or partner, or is over
        if not stream.is_initiator and self._incoming.get(message.meeting_id) is not stream:
            if message.meeting_id in self._outgoing:
                raise RemoteProtocolError(RefusalReason.MALFORMED, "an offer under the id of a meeting of our own")
            whose = self.offers.setdefault(message.meeting_id, stream.peer)
            if whose != stream.peer:
                raise RemoteProtocolError(RefusalReason.WRONG_SENDER, f"a message in a meeting of {whose}")
            self._replace(self._incoming, message.meeting_id, stream)
        self._sink.message_received(message, stream.kind)

    def message_progressed(self, meeting_id: MeetingId) -> None:
        """A stream moves (``StreamOwner``)."""
        self._sink.message_progressed(meeting_id)

    def bytes_carried(self, direction: str, message: Message | None, frame_bytes: int) -> None:
        """Count what crossed the wire (``StreamOwner``)."""
        payload_bytes = 0
        if isinstance(message, Offer | Answer | Close):
            if isinstance(message, Offer):
                self._plans[message.meeting_id] = message.plans
            for plan, part in zip(self._plans.get(message.meeting_id, ()), message.parts, strict=False):
                payload_bytes += len(part)
                if self._on_bytes is not None:
                    self._on_bytes(direction, plan.stream, plan.codec, len(part))
        if self._on_overhead is not None:
            self._on_overhead(direction, frame_bytes - payload_bytes)

    def message_refused(self, peer: PeerId, error: RemoteProtocolError) -> None:
        """A peer sent what it should not have sent (``StreamOwner``)."""
        _log.debug("message_refused peer=%s reason=%s detail=%s", peer, error.reason.value, error.detail)
        if self._on_refused is not None:
            self._on_refused(peer, error)

    def _stream(self, meeting_id: MeetingId | None, kind: LinkKind, peer: PeerId) -> MeetingStream:
        return MeetingStream(
            kind=kind,
            owner=self,
            limits=self._limits,
            stall_timeout_s=self._stall_timeout_s,
            meeting_id=meeting_id,
            line=self._line,
            peer=peer,
        )

    def _replace(self, streams: dict[MeetingId, MeetingStream], meeting_id: MeetingId, stream: MeetingStream) -> None:
        older = streams.get(meeting_id)
        streams[meeting_id] = stream
        if older is not None:
            older.abandon()

    async def _dial(self, stream: MeetingStream, peer: PeerId, meeting_id: MeetingId) -> None:
        try:
            async with self._diallers[stream.kind](peer, meeting_id) as transport:
                if stream.is_closing:
                    return  # given up while the connection was being made
                reason = await stream.run(transport)
                if reason:
                    raise LinkError(reason, "the stream has ended")
        except (LinkError, RemoteProtocolError) as error:
            _log.debug("dial_failed peer=%s link=%s detail=%s", peer, stream.kind.value, error.detail)
            reason = str(error.reason)
        self._over(self._outgoing, meeting_id, stream, reason)

    def _dialled(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("meeting_stream_fault", exc_info=error)

    async def serve(self, transport: FrameTransport, kind: LinkKind, peer: PeerId) -> str:
        """Answer a meeting that ``peer``, who has proven to be at the other end of ``transport``, starts.

        Returns:
            As ``MeetingStream.run``.
        """
        if (room := self._places.take(peer)) is not Room.TAKEN:
            await self._turn_away(transport, peer, room)
            return ""
        stream = self._stream(None, kind, peer)
        reason = "disconnect"
        try:
            reason = await stream.run(transport)
        finally:
            self._places.leave(peer)
            if stream.meeting_id is not None:
                self._over(self._incoming, stream.meeting_id, stream, reason)
        return reason

    async def _turn_away(self, transport: FrameTransport, peer: PeerId, room: Room) -> None:
        """Say in a frame that there is no room, or none for this peer; the header that names the meeting is all that is read."""
        if room is Room.OWN_SHARE_USED:
            detail = "it has as many streams open as one peer may have"
            self.message_refused(peer, RemoteProtocolError(RefusalReason.TOO_MANY, detail))
        reader = MeetingReader(self._limits, peer)
        with suppress(LinkError, RemoteProtocolError, TimeoutError):
            async with asyncio.timeout(_TURN_AWAY_S):
                data = await transport.read()
                with suppress(RemoteProtocolError):
                    reader.feed(decode_frame(data or b""))
                if reader.meeting_id is not None:
                    told = (
                        Busy(meeting_id=reader.meeting_id)
                        if room is Room.FULL
                        else Refusal(meeting_id=reader.meeting_id, reason=RefusalReason.TOO_MANY)
                    )
                    for frame in to_frames(told):
                        await transport.write(frame.SerializeToString())
                if not transport.is_ended_by_leaving:
                    await transport.half_close()
                    while await transport.read() is not None:
                        pass  # what the offer still holds

    def _over(
        self, streams: dict[MeetingId, MeetingStream], meeting_id: MeetingId, stream: MeetingStream, reason: str
    ) -> None:
        """Report a failure, unless the core has closed the stream or a newer one took its place."""
        if streams.get(meeting_id) is stream:
            del streams[meeting_id]
            if reason:
                self._sink.link_failed(meeting_id, reason)
