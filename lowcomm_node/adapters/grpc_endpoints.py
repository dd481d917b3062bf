"""The two ends of gRPC: one server for all services, and a bounded cache of channels to other nodes.

Both are encrypted, and a channel is worth nothing before each end has proven to the other who it is. Options and their
reasons, measured: ``keepalive_timeout_ms`` alone does not notice a frozen peer, ``ping_timeout_ms`` is needed too;
``so_reuseport`` would let two nodes share a port without a word; without a local subchannel pool a fresh channel
inherits the back-off of the one that failed before it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256

import grpc
import grpc.aio

from lowcomm_node.adapters.certificate import Certificate
from lowcomm_node.adapters.contacts import Contacts
from lowcomm_node.adapters.doorkeeper import Doorkeeper
from lowcomm_node.adapters.introduction import Introduction
from lowcomm_node.adapters.tcp import tune_connections
from lowcomm_node.core.events import Member
from lowcomm_node.core.places import Fullness
from lowcomm_node.core.quarantine import Quarantine
from lowcomm_node.errors import LinkError, RemoteProtocolError
from lowcomm_node.settings.hosts import is_loopback
from lowcomm_node.units import PeerId
from lowcomm_node.wire.certificate import TARGET_NAME, certificate_der, certificate_pem
from lowcomm_node.wire.channel import NO_CERTIFICATE, TOKEN_KEY
from lowcomm_node.wire.limits import MAX_FRAME_BYTES, MAX_REQUEST_BYTES

__all__ = ["ChannelCache", "GrpcServer", "Lent"]

_COMMON_OPTIONS = (
    ("grpc.max_send_message_length", MAX_FRAME_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 15_000),
    ("grpc.http2.ping_timeout_ms", 15_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
_SERVER_OPTIONS = (
    *_COMMON_OPTIONS,
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_concurrent_streams", 64),
    ("grpc.max_connection_idle_ms", 120_000),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)
_CHANNEL_OPTIONS = (
    *_COMMON_OPTIONS,
    ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
    ("grpc.ssl_target_name_override", TARGET_NAME),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.client_idle_timeout_ms", 60_000),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
)

_FIRST_WINDOW_BYTES = 1 << 20


class GrpcServer:
    """Listens on one port for everything that peers ask over gRPC.

    Args:
        host, port: where.
        certificate: what it shows; None speaks without TLS.
        gate: looks at each call first.
        doorkeeper: looks at who has connected.
        max_concurrent_rpcs: calls at a time.
        max_connections: beyond so many gRPC hangs up without a word.
        window_bytes: see ``Line.window_bytes``.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        certificate: Certificate | None,
        gate: grpc.aio.ServerInterceptor | None = None,
        doorkeeper: Doorkeeper | None = None,
        max_concurrent_rpcs: int = 256,
        max_connections: int = 512,
        window_bytes: int | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._certificate = certificate
        self._doorkeeper = doorkeeper
        self._server = grpc.aio.server(
            options=(
                *_SERVER_OPTIONS,
                ("grpc.max_allowed_incoming_connections", max_connections),
                *_window_options(window_bytes),
            ),
            maximum_concurrent_rpcs=max_concurrent_rpcs,
            interceptors=[gate] if gate is not None else None,
        )

    async def start(self, handlers: Sequence[grpc.GenericRpcHandler]) -> int:
        """Bind and serve; returns the port, chosen by the system when 0 was given.

        Raises:
            LinkError: ``port`` when the address cannot be bound.
        """
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._server.add_generic_rpc_handlers(tuple(handlers))
        try:
            port = self._bind(f"{host}:{self._port}")
        except RuntimeError:
            port = 0
        if not port:
            raise LinkError(
                "port",
                f"cannot listen on {host}:{self._port}: the port is in use or the address is not this machine's; "
                "set network.grpc_port to a free port (0 picks one) or network.host to an own address",
            )
        await self._server.start()
        if self._doorkeeper is not None:
            self._doorkeeper.begin(port)
        return port

    async def stop(self, grace_s: float = 1.0) -> None:
        """End all streams, after ``grace_s`` by force."""
        if self._doorkeeper is not None:
            await self._doorkeeper.stop()
        await self._server.stop(grace_s)

    def _bind(self, address: str) -> int:
        if self._certificate is None:
            return self._server.add_insecure_port(address)
        pair = self._certificate.key_pem, self._certificate.pem
        return self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lent:
    """A channel on which both ends have proven who they are."""

    channel: grpc.aio.Channel
    metadata: tuple[tuple[str, bytes], ...]
    """To go with each call."""


