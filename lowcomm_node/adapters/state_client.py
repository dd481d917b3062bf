"""The joiner's side of a download: a member's state, chunk by chunk, each verified before it is written."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Self

import grpc
import grpc.aio

from lowcomm_node.adapters.grpc_endpoints import ChannelCache
from lowcomm_node.errors import LinkError, RefusalReason, RemoteProtocolError, StoreError
from lowcomm_node.units import RunId
from lowcomm_node.wire.gen.lowcomm.v1 import state_pb2
from lowcomm_node.wire.state import DESCRIBE, FETCH, STATE_SERVICE, Snapshot

__all__ = ["GrpcStateClient"]

_MAX_ATTEMPTS = 3

_Progress = Callable[[int, int], None]


class GrpcStateClient:
    """Implements ``ports.StateClient``.

    Args:
        channels: connections to other nodes, shared with the link.
        protocol_version: what we speak.
        stall_timeout_s: seconds without a chunk after which the donor is given up.
        describe_timeout_s: seconds a donor may take to write and hash a snapshot.
    """

    def __init__(
        self,
        *,
        channels: ChannelCache,
        protocol_version: int,
        stall_timeout_s: float = 30.0,
        describe_timeout_s: float = 180.0,
    ) -> None:
        self._channels = channels
        self._protocol_version = protocol_version
        self._stall_timeout_s = stall_timeout_s
        self._describe_timeout_s = describe_timeout_s

    async def download(
        self, grpc_address: str, run_id: RunId, destination: Path, max_bytes: int, on_progress: _Progress
    ) -> float:
        """Fetch a donor's snapshot into ``destination``, each chunk verified; returns the donor's progress.

        What an earlier attempt has left beside it and matches is not fetched again. The file appears under its name
        only when it is whole.

        Raises:
            LinkError: unreachable, disconnect, timeout or busy.
            RemoteProtocolError: what the donor described or sent cannot be used.
            StoreError: the file cannot be written.
        """
        partial = destination.with_name(destination.name + ".partial")
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                return await self._attempt(grpc_address, run_id, destination, partial, max_bytes, on_progress)
            except LinkError as error:
                if error.reason != "disconnect" or attempt == _MAX_ATTEMPTS:
                    raise
            except OSError as error:
                raise StoreError(f"{error.filename or partial}: cannot keep the download: {error.strerror}") from error
        raise LinkError("disconnect", f"{grpc_address} breaks the connection again and again")

    async def _attempt(
        self,
        grpc_address: str,
        run_id: RunId,
        destination: Path,
        partial: Path,
        max_bytes: int,
        on_progress: _Progress,
    ) -> float:
        async with self._channels.lend(grpc_address) as channel:
            snapshot = await self._describe(channel, run_id, max_bytes)
            with _Partial(partial, snapshot.total_bytes) as file:
                missing = await asyncio.to_thread(file.missing, snapshot)
                done = snapshot.total_bytes - sum(map(snapshot.length_of, missing))
                on_progress(done, snapshot.total_bytes)
                if missing:
                    async with aclosing(self._fetch(channel, run_id, snapshot, missing)) as chunks:
                        async for index, data in chunks:
                            await asyncio.to_thread(file.write, index * snapshot.chunk_bytes, data)
                            done += len(data)
                            on_progress(done, snapshot.total_bytes)
                await asyncio.to_thread(file.sync)
        await asyncio.to_thread(partial.replace, destination)
        return snapshot.progress_steps

    async def _describe(self, channel: grpc.aio.Channel, run_id: RunId, max_bytes: int) -> Snapshot:
        request = state_pb2.DescribeRequest(run_id=bytes.fromhex(run_id), protocol_version=self._protocol_version)
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{STATE_SERVICE}/{DESCRIBE}")
        async with _translated(self._describe_timeout_s):
            data = await call(request.SerializeToString())
        return Snapshot.decode(data, run_id=run_id, max_bytes=max_bytes)

    async def _fetch(
        self, channel: grpc.aio.Channel, run_id: RunId, snapshot: Snapshot, missing: list[int]
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        request = state_pb2.FetchRequest(run_id=bytes.fromhex(run_id), snapshot_id=snapshot.snapshot_id, chunks=missing)
        stream: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/{STATE_SERVICE}/{FETCH}")
        call = stream(request.SerializeToString())
        wanted = set(missing)
        try:
            while wanted:
                async with _translated(self._stall_timeout_s):
                    data: object = await call.read()
                if not isinstance(data, bytes):
                    raise LinkError("disconnect", f"the donor ended {len(wanted)} chunks early")
                index, content = snapshot.check_chunk(data, wanted)
                wanted.discard(index)
                yield index, content
        finally:
            call.cancel()


class _Partial:
    """The file under way. Blocking; used from threads."""

    def __init__(self, path: Path, total_bytes: int) -> None:
        self._path = path
        self._total_bytes = total_bytes
        self._descriptor = -1

    def __enter__(self) -> Self:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def missing(self, snapshot: Snapshot) -> list[int]:
        """Chunks that are not there yet, or not as described."""
        has_bytes = os.fstat(self._descriptor).st_size
        os.ftruncate(self._descriptor, self._total_bytes)
        return [index for index in range(len(snapshot.digests)) if not self._has(index, snapshot, has_bytes)]

    def _has(self, index: int, snapshot: Snapshot, has_bytes: int) -> bool:
        offset = index * snapshot.chunk_bytes
        if offset >= has_bytes:
            return False
        data = os.pread(self._descriptor, snapshot.length_of(index), offset)
        return sha256(data).digest() == snapshot.digests[index]

    def write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written

    def sync(self) -> None:
        os.fsync(self._descriptor)


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
            raise RemoteProtocolError(RefusalReason(word), f"the donor says: {sentence}") from error
        raise LinkError("disconnect", f"{error.code().name.lower()}: {details}") from error
