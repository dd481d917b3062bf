"""One attempt at one meeting: a bidirectional stream of frames, seen from either end, that always comes to an end.

Neither transport nor peer is trusted to say that it is gone: a frozen process answers no frames and breaks no
connection. So each side watches its own progress, and a message under way has to arrive at a least rate.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from lowcomm_node.adapters.line import Line
from lowcomm_node.core.messages import Answer, Busy, Close, Confirm, Message, Offer, Refusal, Verdict
from lowcomm_node.errors import LinkError, RefusalReason, RemoteProtocolError
from lowcomm_node.units import LinkKind, MeetingId, PeerId
from lowcomm_node.wire.assembly import payload_digest
from lowcomm_node.wire.frames import decode_frame, to_frames
from lowcomm_node.wire.meeting import MeetingLimits, MeetingReader

__all__ = ["FrameTransport", "MeetingStream", "StreamOwner"]

_MAX_QUEUED_MESSAGES = 8
_LINGER_S = 3.0
_LEAST_BYTES_PER_S = 16 << 10
"""A frame of 256 KiB in 16 s. Slower messages are cut off: each sign of life restarts deadlines, and drops must not last for ever."""
_TELL_EVERY_S = 0.25
_DIGEST_IN_THREAD_BYTES = 1 << 20
_OWN_TURN_PATIENCE = 4
"""Our own trainer may take a while; its deadlines are the core's. This only ends a stream that everybody forgot."""


class FrameTransport(Protocol):
    """One end of a stream. ``read`` gives None at the end; both raise LinkError when the stream broke."""

    @property
    def is_ended_by_leaving(self) -> bool:
        """Letting go of this end ends the stream in order once all has arrived; otherwise the other end is to be waited for."""
        ...

    async def read(self) -> bytes | None: ...

    async def write(self, frame: bytes) -> None: ...

    async def half_close(self) -> None: ...


class StreamOwner(Protocol):
    """Whom a stream tells what passes through it."""

    def message_arrived(self, stream: "MeetingStream", message: Message) -> None:
        """Raises RemoteProtocolError when the message has no place on this stream."""
        ...

    def message_progressed(self, meeting_id: MeetingId) -> None:
        """Part of a message has crossed, either way; told a few times a second at most."""
        ...

    def bytes_carried(self, direction: str, message: Message | None, frame_bytes: int) -> None:
        """``frame_bytes`` crossed the wire, ``direction`` sent or received; no message when it was cut short."""
        ...

    def message_refused(self, peer: PeerId, error: RemoteProtocolError) -> None: ...


