"""The two ends of a gRPC stream as plain frame transports; gRPC's own exceptions end here."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import grpc
import grpc.aio

from lowcomm_node.adapters.grpc_endpoints import Lent
from lowcomm_node.errors import LinkError

__all__ = ["ANSWER_RING", "HANG_BELL", "MEET", "MEETINGS_SERVICE", "ClientTransport", "ServerTransport"]

MEETINGS_SERVICE = "lowcomm.v1.Meetings"
MEET = "Meet"
HANG_BELL = "HangBell"
ANSWER_RING = "AnswerRing"

_BROKEN = (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError)


class ClientTransport:
    """The dialling end."""

    is_ended_by_leaving = False

    def __init__(self, call: "grpc.aio.StreamStreamCall[bytes, bytes]") -> None:
        self._call = call

    @classmethod
    @asynccontextmanager
    async def call(cls, lent: Lent, method: str) -> AsyncIterator[Self]:
        """Hold a stream over a channel; whatever is left of it afterwards is cancelled."""
        call: grpc.aio.StreamStreamCall[bytes, bytes] = lent.channel.stream_stream(f"/{MEETINGS_SERVICE}/{method}")(
            metadata=lent.metadata
        )
        try:
            yield cls(call)
        finally:
            call.cancel()

    async def read(self) -> bytes | None:
        try:
            frame: object = await self._call.read()
        except _BROKEN as error:
            raise _link_error(error) from error
        return frame if isinstance(frame, bytes) else None

    async def write(self, frame: bytes) -> None:
        try:
            await self._call.write(frame)
        except _BROKEN as error:
            raise _link_error(error) from error

    async def half_close(self) -> None:
        try:
            await self._call.done_writing()
        except _BROKEN as error:
            raise _link_error(error) from error


class ServerTransport:
    """The answering end. Returning from the handler ends the stream."""

    is_ended_by_leaving = True

    def __init__(self, context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        self._context = context

    async def read(self) -> bytes | None:
        try:
            frame: object = await self._context.read()
        except _BROKEN as error:
            raise _link_error(error) from error
        return frame if isinstance(frame, bytes) else None

    async def write(self, frame: bytes) -> None:
        try:
            await self._context.write(frame)
        except _BROKEN as error:
            raise _link_error(error) from error

    async def half_close(self) -> None:
        """Nothing: the end of the handler is the end of the stream."""


def _link_error(error: BaseException) -> LinkError:
    """One word for all of them.

    The status of a call cannot be relied on: a write that fails because the peer has ended the stream overwrites it
    with an internal error. What a peer has to say it says in a frame.
    """
    if isinstance(error, grpc.aio.AioRpcError):
        return LinkError("disconnect", f"{error.code().name.lower()}: {error.details() or 'no details'}")
    return LinkError("disconnect", "the stream has ended")
