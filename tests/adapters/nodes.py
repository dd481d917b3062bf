"""Nodes on loopback for the adapters' tests."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lowcomm_node.adapters.bells import HeldBells, OwnBells
from lowcomm_node.adapters.certificate import Certificate
from lowcomm_node.adapters.channel_service import ChannelService
from lowcomm_node.adapters.contacts import Contacts
from lowcomm_node.adapters.doorkeeper import Doorkeeper
from lowcomm_node.adapters.grpc_endpoints import ChannelCache, GrpcServer, Lent
from lowcomm_node.adapters.grpc_meetings import grpc_dialler, meetings_handler
from lowcomm_node.adapters.identity import Identity
from lowcomm_node.adapters.introduction import Introduction
from lowcomm_node.adapters.meeting_link import Dialler, MeetingLink
from lowcomm_node.adapters.meeting_stream import FrameTransport
from lowcomm_node.adapters.state_streams import StateServer
from lowcomm_node.core.events import Event, Member
from lowcomm_node.core.messages import Message
from lowcomm_node.core.quarantine import Quarantine
from lowcomm_node.core.versions import SPOKEN
from lowcomm_node.errors import RefusalReason
from lowcomm_node.settings.manifest import SecurityConfig
from lowcomm_node.units import Codec, LinkKind, MeetingId, PeerId, Reachability, RunId, Stream
from lowcomm_node.wire.admission import AdmissionRule, Membership
from lowcomm_node.wire.channel import NO_CERTIFICATE
from lowcomm_node.wire.meeting import MeetingLimits
from lowcomm_node.wire.peer_id import peer_id_of_key
from lowcomm_node.wire.records import read_member, sign_member

RUN = RunId("ab" * 32)


def somebody(number: int) -> Identity:
    """An identity that is the same in every run of the tests."""
    key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    return Identity(Path("nowhere"), peer_id_of_key(key.public_key().public_bytes_raw()), key)


def some_peer(number: int) -> PeerId:
    """Its peer id."""
    return somebody(number).peer_id


def at(identity: Identity, address: str, *, tls: bool = True) -> Member:
    """A record that says where a peer is."""
    return Member(
        peer=identity.peer_id,
        grpc_address=address,
        progress_steps=0.0,
        has_state=True,
        expires_at=1e10,
        certificate=Certificate.of(identity).short if tls else b"",
    )


def membership(security: SecurityConfig | None = None, admission: bytes = b"") -> Membership:
    """Of ``RUN``; open unless told otherwise."""
    rule = AdmissionRule.of(security or SecurityConfig(), RUN)
    return Membership(run_id=RUN, manifest=b"", protocol_version=1, rule=rule, admission=admission)


class Port:
    """A node's port on loopback with what guards it; services are added by the test."""

    def __init__(
        self,
        identity: Identity,
        *,
        port: int = 0,
        tls: bool = True,
        security: SecurityConfig | None = None,
        max_connections: int = 512,
    ) -> None:
        self.identity = identity
        self.refused: list[RefusalReason] = []
        self.certificate = Certificate.of(identity) if tls else None
        self.quarantine = Quarantine()
        self.door = ChannelService(
            identity=identity,
            membership=membership(security),
            quarantine=self.quarantine,
            certificate_sha256=self.certificate.sha256 if self.certificate else NO_CERTIFICATE,
            on_refused=lambda error: self.refused.append(error.reason),
        )
        self.keeper = Doorkeeper(self.door.doorway, lambda error: self.refused.append(error.reason))
        """Looks when a test says so."""
        self.server = GrpcServer(
            host="127.0.0.1",
            port=port,
            certificate=self.certificate,
            gate=self.door.gate(),
            max_connections=max_connections,
        )
        self.member = at(identity, "", tls=tls)

    @property
    def number(self) -> int:
        """Of the port, once it is open."""
        return int(self.member.grpc_address.rpartition(":")[2])

    def look(self, later_s: float = 0.0) -> None:
        """What the doorkeeper does every second, so much later."""
        self.keeper.look(self.number, asyncio.get_running_loop().time() + later_s)

    async def start(self, *handlers: grpc.GenericRpcHandler) -> Member:
        """Serve; returns the record to find it by."""
        port = await self.server.start([self.door.handler(), *handlers])
        self.member = replace(self.member, grpc_address=f"127.0.0.1:{port}")
        return self.member