class MeetingStream:
    """Carries the messages of one meeting over one transport, whichever end has dialled.

    The initiator sends, half-closes and waits for the answerer's end; the answerer ends the stream. The end
    is in order when this side has closed, or when a message came after which nothing more is due.
    """

    def __init__(
        self,
        *,
        kind: LinkKind,
        owner: StreamOwner,
        limits: MeetingLimits,
        stall_timeout_s: float,
        meeting_id: MeetingId | None,
        line: Line,
        peer: PeerId,
    ) -> None:
        self.kind = kind
        self._owner = owner
        self._limits = limits
        self.is_initiator = meeting_id is not None
        """The initiator knows from the start which meeting this is."""
        self._stall_timeout_s = stall_timeout_s
        self._line = line
        self.meeting_id = meeting_id
        """None on the answerer until the first message is complete."""
        self.peer = peer
        """Who is at the other end, as it has proven."""
        self._clock: Callable[[], float] = asyncio.get_running_loop().time
        self._outbox: deque[Message] = deque()
        self._wake = asyncio.Event()
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._is_closing = False
        self._is_writing = False
        self._is_peers_turn = True
        self._refusal = ""
        self._progress_at = self._clock()
        self._told_at = float("-inf")
        self._message_due_at = float("inf")
        self._heard: set[type] = set()
        """Kinds of messages that have come; the initiator says each of its own once on a stream."""

    def send(self, message: Message) -> None:
        """Queue a message; nothing on a stream that is closing."""
        if self._is_closing:
            return
        if len(self._outbox) >= _MAX_QUEUED_MESSAGES:
            self._end("disconnect")
            return
        self._outbox.append(message)
        self._wake.set()

    @property
    def is_closing(self) -> bool:
        """This side has said all it will say."""
        return self._is_closing

    def close(self) -> None:
        """End in order once the queue is out."""
        self._is_closing = True
        self._wake.set()

    def abandon(self) -> None:
        """End at once; this counts as an end in order."""
        self._is_closing = True
        self._end("")

    async def run(self, transport: FrameTransport) -> str:
        """Carry messages until the stream ends.

        Returns:
            Empty for an end in order, else disconnect, timeout, or the refusal reason of what the peer sent.
        """
        self._progress_at = self._clock()
        tasks = [asyncio.create_task(work) for work in (self._read(transport), self._write(transport), self._watch())]
        for task in tasks:
            task.add_done_callback(self._task_done)
        try:
            return await self._ended
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        """A fault of our own must not pass for an end of the stream."""
        if not task.cancelled() and (error := task.exception()) is not None and not self._ended.done():
            self._ended.set_exception(error)

    def _end(self, reason: str) -> None:
        if not self._ended.done():
            self._ended.set_result(reason)

    async def _read(self, transport: FrameTransport) -> None:
        reader = MeetingReader(self._limits, self.peer)
        frame_bytes = 0
        is_final = False
        try:
            while (data := await transport.read()) is not None:
                await self._line.received(len(data))
                self._progress_at = self._clock()
                frame_bytes += len(data)
                message = reader.feed(decode_frame(data))
                if message is None:
                    if self._message_due_at == float("inf"):
                        allowed_s = self._stall_timeout_s + reader.missing_bytes / _LEAST_BYTES_PER_S
                        self._message_due_at = self._progress_at + allowed_s
                    self._tell_progress(reader.meeting_id)
                    continue
                self._message_due_at = float("inf")
                self._is_peers_turn = False
                self._check_place(message)
                self._owner.bytes_carried("received", message, frame_bytes)
                frame_bytes = 0
                is_final = isinstance(message, Verdict | Confirm | Busy | Refusal)
                self._owner.message_arrived(self, message)
            is_cut_short = bool(frame_bytes)
            self._end("" if self._is_closing or (is_final and not is_cut_short) else "disconnect")
        except RemoteProtocolError as error:
            self._owner.message_refused(self.peer, error)
            await self._refuse(error, reader.meeting_id)
        except LinkError as error:
            self._end("" if self._is_closing or is_final else error.reason)
        finally:
            if frame_bytes:
                self._owner.bytes_carried("received", None, frame_bytes)

    async def _write(self, transport: FrameTransport) -> None:
        try:
            while True:
                while self._outbox:
                    self._is_writing = True
                    await self._write_message(transport, self._outbox.popleft())
                self._is_writing = False
                if self._is_closing:
                    break
                self._wake.clear()
                await self._wake.wait()
            if self.is_initiator or not transport.is_ended_by_leaving:
                await transport.half_close()
                await asyncio.sleep(_LINGER_S)  # the other end's end comes to the reader, as a rule at once
            self._end(self._refusal)
        except LinkError as error:
            # The peer may have said why before it ended the stream: the reader gets the time to find out.
            await asyncio.sleep(_LINGER_S)
            self._end(error.reason)

    async def _write_message(self, transport: FrameTransport, message: Message) -> None:
        digest = None
        parts = message.parts if isinstance(message, Offer | Answer | Close) else ()
        if sum(map(len, parts)) > _DIGEST_IN_THREAD_BYTES:
            digest = await asyncio.to_thread(payload_digest, parts)
        frame_bytes = 0
        try:
            for frame in to_frames(message, digest):
                data = frame.SerializeToString()
                await self._line.sending(len(data))
                await transport.write(data)
                frame_bytes += len(data)
                self._progress_at = self._clock()
                self._tell_progress(self.meeting_id)
        except (LinkError, asyncio.CancelledError):
            self._owner.bytes_carried("sent", None, frame_bytes)
            raise
        self._is_peers_turn = True
        self._owner.bytes_carried("sent", message, frame_bytes)

    def _tell_progress(self, meeting_id: MeetingId | None) -> None:
        if meeting_id is not None and not self._is_closing and self._progress_at - self._told_at >= _TELL_EVERY_S:
            self._told_at = self._progress_at
            self._owner.message_progressed(meeting_id)

    async def _watch(self) -> None:
        while True:
            is_waiting_for_peer = self._is_peers_turn or self._is_writing
            patience_s = self._stall_timeout_s * (1 if is_waiting_for_peer else _OWN_TURN_PATIENCE)
            left_s = min(self._progress_at + patience_s, self._message_due_at) - self._clock()
            if left_s <= 0:
                self._end("timeout")
                return
            await asyncio.sleep(min(left_s, self._stall_timeout_s / 4))

    async def _refuse(self, error: RemoteProtocolError, meeting_id: MeetingId | None) -> None:
        """Tell the initiator why, if there is a meeting to name; the writer then ends the stream."""
        if self.is_initiator:
            self._end(error.reason.value)
            return
        self._refusal = error.reason.value
        self._outbox.clear()
        if meeting_id is not None:
            self.send(Refusal(meeting_id=meeting_id, reason=error.reason))
        self.close()

    def _check_place(self, message: Message) -> None:
        allowed = (Answer, Verdict, Confirm, Busy, Refusal) if self.is_initiator else (Offer, Close, Confirm)
        if not isinstance(message, allowed):
            raise _misplaced(f"{type(message).__name__} from the wrong end")
        if not self.is_initiator and type(message) in self._heard:
            # A retry comes over a stream of its own.
            raise RemoteProtocolError(RefusalReason.REPLAYED, f"{type(message).__name__} for the second time")
        self._heard.add(type(message))
        if self.meeting_id is None:
            self.meeting_id = message.meeting_id
        elif self.meeting_id != message.meeting_id:
            raise _misplaced("a message of another meeting")


def _misplaced(detail: str) -> RemoteProtocolError:
    return RemoteProtocolError(RefusalReason.MALFORMED, detail)
