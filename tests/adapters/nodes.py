"""Nodes on loopback for the adapters' tests."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lowcomm_node.adapters.contacts import Contacts
from lowcomm_node.adapters.grpc_endpoints import ChannelCache, GrpcServer
from lowcomm_node.adapters.grpc_link import GrpcLink
from lowcomm_node.core.events import Member
from lowcomm_node.core.messages import Message
from lowcomm_node.errors import RefusalReason
from lowcomm_node.units import Codec, MeetingId, PeerId, RunId, Stream
from lowcomm_node.wire.meeting import MeetingLimits
from lowcomm_node.wire.peer_id import peer_id_of_key

RUN = RunId("ab" * 32)


def some_peer(number: int) -> PeerId:
    """A peer id that is the same in every run of the tests."""
    return peer_id_of_key(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32).public_key().public_bytes_raw())


def at(peer: PeerId, address: str) -> Member:
    """A record that says where a peer is."""
    return Member(peer=peer, grpc_address=address, progress_steps=0.0, has_state=True, expires_at=1e10)


def run(scenario: Coroutine[Any, Any, None], *, timeout_s: float = 30.0) -> None:
    """Run on the daemon's kind of loop, for a bounded time."""

    async def bounded() -> None:
        async with asyncio.timeout(timeout_s):
            await scenario

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


class LinkNode:
    """A link with its server and a sink that writes down what it gets, and may answer at once."""

    def __init__(self, peer: PeerId, **options: object) -> None:
        self.peer = peer
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
        self.link = GrpcLink(
            sink=self,
            limits=limits,
            channels=self.channels,
            on_bytes=self._count,
            on_overhead=self._count_overhead,
            on_refused=self.refused.append,
            **options,  # type: ignore[arg-type]
        )
        self.server = GrpcServer(host="127.0.0.1", port=0)
        self.address = ""

    async def start(self) -> None:
        self.address = f"127.0.0.1:{await self.server.start([self.link.handler()])}"

    async def stop(self) -> None:
        await self.link.stop()
        await self.server.stop(0.1)
        await self.channels.close()

    def message_received(self, message: Message) -> None:
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
async def link_nodes(count: int, **options: object) -> AsyncIterator[list[LinkNode]]:
    """Started links on loopback, stopped at the end whatever happens."""
    nodes = [LinkNode(some_peer(number + 1), **options) for number in range(count)]
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
