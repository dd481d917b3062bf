"""Bells: standing gRPC streams from nodes that cannot be dialled to nodes that can, who ring when they want something.

Who is rung dials at once, and the stream that it opens carries a meeting of which it is the answerer, or a question about its
state. It names what it was rung for by the id in the ring, and as on every connection both ends have proven who they are.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import grpc.aio
from google.protobuf.message import DecodeError

from lowcomm_node.adapters.grpc_endpoints import ChannelCache
from lowcomm_node.adapters.grpc_transports import ANSWER_RING, HANG_BELL, ClientTransport, ServerTransport
from lowcomm_node.adapters.meeting_link import MeetingLink
from lowcomm_node.adapters.state_streams import StateServer
from lowcomm_node.core.events import BellHung, BellLost, BellsHeld, Event, Member
from lowcomm_node.core.places import Fullness
from lowcomm_node.errors import LinkError, RefusalReason, RemoteProtocolError
from lowcomm_node.units import LinkKind, MeetingId, PeerId
from lowcomm_node.wire.frames import decode_frame
from lowcomm_node.wire.gen.lowcomm.v1 import meeting_pb2, records_pb2
from lowcomm_node.wire.limits import MAX_RECORD_BYTES

__all__ = ["HeldBells", "OwnBells"]

_log = logging.getLogger(__name__)

_FIRST_WORD_S = 8.0
"""Until a stream that was opened has said what it is for."""
_CALL_BACK_S = 8.0
"""A member that was rung has so long to dial."""
_RENEW_S = 5.0
"""Between two looks whether our record has changed."""
_LEAST_GAP_S = 1.0
"""Records that come faster are read later."""
_MAX_RING_BYTES = 64
_MAX_ANSWERS = 16
"""Rings that are answered at a time; more are not heard."""


Caller = Callable[["grpc.aio.ServicerContext[bytes, bytes]"], Awaitable[PeerId]]
"""Who makes a call; ends it when that is not proven."""


class _Bell:
    """One bell that hangs here."""

    def __init__(self, transport: ServerTransport) -> None:
        self._transport = transport
        self._lock = asyncio.Lock()
        self.gone = asyncio.Event()

    async def ring(self, ring: meeting_pb2.Ring) -> None:
        async with self._lock:
            await self._transport.write(ring.SerializeToString())


class _Rung:
    """Somebody has been rung and is waited for."""

    def __init__(self, peer: PeerId) -> None:
        self.peer = peer
        self.came: asyncio.Future[ServerTransport] = asyncio.get_running_loop().create_future()
        self.is_over = asyncio.Event()


class HeldBells:
    """The bells that other members have hung at this node.

    Args:
        caller: who makes a call.
        verify: checks a signed record; raises RemoteProtocolError.
        on_member: told each record that comes over a bell, so that its owner stays known.
        on_event: told who can be rung, whenever that changes.
        on_refused: whose record was refused, and why.
        max_bells: held at a time; one more is turned away.
    """

    def __init__(
        self,
        *,
        caller: Caller,
        verify: Callable[[bytes], Member],
        on_member: Callable[[Member], None],
        on_event: Callable[[Event], None],
        on_refused: Callable[[PeerId, RemoteProtocolError], None],
        max_bells: int,
    ) -> None:
        self._caller = caller
        self._verify = verify
        self._on_member = on_member
        self._on_event = on_event
        self._on_refused = on_refused
        self._max_bells = max_bells
        self._bells: dict[PeerId, _Bell] = {}
        self._rung: dict[MeetingId, _Rung] = {}

    def __len__(self) -> int:
        return len(self._bells)

    @property
    def peers(self) -> frozenset[PeerId]:
        """Whose bells they are."""
        return frozenset(self._bells)

    @property
    def fullness(self) -> Fullness:
        return Fullness(len(self), self._max_bells)

    @asynccontextmanager
    async def ring(
        self, peer: PeerId, meeting_id: MeetingId, *, wants_state: bool = False
    ) -> AsyncIterator[ServerTransport]:
        """Have ``peer`` dial us for a meeting that we start (``meeting_link.Dialler``), or to be asked about its state."""
        bell = self._bells.get(peer)
        if bell is None:
            raise LinkError("unreachable", f"{peer} has no bell here")
        ring = meeting_pb2.Ring(meeting_id=bytes.fromhex(meeting_id), wants_state=wants_state)
        rung = self._rung[meeting_id] = _Rung(peer)
        try:
            yield await self._wait_for(bell, ring, rung)
        finally:
            rung.is_over.set()
            if self._rung.get(meeting_id) is rung:
                del self._rung[meeting_id]

    def ring_for_state(self, peer: PeerId) -> AbstractAsyncContextManager[ServerTransport]:
        """As ``ring``, under an id of its own (``state_streams.StateDialler``)."""
        return self.ring(peer, MeetingId(secrets.token_hex(16)), wants_state=True)

    async def hold(self, _: object, context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        """Serve ``HangBell``: the stream lasts as long as the bell hangs."""
        peer = await self._caller(context)
        transport = ServerTransport(context)
        with suppress(LinkError, TimeoutError):
            async with asyncio.timeout(_FIRST_WORD_S):
                member = self._read(await transport.read(), peer)
            if member is None or (len(self._bells) >= self._max_bells and peer not in self._bells):
                return
            bell, older = _Bell(transport), self._bells.get(peer)
            self._bells[peer] = bell
            if older is not None:
                older.gone.set()
            try:
                await bell.ring(
                    meeting_pb2.Ring()
                )  # a stream takes one write at a time, and who holds the bell may ring at once
                self._tell()
                self._on_member(member)
                await self._listen(transport, peer, bell)
            finally:
                bell.gone.set()
                if self._bells.get(peer) is bell:
                    del self._bells[peer]
                    self._tell()

    async def let_in(self, _: object, context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        """Serve ``AnswerRing``: hand the stream over to whoever has rung."""
        peer = await self._caller(context)
        transport = ServerTransport(context)
        with suppress(LinkError, TimeoutError, RemoteProtocolError):
            async with asyncio.timeout(_FIRST_WORD_S):
                frame = decode_frame(await transport.read() or b"")
            rung = self._rung.get(MeetingId(frame.call_back.meeting_id.hex()))
            if rung is not None and rung.peer == peer and not rung.came.done():
                rung.came.set_result(transport)
                await rung.is_over.wait()

    async def _wait_for(self, bell: _Bell, ring: meeting_pb2.Ring, rung: _Rung) -> ServerTransport:
        peer = rung.peer
        gone = asyncio.ensure_future(bell.gone.wait())
        waited_for: set[asyncio.Future[Any]] = {gone, rung.came}
        try:
            async with asyncio.timeout(_CALL_BACK_S):
                await bell.ring(ring)
                await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise LinkError("unreachable", f"{peer} was rung and does not come") from None
        except LinkError as error:
            raise LinkError("unreachable", f"{peer} cannot be rung: {error.detail}") from error
        finally:
            gone.cancel()
        if not rung.came.done():
            raise LinkError("unreachable", f"the bell of {peer} is gone")
        return rung.came.result()

    async def _listen(self, transport: ServerTransport, peer: PeerId, bell: _Bell) -> None:
        """Take in new records of the bell's owner until it takes the bell down, or hangs a newer one."""
        replaced = asyncio.create_task(bell.gone.wait())
        try:
            while not replaced.done():
                reading = asyncio.create_task(transport.read())
                try:
                    await asyncio.wait({reading, replaced}, return_when=asyncio.FIRST_COMPLETED)
                    member = self._read(reading.result(), peer) if reading.done() else None
                finally:
                    reading.cancel()
                if member is None:
                    return
                self._on_member(member)
                await asyncio.sleep(_LEAST_GAP_S)
        finally:
            replaced.cancel()

    def _read(self, data: bytes | None, peer: PeerId) -> Member | None:
        """The record of the bell's owner; None at the end of the stream, and for one that is not believed or somebody else's."""
        if data is None:
            return None
        try:
            if len(data) > MAX_RECORD_BYTES + 16:
                raise RemoteProtocolError(RefusalReason.OVERSIZED, f"a record of {len(data)} bytes")
            request = meeting_pb2.BellRequest.FromString(data)
            member = self._verify(request.member.SerializeToString())
            if member.peer != peer:
                raise RemoteProtocolError(
                    RefusalReason.WRONG_SENDER, f"a record of {member.peer} at the bell of {peer}"
                )
        except DecodeError:
            self._on_refused(peer, RemoteProtocolError(RefusalReason.MALFORMED, "a bell that cannot be read"))
        except RemoteProtocolError as error:
            self._on_refused(peer, error)
        else:
            return member
        return None

    def _tell(self) -> None:
        self._on_event(BellsHeld(peers=tuple(self._bells)))


