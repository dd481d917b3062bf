"""Measures the line to a member, and lets others measure the line to this one: round trip, address as seen, rates, loss."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from lowcomm_node.adapters.grpc_endpoints import ChannelCache, Lent
from lowcomm_node.adapters.line import Line
from lowcomm_node.core.places import Fullness
from lowcomm_node.errors import LinkError
from lowcomm_node.units import PeerId
from lowcomm_node.wire.gen.lowcomm.v1 import probe_pb2

__all__ = ["Echo", "LineMeasures", "ProbeService", "ask_echo", "measure_line"]

_SERVICE = "lowcomm.v1.Probe"
_PIECE = bytes(64 << 10)
_MOST_BYTES = 4 << 20
_LONGEST_S = 3.0
_PATIENCE_S = 20.0
_ECHOES = 5
_ECHO_S = 10.0
_LARGEST_OFFSET_S = 1e9
_PER_MINUTE = 6

_Context = grpc.aio.ServicerContext


@dataclass(frozen=True, slots=True, kw_only=True)
class LineMeasures:
    """The line between this machine and one member."""

    rtt_s: float
    """The shortest of a few."""
    up_bytes_per_s: float
    down_bytes_per_s: float
    seen_as: str
    """This machine's address as the member sees it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """What one question to a member has told."""

    rtt_s: float
    ahead_s: float | None
    """How far our clock is ahead of the member's; None where it does not say."""


class ProbeService:
    """The member's side; ``handler`` is to be given to the ``GrpcServer``. Serves one transfer at a time, six a minute."""

    def __init__(self, line: Line, caller: "Callable[[_Context[bytes, bytes]], Awaitable[PeerId]]") -> None:
        """``line``: what the bytes wait for where it is capped; while it is closed nothing is served.

        ``caller``: who has made a call; ends it when that is not proven.
        """
        self._line = line
        self._caller = caller
        self._is_busy = False
        self._served_at: deque[float] = deque(maxlen=_PER_MINUTE)

    @property
    def fullness(self) -> Fullness:
        """Of transfers that are served."""
        return Fullness(int(self._is_busy), 1)

    def handler(self) -> grpc.GenericRpcHandler:
        echo: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(self._echo)
        upload: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_unary_rpc_method_handler(self._upload)
        download: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(self._download)
        return grpc.method_handlers_generic_handler(_SERVICE, {"Echo": echo, "Upload": upload, "Download": download})

    async def _echo(self, _: bytes, context: "_Context[bytes, bytes]") -> bytes:
        await self._caller(context)
        answer = probe_pb2.EchoResponse(seen_as=host_of(context.peer()), now=time.time())
        return answer.SerializeToString()

    async def _upload(self, pieces: AsyncIterator[bytes], context: "_Context[bytes, bytes]") -> bytes:
        await self._begin(context)
        try:
            begun = ended = 0.0
            received = 0
            async with asyncio.timeout(_PATIENCE_S):
                async for piece in pieces:
                    await self._line.received(len(piece))
                    ended = time.monotonic()
                    begun, received = (begun, received + len(piece)) if begun else (ended, 0)
                    if received > 2 * _MOST_BYTES:
                        break
            return probe_pb2.UploadReport(bytes=received, seconds=ended - begun).SerializeToString()
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "that took too long")
            raise
        finally:
            self._is_busy = False

    async def _download(self, _: bytes, context: "_Context[bytes, bytes]") -> None:
        await self._begin(context)
        try:
            data = probe_pb2.ProbeBytes(data=_PIECE).SerializeToString()
            async with asyncio.timeout(_PATIENCE_S):
                for _turn in _turns():
                    await self._line.sending(len(data))
                    await context.write(data)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "you did not read on")
        finally:
            self._is_busy = False

    async def _begin(self, context: "_Context[bytes, bytes]") -> None:
        await self._caller(context)
        now = time.monotonic()
        is_often = len(self._served_at) == _PER_MINUTE and now - self._served_at[0] < 60.0
        if self._is_busy or is_often or not self._line.is_open:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "my line was measured enough; ask in a minute")
        self._is_busy = True
        self._served_at.append(now)