@dataclass(slots=True)
class _Cached:
    channel: grpc.aio.Channel
    address: str
    certificate: bytes
    certificate_sha256: bytes
    users: int = 0
    token: bytes | None = None
    """Of the connection that the channel has; it is worth nothing on the next one."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class ChannelCache:
    """Channels to other nodes, one per peer, kept while useful.

    gRPC itself drops the connection of a channel that is idle for a minute. Beyond ``max_channels`` the longest
    unused channel is closed; one that failed to connect is dropped, so that its back-off harms no later attempt.

    Args:
        contacts: where peers are, and the certificates that they must show.
        introduction: what this node says of itself.
        quarantine: whom it leaves alone.
        connect_timeout_s: seconds for a connection and both proofs.
        allow_plaintext: also speak without TLS to peers on this computer that have no certificate.
        on_refused: told of a peer that has shown something wrong, or that has refused this node.
    """

    def __init__(
        self,
        contacts: Contacts,
        introduction: Introduction,
        quarantine: Quarantine,
        *,
        connect_timeout_s: float = 8.0,
        max_channels: int = 64,
        window_bytes: int | None = None,
        allow_plaintext: bool = False,
        on_refused: Callable[[PeerId, RemoteProtocolError], None] = lambda _peer, _error: None,
    ) -> None:
        """``window_bytes``: see ``Line.window_bytes``."""
        self._options = (*_CHANNEL_OPTIONS, *_window_options(window_bytes))
        self._contacts = contacts
        self._introduction = introduction
        self._quarantine = quarantine
        self._connect_timeout_s = connect_timeout_s
        self._max_channels = max_channels
        self._allow_plaintext = allow_plaintext
        self._on_refused = on_refused
        self._cached: OrderedDict[PeerId, _Cached] = OrderedDict()

    def __len__(self) -> int:
        return len(self._cached)

    @property
    def fullness(self) -> Fullness:
        return Fullness(len(self), self._max_channels)

    def connected(self) -> list[PeerId]:
        """Peers to whom there is a channel that is up, and on which both ends have proven who they are."""
        is_up = grpc.ChannelConnectivity.READY
        return [peer for peer, c in self._cached.items() if c.token is not None and c.channel.get_state() is is_up]

    @asynccontextmanager
    async def lend(self, peer: PeerId) -> AsyncIterator[Lent]:
        """A connected channel to ``peer``, at the address of its newest record.

        Raises:
            LinkError: ``unreachable`` when the peer is not known, is in quarantine, or no connection comes about in time; at once when
                nobody can dial it.
            RemoteProtocolError: another one than the peer answers there, or it refuses this node.
        """
        member = self._contacts.find(peer)
        if (left_s := self._quarantine.left_s(peer, asyncio.get_running_loop().time())) > 0:
            raise LinkError("unreachable", f"{peer} is left alone for {left_s:.0f} s more")
        if not member.grpc_address:
            raise LinkError("unreachable", f"{peer} cannot be dialled")
        older = cached = self._cached.get(peer)
        if cached is None or (cached.address, cached.certificate) != (member.grpc_address, member.certificate):
            cached = self._cached[peer] = self._dial(member)
        self._cached.move_to_end(peer)
        cached.users += 1
        try:
            if older is not None:
                await self._tidy(peer, older)
            yield Lent(channel=cached.channel, metadata=((TOKEN_KEY, await self._prove(peer, cached)),))
        except (LinkError, RemoteProtocolError):
            cached.token = None  # the other end may have forgotten it; a new proof costs one round trip
            raise
        finally:
            cached.users -= 1
            await self._tidy(peer, cached)

    async def probe(self, member: Member, timeout_s: float) -> None:
        """Connect to a member where this record says it is, both proofs included, and hang up.

        Raises:
            LinkError, RemoteProtocolError: as ``lend``.
        """
        cached = self._dial(member)
        try:
            await self._introduction.make(cached.channel, member.peer, cached.certificate_sha256, timeout_s)
        finally:
            await cached.channel.close()

    async def close(self) -> None:
        """Close all channels, those in use too."""
        while self._cached:
            _, cached = self._cached.popitem()
            await cached.channel.close()

    def _dial(self, member: Member) -> _Cached:
        """A channel that takes no other certificate than the one in the peer's own record."""
        address = member.grpc_address
        if member.certificate:
            der = certificate_der(member.certificate)
            credentials = grpc.ssl_channel_credentials(root_certificates=certificate_pem(der))
            channel = grpc.aio.secure_channel(f"dns:///{address}", credentials, options=self._options)
            return _Cached(channel, address, member.certificate, sha256(der).digest())
        if not (self._allow_plaintext and is_loopback(address.rpartition(":")[0].strip("[]"))):
            raise LinkError(
                "unreachable", f"{address} speaks no TLS, and this node speaks without it to nobody else's computer"
            )
        channel = grpc.aio.insecure_channel(f"dns:///{address}", options=self._options)
        return _Cached(channel, address, b"", NO_CERTIFICATE)

    async def _prove(self, peer: PeerId, cached: _Cached) -> bytes:
        """The token of the channel's connection; made anew when the connection is."""
        async with cached.lock:
            if cached.token is None or cached.channel.get_state() is not grpc.ChannelConnectivity.READY:
                cached.token = None
                try:
                    cached.token = await self._introduction.make(
                        cached.channel, peer, cached.certificate_sha256, self._connect_timeout_s
                    )
                except (LinkError, RemoteProtocolError) as error:
                    if self._cached.get(peer) is cached:
                        del self._cached[peer]
                    if isinstance(error, RemoteProtocolError):
                        self._on_refused(peer, error)
                    raise
                tune_connections()  # before the payload: what is queued in the kernel by then, control has to wait for
            return cached.token

    async def _tidy(self, peer: PeerId, lent: _Cached) -> None:
        """Close what nobody uses: a channel that failed or leads to an old address, and the oldest ones beyond the bound."""
        if not lent.users and self._cached.get(peer) is not lent:
            await lent.channel.close()
        idle = [other for other, cached in self._cached.items() if not cached.users]
        for other in idle[: max(0, len(self._cached) - self._max_channels)]:
            await self._cached.pop(other).channel.close()


def _window_options(window_bytes: int | None) -> tuple[tuple[str, int], ...]:
    """A fixed window where a reader that waits has to stop the sender: gRPC's own grows to megabytes on a fast line.

    It begins with 64 KiB and grows from meeting to meeting; to begin with more gives the first ones of a connection what it can do.
    """
    if window_bytes is None:
        return (("grpc.http2.lookahead_bytes", _FIRST_WINDOW_BYTES),)
    return (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", window_bytes))