class OwnBells:
    """The bells of this node at other members.

    Args:
        channels: connections to other nodes.
        link: answers the meetings for which we are rung.
        states: answers who rings to ask about our state.
        record: our newest signed record.
        on_event: told when a bell hangs, and when it is gone.
    """

    def __init__(
        self,
        *,
        channels: ChannelCache,
        link: MeetingLink,
        states: StateServer,
        record: Callable[[], bytes],
        on_event: Callable[[Event], None],
    ) -> None:
        self._channels = channels
        self._link = link
        self._states = states
        self._record = record
        self._on_event = on_event
        self._keepers: dict[PeerId, asyncio.Task[None]] = {}
        self._answers: set[asyncio.Task[None]] = set()

    @property
    def fullness(self) -> Fullness:
        """Of rings that are answered."""
        return Fullness(len(self._answers), _MAX_ANSWERS)

    def hang(self, peer: PeerId) -> None:
        """Keep a bell at ``peer``, who must be one that can be dialled."""
        if peer not in self._keepers:
            task = self._keepers[peer] = asyncio.create_task(self._keep(peer), name=f"bell at {peer}")
            task.add_done_callback(lambda done: self._ended(peer, done))

    def take(self, peer: PeerId) -> None:
        """Take it down; nothing more is heard of it."""
        keeper = self._keepers.pop(peer, None)
        if keeper is not None:
            keeper.cancel()

    async def stop(self) -> None:
        """Take all down, and end the meetings that came of them."""
        tasks = [*self._keepers.values(), *self._answers]
        self._keepers.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, peer: PeerId) -> None:
        renewing: asyncio.Task[None] | None = None
        try:
            async with self._channels.lend(peer) as lent, ClientTransport.call(lent, HANG_BELL) as transport:
                record = self._record()
                await transport.write(_request(record))
                async with asyncio.timeout(_FIRST_WORD_S):
                    if await transport.read() is None:
                        raise LinkError("busy", "it holds as many bells as it can, or does not believe our record")
                self._on_event(BellHung(peer=peer))
                renewing = asyncio.create_task(self._renew(transport, record))
                while (data := await transport.read()) is not None:
                    self._rung(peer, _read_ring(data))
        except (LinkError, TimeoutError, RemoteProtocolError) as error:
            _log.debug("bell_gone peer=%s detail=%s", peer, error)
        finally:
            if renewing is not None:
                renewing.cancel()

    def _ended(self, peer: PeerId, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("bell_fault", exc_info=error)
        if self._keepers.get(peer) is task:
            del self._keepers[peer]
            self._on_event(BellLost(peer=peer))

    async def _renew(self, transport: ClientTransport, sent: bytes) -> None:
        """Who holds our bell should not forget us when our record runs out."""
        while True:
            await asyncio.sleep(_RENEW_S)
            if (record := self._record()) != sent:
                sent = record
                with suppress(LinkError):  # the reader notices
                    await transport.write(_request(record))

    def _rung(self, peer: PeerId, ring: meeting_pb2.Ring) -> None:
        if len(self._answers) < _MAX_ANSWERS:
            task = asyncio.create_task(self._answer(peer, ring))
            self._answers.add(task)
            task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._answers.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("meeting_stream_fault", exc_info=error)

    async def _answer(self, peer: PeerId, ring: meeting_pb2.Ring) -> None:
        """Dial whoever has rung, and answer its meeting or question; that may outlive the bell."""
        frame = meeting_pb2.MeetingFrame(call_back=meeting_pb2.CallBack(meeting_id=ring.meeting_id))
        with suppress(LinkError, RemoteProtocolError):
            async with self._channels.lend(peer) as lent, ClientTransport.call(lent, ANSWER_RING) as transport:
                await transport.write(frame.SerializeToString())
                if ring.wants_state:
                    reason = await self._states(transport, peer)
                else:
                    reason = await self._link.serve(transport, LinkKind.GRPC_REVERSED, peer)
                if reason:
                    raise LinkError(reason, "the stream has ended")  # so that the channel proves itself anew


def _request(record: bytes) -> bytes:
    return meeting_pb2.BellRequest(member=records_pb2.SignedRecord.FromString(record)).SerializeToString()


def _read_ring(data: bytes) -> meeting_pb2.Ring:
    """Raises RemoteProtocolError for what is no ring."""
    try:
        if len(data) <= _MAX_RING_BYTES:
            return meeting_pb2.Ring.FromString(data)
    except DecodeError:
        pass
    raise RemoteProtocolError(RefusalReason.MALFORMED, "a ring that cannot be read")