async def measure_line(channels: ChannelCache, peer: PeerId) -> LineMeasures:
    """Ask a member for all of it; takes some seconds.

    Raises LinkError: unreachable, busy, timeout or disconnect; RemoteProtocolError: why it refuses this node.
    """
    async with channels.lend(peer) as lent:
        try:
            async with asyncio.timeout(2 * _PATIENCE_S):
                seen_as, rtt_s = await _echo(lent)
                # In this order: who is turned away while it writes does not hear why.
                down = await _download(lent)
                up = await _upload(lent)
        except TimeoutError:
            raise LinkError("timeout", "the peer does not go on") from None
        except DecodeError as error:
            raise LinkError("disconnect", "the peer's answer cannot be read") from error
        except grpc.aio.AioRpcError as error:
            reason = "busy" if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED else "disconnect"
            raise LinkError(reason, error.details() or error.code().name.lower()) from error
    return LineMeasures(rtt_s=rtt_s, up_bytes_per_s=up, down_bytes_per_s=down, seen_as=seen_as)


async def ask_echo(channels: ChannelCache, peer: PeerId) -> Echo:
    """Ask a member that answers at once. Raises LinkError, RemoteProtocolError."""
    async with channels.lend(peer) as lent:
        try:
            async with asyncio.timeout(_ECHO_S):
                return (await _echo_once(lent))[0]
        except TimeoutError:
            raise LinkError("timeout", "no echo") from None
        except DecodeError as error:
            raise LinkError("disconnect", "the peer's answer cannot be read") from error
        except grpc.aio.AioRpcError as error:
            raise LinkError("disconnect", error.details() or error.code().name.lower()) from error


async def _echo(lent: Lent) -> tuple[str, float]:
    echoes = [await _echo_once(lent) for _ in range(_ECHOES)]
    return echoes[-1][1], min(echo.rtt_s for echo, _ in echoes)


async def _echo_once(lent: Lent) -> tuple[Echo, str]:
    """The echo, and this machine's address as the member sees it."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = lent.channel.unary_unary(f"/{_SERVICE}/Echo")
    begun, asked_at = time.monotonic(), time.time()
    answer = probe_pb2.EchoResponse.FromString(await call(b"", metadata=lent.metadata))
    rtt_s = time.monotonic() - begun
    # Its clock was read half-way, if both ways take as long; what is no number tells nothing.
    ahead_s = asked_at + rtt_s / 2 - answer.now
    is_told = answer.now > 0 and abs(ahead_s) < _LARGEST_OFFSET_S
    return Echo(rtt_s=rtt_s, ahead_s=ahead_s if is_told else None), answer.seen_as[:64]


async def _upload(lent: Lent) -> float:
    call: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = lent.channel.stream_unary(f"/{_SERVICE}/Upload")
    data = probe_pb2.ProbeBytes(data=_PIECE).SerializeToString()

    async def pieces() -> AsyncIterator[bytes]:
        for _ in _turns():
            yield data

    report = probe_pb2.UploadReport.FromString(await call(pieces(), metadata=lent.metadata))
    return report.bytes / report.seconds if report.seconds > 0 else 0.0


async def _download(lent: Lent) -> float:
    call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = lent.channel.unary_stream(f"/{_SERVICE}/Download")
    begun = ended = 0.0
    received = 0
    async for piece in call(b"", metadata=lent.metadata):
        ended = time.monotonic()
        begun, received = (begun, received + len(piece)) if begun else (ended, 0)
        if received > 2 * _MOST_BYTES:
            break
    return received / (ended - begun) if ended > begun else 0.0


def _turns() -> Iterator[None]:
    """As many turns as a transfer may take: megabytes, or seconds on a slow line."""
    ends_at = time.monotonic() + _LONGEST_S
    for _ in range(_MOST_BYTES // len(_PIECE)):
        if time.monotonic() > ends_at:
            return
        yield


def host_of(peer: str) -> str:
    """The address in gRPC's name of a connection: 203.0.113.5 of "ipv4:203.0.113.5:4711", ::1 of "ipv6:%5B::1%5D:4711"."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]").removeprefix("::ffff:")
