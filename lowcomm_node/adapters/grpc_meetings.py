"""Meetings over gRPC where the initiator dials."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from lowcomm_node.adapters.bells import Caller, HeldBells
from lowcomm_node.adapters.grpc_endpoints import ChannelCache
from lowcomm_node.adapters.grpc_transports import (
    ANSWER_RING,
    HANG_BELL,
    MEET,
    MEETINGS_SERVICE,
    ClientTransport,
    ServerTransport,
)
from lowcomm_node.adapters.meeting_link import Dialler, MeetingLink
from lowcomm_node.units import LinkKind, MeetingId, PeerId

__all__ = ["grpc_dialler", "meetings_handler"]


def grpc_dialler(channels: ChannelCache) -> Dialler:
    """Dials the partner's port."""

    @asynccontextmanager
    async def dial(peer: PeerId, _meeting_id: MeetingId) -> AsyncIterator[ClientTransport]:
        async with channels.lend(peer) as lent, ClientTransport.call(lent, MEET) as transport:
            yield transport

    return dial


def meetings_handler(link: MeetingLink, bells: HeldBells, caller: Caller) -> grpc.GenericRpcHandler:
    """The service that answers other nodes, to be given to the ``GrpcServer``. Frames pass as bytes: we parse, and refuse, ourselves."""

    async def meet(_: object, context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        peer = await caller(context)
        await link.serve(ServerTransport(context), LinkKind.GRPC, peer)

    methods = {MEET: meet, HANG_BELL: bells.hold, ANSWER_RING: bells.let_in}
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        name: grpc.stream_stream_rpc_method_handler(method) for name, method in methods.items()
    }
    return grpc.method_handlers_generic_handler(MEETINGS_SERVICE, handlers)
