"""Nodes on loopback for the adapters' tests."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lowcomm_node.adapters.bells import HeldBells, OwnBells
from lowcomm_node.adapters.contacts import Contacts
from lowcomm_node.adapters.grpc_endpoints import ChannelCache, GrpcServer
from lowcomm_node.adapters.grpc_meetings import grpc_dialler, meetings_handler
from lowcomm_node.adapters.meeting_link import Dialler, MeetingLink
from lowcomm_node.core.events import Event, Member
from lowcomm_node.core.messages import Message
from lowcomm_node.errors import RefusalReason
from lowcomm_node.units import Codec, LinkKind, MeetingId, PeerId, Reachability, RunId, Stream
from lowcomm_node.wire.meeting import MeetingLimits
from lowcomm_node.wire.peer_id import peer_id_of_key
from lowcomm_node.wire.records import read_member, sign_member

RUN = RunId("ab" * 32)


def some_peer(number: int) -> PeerId:
    """A peer id that is the same in every run of the tests."""
    return peer_id_of_key(_key(number).public_key().public_bytes_raw())


def _key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def at(peer: PeerId, address: str) -> Member:
    """A record that says where a peer is."""
    return Member(peer=peer, grpc_address=address, progress_steps=0.0, has_state=True, expires_at=1e10)


def signed_record(number: int, *, expires_at: float = 1000.0, address: str = "") -> bytes:
    """The record of ``some_peer(number)``, of a node that cannot be dialled unless there is an address."""
    member = Member(
        peer=some_peer(number),
        grpc_address=address,
        progress_steps=0.0,
        has_state=True,
        expires_at=expires_at,
        reachability=Reachability.PUBLIC if address else Reachability.OUTBOUND_ONLY,
    )
    return sign_member(member, run_id=RUN, protocol_version=1, sign=_key(number).sign)


def verify(record: bytes) -> Member:
    return read_member(record, run_id=RUN, protocol_version=1, now=0.0)


def run(scenario: Coroutine[Any, Any, None], *, timeout_s: float = 30.0) -> None:
    """Run on the daemon's kind of loop, for a bounded time."""

    async def bounded() -> None:
        async with asyncio.timeout(timeout_s):
            await scenario

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


class LinkNode:
    """A link with its server and a sink that writes down what it gets, and may answer at once."""

    def __init__(self, number: int, *, max_bells: int = 8, **options: object) -> None:
        self.peer = peer = some_peer(number)
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.failures: asyncio.Queue[tuple[MeetingId, str]] = asyncio.Queue()
        self.progressed: list[MeetingId] = []
        self.refused: list[RefusalReason] = []
        self.bytes: dict[tuple[str, Stream, Codec], int] = {}
        self.overhead: dict[str, int] = {"sent": 0, "received": 0}
        self.answer: Callable[[Message], None] = lambda message: None
        self.contacts = Contacts()
        self.channels = ChannelCache(self.contacts, connect_timeout_s=3.0)
        limits = MeetingLimits(run_id=RUN, peer_id=peer, protocol_version=1, max_payload_bytes=16 << 20, max_tensors=4)
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.members: asyncio.Queue[Member] = asyncio.Queue()
        self.kinds: list[LinkKind] = []
        self.record = signed_record(number)
        self.held = HeldBells(
            verify=verify,
            on_member=self.members.put_nowait,
            on_event=self.events.put_nowait,
            on_refused=self.refused.append,
            max_bells=max_bells,
        )
        diallers: dict[LinkKind, Dialler] = {
            LinkKind.GRPC: grpc_dialler(self.channels),
            LinkKind.GRPC_REVERSED: self.held.ring,
        }
        self.link = MeetingLink(
            sink=self,
            limits=limits,
            diallers=diallers,
            on_bytes=self._count,
            on_overhead=self._count_overhead,
            on_refused=self.refused.append,
            **options,  # type: ignore[arg-type]
        )
        self.bells = OwnBells(
            channels=self.channels, link=self.link, record=lambda: self.record, on_event=self.events.put_nowait
        )
        self.server = GrpcServer(host="127.0.0.1", port=0)
        self.address = ""

    async def start(self) -> None:
        self.address = f"127.0.0.1:{await self.server.start([meetings_handler(self.link, self.held)])}"

    async def stop(self) -> None:
        await self.bells.stop()
        await self.link.stop()
        await self.server.stop(0.1)
        await self.channels.close()

    def message_received(self, message: Message, kind: LinkKind) -> None:
        self.kinds.append(kind)
        self.messages.put_nowait(message)
        self.answer(message)

    def message_progressed(self, meeting_id: MeetingId) -> None:
        self.progressed.append(meeting_id)

    def link_failed(self, meeting_id: MeetingId, reason: str) -> None:
        self.failures.put_nowait((meeting_id, reason))

    def _count(self, direction: str, stream: Stream, codec: Codec, num_bytes: int) -> None:
        key = (direction, stream, codec)
        self.bytes[key] = self.bytes.get(key, 0) + num_bytes

    def _count_overhead(self, direction: str, num_bytes: int) -> None:
        self.overhead[direction] += num_bytes


@asynccontextmanager
async def link_nodes(count: int, **options: Any) -> AsyncIterator[list[LinkNode]]:
    """Started links on loopback, stopped at the end whatever happens."""
    nodes = [LinkNode(number + 1, **options) for number in range(count)]
    try:
        for node in nodes:
            await node.start()
        for node in nodes:
            for other in nodes:
                node.contacts.learn(at(other.peer, other.address))
        yield nodes
    finally:
        for node in nodes:
            await node.stop()
