"""The two ends of gRPC: one server for all services, and a bounded cache of channels to other nodes.

Options and their reasons, measured: ``keepalive_timeout_ms`` alone does not notice a frozen peer, ``ping_timeout_ms``
is needed too; ``so_reuseport`` would let two nodes share a port without a word; without a local subchannel pool a
fresh channel inherits the back-off of the one that failed before it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import grpc.aio

from lowcomm_node.adapters.contacts import Contacts
from lowcomm_node.errors import LinkError
from lowcomm_node.units import PeerId
from lowcomm_node.wire.limits import MAX_FRAME_BYTES

__all__ = ["ChannelCache", "GrpcServer"]

_COMMON_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
    ("grpc.max_send_message_length", MAX_FRAME_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 15_000),
    ("grpc.http2.ping_timeout_ms", 15_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
_SERVER_OPTIONS = (
    *_COMMON_OPTIONS,
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)
_CHANNEL_OPTIONS = (
    *_COMMON_OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.client_idle_timeout_ms", 60_000),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
)


class GrpcServer:
    """Listens on one port for everything that peers ask over gRPC."""

    def __init__(self, *, host: str, port: int, max_concurrent_rpcs: int = 64) -> None:
        self._host = host
        self._port = port
        self._server = grpc.aio.server(options=_SERVER_OPTIONS, maximum_concurrent_rpcs=max_concurrent_rpcs)

    async def start(self, handlers: Sequence[grpc.GenericRpcHandler]) -> int:
        """Bind and serve; returns the port, chosen by the system when 0 was given.

        Raises:
            LinkError: ``port`` when the address cannot be bound.
        """
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._server.add_generic_rpc_handlers(tuple(handlers))
        try:
            port = self._server.add_insecure_port(f"{host}:{self._port}")
        except RuntimeError:
            port = 0
        if not port:
            raise LinkError(
                "port",
                f"cannot listen on {host}:{self._port}: the port is in use or the address is not this machine's; "
                "set network.grpc_port to a free port (0 picks one) or network.host to an own address",
            )
        await self._server.start()
        return port

    async def stop(self, grace_s: float = 1.0) -> None:
        """End all streams, after ``grace_s`` by force."""
        await self._server.stop(grace_s)


@dataclass(slots=True)
class _Cached:
    address: str
    channel: grpc.aio.Channel
    users: int = 0


class ChannelCache:
    """Channels to other nodes, one per peer, kept while useful.

    gRPC itself drops the connection of a channel that is idle for a minute. Beyond ``max_channels`` the longest
    unused channel is closed; one that failed to connect is dropped, so that its back-off harms no later attempt.
    """

    def __init__(self, contacts: Contacts, *, connect_timeout_s: float = 8.0, max_channels: int = 64) -> None:
        self._contacts = contacts
        self._connect_timeout_s = connect_timeout_s
        self._max_channels = max_channels
        self._cached: OrderedDict[PeerId, _Cached] = OrderedDict()

    def __len__(self) -> int:
        return len(self._cached)

    @asynccontextmanager
    async def lend(self, peer: PeerId) -> AsyncIterator[grpc.aio.Channel]:
        """A connected channel to ``peer``, at the address of its newest record.

        Raises:
            LinkError: ``unreachable`` when the peer is not known or no connection comes about in time.
        """
        address = self._contacts.find(peer).grpc_address
        older = cached = self._cached.get(peer)
        if cached is None or cached.address != address:
            cached = self._cached[peer] = _Cached(
                address, grpc.aio.insecure_channel(f"dns:///{address}", options=_CHANNEL_OPTIONS)
            )
        self._cached.move_to_end(peer)
        cached.users += 1
        try:
            if older is not None:
                await self._tidy(peer, older)
            await self._connect(peer, cached)
            yield cached.channel
        finally:
            cached.users -= 1
            await self._tidy(peer, cached)

    async def close(self) -> None:
        """Close all channels, those in use too."""
        while self._cached:
            _, cached = self._cached.popitem()
            await cached.channel.close()

    async def _connect(self, peer: PeerId, cached: _Cached) -> None:
        address, channel = cached.address, cached.channel
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                    if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                        self._drop(peer, cached)
                        raise LinkError("unreachable", f"{address} refuses the connection or does not exist")
                    if state is grpc.ChannelConnectivity.SHUTDOWN:
                        raise LinkError("unreachable", f"the channel to {address} was closed")
                    await channel.wait_for_state_change(state)
        except TimeoutError:
            self._drop(peer, cached)
            raise LinkError("unreachable", f"{address} does not answer in {self._connect_timeout_s:g} s") from None

    def _drop(self, peer: PeerId, failed: _Cached) -> None:
        if self._cached.get(peer) is failed:
            del self._cached[peer]

    async def _tidy(self, peer: PeerId, lent: _Cached) -> None:
        """Close what nobody uses: a channel that failed or leads to an old address, and the oldest ones beyond the bound."""
        if not lent.users and self._cached.get(peer) is not lent:
            await lent.channel.close()
        idle = [other for other, cached in self._cached.items() if not cached.users]
        for other in idle[: max(0, len(self._cached) - self._max_channels)]:
            await self._cached.pop(other).channel.close()