def channels_of(identity: Identity, contacts: Contacts, admission: bytes = b"", **options: object) -> ChannelCache:
    """What a node of ``RUN`` connects to others by."""
    introduction = Introduction(identity, SPOKEN)
    introduction.enter(membership(admission=admission))
    return ChannelCache(contacts, introduction, Quarantine(), connect_timeout_s=3.0, **options)  # type: ignore[arg-type]


def signed_record(identity: Identity, *, expires_at: float = 1000.0) -> bytes:
    """The record of a node that cannot be dialled."""
    member = Member(
        peer=identity.peer_id,
        grpc_address="",
        progress_steps=0.0,
        has_state=True,
        expires_at=expires_at,
        reachability=Reachability.OUTBOUND_ONLY,
    )
    return sign_member(member, run_id=RUN, protocol_version=1, sign=identity.sign)


def verify(record: bytes) -> Member:
    return read_member(record, run_id=RUN, protocol_version=1, now=0.0)


def run(scenario: Coroutine[Any, Any, None], *, timeout_s: float = 30.0) -> None:
    """Run on the daemon's kind of loop, for a bounded time."""

    async def bounded() -> None:
        async with asyncio.timeout(timeout_s):
            await scenario

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


@asynccontextmanager
async def calling(identity: Identity, member: Member, admission: bytes = b"") -> AsyncIterator[Lent]:
    """A connection of this identity to that member, for calls that need not follow the protocol."""
    contacts = Contacts()
    contacts.learn(member)
    channels = channels_of(identity, contacts, admission, allow_plaintext=True)
    try:
        async with channels.lend(member.peer) as lent:
            yield lent
    finally:
        await channels.close()


async def _no_states(_transport: object, peer: PeerId) -> str:
    raise AssertionError(f"{peer} asks for a state")


class LinkNode:
    """A link with its server and a sink that writes down what it gets, and may answer at once."""

    def __init__(
        self, identity: Identity, *, max_bells: int = 8, max_connections: int = 512, **options: object
    ) -> None:
        self.identity = identity
        self.peer = identity.peer_id
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.failures: asyncio.Queue[tuple[MeetingId, str]] = asyncio.Queue()
        self.progressed: list[MeetingId] = []
        self.refused: list[RefusalReason] = []
        self.bytes: dict[tuple[str, Stream, Codec], int] = {}
        self.overhead: dict[str, int] = {"sent": 0, "received": 0}
        self.answer: Callable[[Message], None] = lambda message: None
        self.contacts = Contacts()
        self.channels = channels_of(identity, self.contacts)
        self.port = Port(identity, max_connections=max_connections)
        limits = MeetingLimits(
            run_id=RUN, peer_id=self.peer, protocol_version=1, max_payload_bytes=16 << 20, max_tensors=4
        )
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.members: asyncio.Queue[Member] = asyncio.Queue()
        self.kinds: list[LinkKind] = []
        self.record = signed_record(identity)
        self.held = HeldBells(
            caller=self._caller,
            verify=verify,
            on_member=self.members.put_nowait,
            on_event=self.events.put_nowait,
            on_refused=lambda _peer, error: self.refused.append(error.reason),
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
            on_refused=lambda _peer, error: self.refused.append(error.reason),
            **options,  # type: ignore[arg-type]
        )
        self.states: StateServer = _no_states
        self.bells = OwnBells(
            channels=self.channels,
            link=self.link,
            states=self._serve_states,
            record=lambda: self.record,
            on_event=self.events.put_nowait,
        )

    async def start(self) -> None:
        await self.port.start(meetings_handler(self.link, self.held, self.port.door.caller))

    async def stop(self) -> None:
        await self.bells.stop()
        await self.link.stop()
        await self.port.server.stop(0.1)
        await self.channels.close()

    async def _caller(self, context: "grpc.aio.ServicerContext[bytes, bytes]") -> PeerId:
        return await self.port.door.caller(context)  # of the port that it has now

    async def _serve_states(self, transport: FrameTransport, peer: PeerId) -> str:
        return await self.states(transport, peer)

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
    nodes = [LinkNode(somebody(number + 1), **options) for number in range(count)]
    try:
        for node in nodes:
            await node.start()
        for node in nodes:
            for other in nodes:
                node.contacts.learn(other.port.member)
        yield nodes
    finally:
        for node in nodes:
            await node.stop()
