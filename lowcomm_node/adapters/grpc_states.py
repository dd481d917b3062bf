"""The State service over gRPC, both ends: what a donor gives to who can dial it, and how it is asked."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import grpc
import grpc.aio

from lowcomm_node.adapters.grpc_endpoints import ChannelCache
from lowcomm_node.adapters.state_donor import StateDonor
from lowcomm_node.adapters.state_streams import StateWay
from lowcomm_node.errors import LinkError, RefusalReason, RemoteProtocolError
from lowcomm_node.units import PeerId
from lowcomm_node.wire.state import DESCRIBE, FETCH, FINGERPRINT, STATE_SERVICE
from lowcomm_node.wire.state_frames import refused

__all__ = ["grpc_way", "state_handler"]

_STALL_TIMEOUT_S = 60.0

_Context = grpc.aio.ServicerContext


def state_handler(
    donor: StateDonor, caller: Callable[["_Context[bytes, bytes]"], Awaitable[PeerId]]
) -> grpc.GenericRpcHandler:
    """To be given to the ``GrpcServer``. ``caller``: who has made a call; ends it when that is not proven."""

    async def describe(data: bytes, context: "_Context[bytes, bytes]") -> bytes:
        await caller(context)
        async with _refusing(context):
            return await donor.describe(data)
        raise AssertionError("abort has raised")

    async def fingerprint(data: bytes, context: "_Context[bytes, bytes]") -> bytes:
        await caller(context)
        async with _refusing(context):
            return await donor.fingerprint(data)
        raise AssertionError("abort has raised")

    async def fetch(data: bytes, context: "_Context[bytes, bytes]") -> None:
        await caller(context)
        async with _refusing(context), aclosing(donor.fetch(data)) as chunks:
            async for chunk in chunks:
                async with asyncio.timeout(_STALL_TIMEOUT_S):  # who does not read leaves the place to somebody else
                    await context.write(chunk)

    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        DESCRIBE: grpc.unary_unary_rpc_method_handler(describe),
        FETCH: grpc.unary_stream_rpc_method_handler(fetch),
        FINGERPRINT: grpc.unary_unary_rpc_method_handler(fingerprint),
    }
    return grpc.method_handlers_generic_handler(STATE_SERVICE, handlers)


def grpc_way(channels: ChannelCache) -> StateWay:
    """Dials the member's port."""

    async def ask(peer: PeerId, method: str, request: bytes, timeout_s: float) -> AsyncGenerator[bytes, None]:
        path = f"/{STATE_SERVICE}/{method}"
        async with channels.lend(peer) as lent:
            if method != FETCH:
                unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = lent.channel.unary_unary(path)
                async with _translated(timeout_s):
                    answer = await unary(request, metadata=lent.metadata)
                yield answer
                return
            stream: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = lent.channel.unary_stream(path)
            call = stream(request, metadata=lent.metadata)
            try:
                while True:
                    async with _translated(timeout_s):
                        data: object = await call.read()
                    if not isinstance(data, bytes):
                        return
                    yield data
            finally:
                call.cancel()

    return ask


@asynccontextmanager
async def _refusing(context: "_Context[bytes, bytes]") -> AsyncIterator[None]:
    """End the call where the donor refuses; the reason's word stands before the colon."""
    try:
        yield
    except RemoteProtocolError as error:
        if error.reason is RefusalReason.TOO_MANY:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, error.detail)
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{error.reason.value}: {error.detail}")
    except TimeoutError:
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "You did not read on")


@asynccontextmanager
async def _translated(timeout_s: float) -> AsyncIterator[None]:
    """gRPC's statuses and a deadline as our own errors."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise LinkError("timeout", f"the donor was silent for {timeout_s:g} s") from None
    except grpc.aio.AioRpcError as error:
        details = error.details() or "no details"
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise LinkError("busy", details) from error
        word, _, sentence = details.partition(": ")
        if error.code() is grpc.StatusCode.FAILED_PRECONDITION and word in set(RefusalReason):
            raise refused(word, sentence) from error
        raise LinkError("disconnect", f"{error.code().name.lower()}: {details}") from error
