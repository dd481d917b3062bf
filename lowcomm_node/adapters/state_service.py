"""The donor's side of a joiner's download: snapshots of the training state, in hashed chunks."""

import asyncio
import os
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from lowcomm_node.errors import LowcommError, RefusalReason
from lowcomm_node.ports import SnapshotSource
from lowcomm_node.units import RunId
from lowcomm_node.wire.gen.lowcomm.v1 import state_pb2
from lowcomm_node.wire.state import DESCRIBE, FETCH, STATE_CHUNK_BYTES, STATE_SERVICE, Snapshot

__all__ = ["StateService"]

_MAX_KEPT = 2
"""Snapshots held open: the newest, and the one before it that somebody may still be downloading."""

_STALL_TIMEOUT_S = 60.0

_Context = grpc.aio.ServicerContext


@dataclass(slots=True)
class _Served:
    snapshot: Snapshot
    descriptor: int
    readers: int = 0


class StateService:
    """Serves what the snapshot source writes; ``handler`` is to be given to the ``GrpcServer``.

    Args:
        run_id: the run whose state this is.
        protocol_version: what we speak.
        source: writes a fresh snapshot, or names a recent one.
        max_downloads: joiners served at a time; one more is told to come back.
    """

    def __init__(self, *, run_id: RunId, protocol_version: int, source: SnapshotSource, max_downloads: int = 2) -> None:
        self._run_id = run_id
        self._protocol_version = protocol_version
        self._source = source
        self._max_downloads = max_downloads
        self._num_downloads = 0
        self._lock = asyncio.Lock()
        self._newest: tuple[Path, bytes] | None = None
        self._served: OrderedDict[bytes, _Served] = OrderedDict()

    def handler(self) -> grpc.GenericRpcHandler:
        describe: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(self._describe)
        fetch: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(self._fetch)
        return grpc.method_handlers_generic_handler(STATE_SERVICE, {DESCRIBE: describe, FETCH: fetch})

    def close(self) -> None:
        """Let go of the snapshot files; call it when the server has stopped."""
        while self._served:
            os.close(self._served.popitem()[1].descriptor)

    async def _describe(self, data: bytes, context: "_Context[bytes, bytes]") -> bytes:
        try:
            request = state_pb2.DescribeRequest.FromString(data)
        except DecodeError:
            await _refuse(context, RefusalReason.MALFORMED, "I cannot read this")
        if request.protocol_version != self._protocol_version:
            told = f"I speak protocol {self._protocol_version}, you speak {request.protocol_version}"
            await _refuse(context, RefusalReason.WRONG_PROTOCOL, told)
        if request.run_id.hex() != self._run_id:
            await _refuse(context, RefusalReason.WRONG_RUN, f"I am in run {self._run_id}")
        try:
            async with self._lock:
                path, progress_steps = await self._source()
                served = await self._take_up(path, progress_steps)
        except (LowcommError, OSError) as error:
            await _refuse(context, RefusalReason.NOT_READY, f"I have no snapshot to give: {error}")
        return served.snapshot.encode(self._run_id)

    async def _take_up(self, path: Path, progress_steps: float) -> _Served:
        """Open and hash a snapshot once; the open file outlives its name."""
        if self._newest is not None and self._newest[0] == path and self._newest[1] in self._served:
            return self._served[self._newest[1]]
        descriptor = os.open(path, os.O_RDONLY)
        try:
            snapshot = await asyncio.to_thread(_hashed, descriptor, progress_steps)
        except BaseException:
            os.close(descriptor)
            raise
        if (known := self._served.get(snapshot.snapshot_id)) is not None:
            os.close(descriptor)
        else:
            known = self._served[snapshot.snapshot_id] = _Served(snapshot, descriptor)
        self._newest = path, snapshot.snapshot_id
        self._drop_old()
        return known

    def _drop_old(self) -> None:
        idle = [key for key, served in self._served.items() if not served.readers]
        for key in idle[: max(0, len(self._served) - _MAX_KEPT)]:
            os.close(self._served.pop(key).descriptor)

    async def _fetch(self, data: bytes, context: "_Context[bytes, bytes]") -> None:
        try:
            request = state_pb2.FetchRequest.FromString(data)
        except DecodeError:
            await _refuse(context, RefusalReason.MALFORMED, "I cannot read this")
        served = self._served.get(request.snapshot_id)
        if served is None or request.run_id.hex() != self._run_id:
            await _refuse(context, RefusalReason.EXPIRED, "I have that snapshot no more; ask for a description again")
        num_chunks = len(served.snapshot.digests)
        if not 0 < len(request.chunks) <= num_chunks or max(request.chunks) >= num_chunks:
            await _refuse(context, RefusalReason.MALFORMED, f"I have chunks 0 to {num_chunks - 1}, each once")
        if self._num_downloads >= self._max_downloads:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "I serve as many downloads as I can; come back later"
            )
        self._num_downloads += 1
        served.readers += 1
        try:
            for index in request.chunks:
                chunk = await asyncio.to_thread(_chunk, served, index)
                async with asyncio.timeout(_STALL_TIMEOUT_S):  # who does not read leaves the place to somebody else
                    await context.write(chunk)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "You did not read on")
        finally:
            self._num_downloads -= 1
            served.readers -= 1
            self._drop_old()


def _chunk(served: _Served, index: int) -> bytes:
    offset = index * served.snapshot.chunk_bytes
    data = os.pread(served.descriptor, served.snapshot.length_of(index), offset)
    return state_pb2.SnapshotChunk(index=index, data=data).SerializeToString()


def _hashed(descriptor: int, progress_steps: float) -> Snapshot:
    total_bytes = os.fstat(descriptor).st_size
    offsets = range(0, total_bytes, STATE_CHUNK_BYTES)
    digests = [sha256(os.pread(descriptor, STATE_CHUNK_BYTES, offset)).digest() for offset in offsets]
    return Snapshot(
        total_bytes=total_bytes,
        chunk_bytes=STATE_CHUNK_BYTES,
        digests=tuple(digests),
        progress_steps=progress_steps,
    )


async def _refuse(context: "_Context[bytes, bytes]", reason: RefusalReason, sentence: str) -> NoReturn:
    """End the call; the reason's word stands before the colon."""
    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{reason.value}: {sentence}")
    raise AssertionError("abort has raised")
