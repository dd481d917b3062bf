"""The donor's side of a joiner's download: snapshots of the training state in hashed chunks, and fingerprints."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from lowcomm_node.adapters.line import Line
from lowcomm_node.adapters.snapshot_shelf import Held, SnapshotShelf
from lowcomm_node.core.pacing import Pacer
from lowcomm_node.core.places import Fullness
from lowcomm_node.errors import LowcommError, RefusalReason
from lowcomm_node.ports import FingerprintSource, SnapshotSource
from lowcomm_node.units import PeerId, RunId
from lowcomm_node.wire.gen.lowcomm.v1 import state_pb2
from lowcomm_node.wire.state import (
    DESCRIBE,
    FETCH,
    FINGERPRINT,
    STATE_SERVICE,
    decode_fingerprint,
    encode_fingerprint,
)

__all__ = ["StateService"]

_STALL_TIMEOUT_S = 60.0

_Context = grpc.aio.ServicerContext


class StateService:
    """Serves what is on the shelf, and puts there what the snapshot source writes; ``handler`` is to be given to the ``GrpcServer``.

    Args:
        run_id: the run whose state this is.
        protocol_version: what we speak.
        source: writes a fresh snapshot, or names a recent one.
        fingerprint: looks at the live state, or remembers a recent look.
        shelf: what is held; not closed here.
        pacer: how fast chunks go out while a meeting is under way.
        line: what chunks wait for where it is capped; while it is closed nothing is served.
        is_meeting: is a meeting of this node under way?
        on_sent: told the bytes of each chunk.
        caller: who has made a call; ends it when that is not proven.
        max_downloads: joiners served at a time; one more is told to come back.
    """

    def __init__(
        self,
        *,
        run_id: RunId,
        protocol_version: int,
        source: SnapshotSource,
        fingerprint: FingerprintSource,
        shelf: SnapshotShelf,
        pacer: Pacer,
        is_meeting: Callable[[], bool],
        on_sent: Callable[[int], None],
        line: Line | None = None,
        caller: Callable[["_Context[bytes, bytes]"], Awaitable[PeerId]],
        max_downloads: int = 2,
    ) -> None:
        self._run_id = run_id
        self._protocol_version = protocol_version
        self._source = source
        self._fingerprint_source = fingerprint
        self._shelf = shelf
        self._pacer = pacer
        self._line = line or Line()
        self._is_meeting = is_meeting
        self._on_sent = on_sent
        self._caller = caller
        self._max_downloads = max_downloads
        self._num_downloads = 0
        self._lock = asyncio.Lock()
        self._newest: tuple[Path, bytes] | None = None

    @property
    def fullness(self) -> Fullness:
        """Of joiners that are served."""
        return Fullness(self._num_downloads, self._max_downloads)

    def handler(self) -> grpc.GenericRpcHandler:
        describe: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(self._describe)
        fetch: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(self._fetch)
        fingerprint: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(self._fingerprint)
        return grpc.method_handlers_generic_handler(
            STATE_SERVICE, {DESCRIBE: describe, FETCH: fetch, FINGERPRINT: fingerprint}
        )

    async def _describe(self, data: bytes, context: "_Context[bytes, bytes]") -> bytes:
        await self._caller(context)
        try:
            request = state_pb2.DescribeRequest.FromString(data)
        except DecodeError:
            await _refuse(context, RefusalReason.MALFORMED, "I cannot read this")
        await self._check(request, context)
        try:
            async with self._lock:
                held = await self._take_up(*await self._source())
        except (LowcommError, OSError) as error:
            await _refuse(context, RefusalReason.NOT_READY, f"I have no snapshot to give: {error}")
        return held.snapshot.encode(self._run_id)

    async def _fingerprint(self, data: bytes, context: "_Context[bytes, bytes]") -> bytes:
        await self._caller(context)
        try:
            request = state_pb2.FingerprintRequest.FromString(data)
        except DecodeError:
            await _refuse(context, RefusalReason.MALFORMED, "I cannot read this")
        await self._check(request, context)
        try:
            data = encode_fingerprint(await self._fingerprint_source(), self._run_id)
            decode_fingerprint(data, self._run_id)  # what we would not believe we do not say
        except LowcommError as error:
            await _refuse(context, RefusalReason.NOT_READY, f"I have no state to look at: {error}")
        return data

    async def _check(
        self, request: state_pb2.DescribeRequest | state_pb2.FingerprintRequest, context: "_Context[bytes, bytes]"
    ) -> None:
        if request.protocol_version != self._protocol_version:
            told = f"I speak protocol {self._protocol_version}, you speak {request.protocol_version}"
            await _refuse(context, RefusalReason.WRONG_PROTOCOL, told)
        if request.run_id.hex() != self._run_id:
            await _refuse(context, RefusalReason.WRONG_RUN, f"I am in run {self._run_id}")

    async def _take_up(self, path: Path, progress_steps: float) -> Held:
        """Put a snapshot on the shelf, once."""
        if self._newest is not None and self._newest[0] == path:
            known = self._shelf.get(self._newest[1])
            if known is not None:
                return known
        held = await self._shelf.put(path, progress_steps)
        self._newest = path, held.snapshot.snapshot_id
        return held

    async def _fetch(self, data: bytes, context: "_Context[bytes, bytes]") -> None:
        await self._caller(context)
        try:
            request = state_pb2.FetchRequest.FromString(data)
        except DecodeError:
            await _refuse(context, RefusalReason.MALFORMED, "I cannot read this")
        held = self._shelf.get(request.snapshot_id)
        if held is None or request.run_id.hex() != self._run_id:
            await _refuse(context, RefusalReason.EXPIRED, "I do not have that snapshot; ask for a description of mine")
        num_chunks = len(held.snapshot.digests)
        if not 0 < len(request.chunks) <= num_chunks or max(request.chunks) >= num_chunks:
            await _refuse(context, RefusalReason.MALFORMED, f"I have chunks 0 to {num_chunks - 1}, each once")
        if self._num_downloads >= self._max_downloads:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "I serve as many downloads as I can; come back later"
            )
        if not self._line.is_open:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "My line is wanted for something else; ask later")
        self._num_downloads += 1
        held.readers += 1
        try:
            for index in request.chunks:
                await self._send(held, index, context)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "You did not read on")
        finally:
            self._num_downloads -= 1
            held.readers -= 1
            self._shelf.tidy()

    async def _send(self, held: Held, index: int, context: "_Context[bytes, bytes]") -> None:
        data = await asyncio.to_thread(held.read, index)
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(self._pacer.wait_s(len(data), now, is_meeting=self._is_meeting()))
        await self._line.sending(len(data))
        async with asyncio.timeout(_STALL_TIMEOUT_S):  # who does not read leaves the place to somebody else
            await context.write(state_pb2.SnapshotChunk(index=index, data=data).SerializeToString())
        self._on_sent(len(data))


async def _refuse(context: "_Context[bytes, bytes]", reason: RefusalReason, sentence: str) -> NoReturn:
    """End the call; the reason's word stands before the colon."""
    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{reason.value}: {sentence}")
    raise AssertionError("abort has raised")
