"""The joiner's side of the State service: asks members for descriptions, chunks and fingerprints, and checks what they say."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import grpc.aio

from lowcomm_node.adapters.grpc_endpoints import ChannelCache
from lowcomm_node.adapters.partial_file import discard, read_begun, write_begun
from lowcomm_node.adapters.snapshot_shelf import SnapshotShelf
from lowcomm_node.adapters.state_download import Download
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.errors import LinkError, RefusalReason, RemoteProtocolError, StoreError
from lowcomm_node.units import PeerId, RunId
from lowcomm_node.wire.gen.lowcomm.v1 import state_pb2
from lowcomm_node.wire.state import (
    DESCRIBE,
    FETCH,
    FINGERPRINT,
    STATE_SERVICE,
    Snapshot,
    decode_fingerprint,
)

__all__ = ["GrpcStateClient"]

_MAX_HOLDERS = 8
"""Members asked for one snapshot, at most."""

_Progress = Callable[[int, int], None]


class GrpcStateClient:
    """Implements ``ports.StateClient``.

    Args:
        channels: connections to other nodes, shared with the link.
        protocol_version: what we speak.
        shelf: where ``keep`` puts what others may want.
        on_received: told the bytes of each verified chunk.
        on_refused: told who has said something that cannot be used, and why.
        stall_timeout_s: seconds without a chunk after which a holder is given up.
        describe_timeout_s: seconds a donor may take to write and hash a snapshot.
        fingerprint_timeout_s: seconds a member may take to look at its state.
    """

    def __init__(
        self,
        *,
        channels: ChannelCache,
        protocol_version: int,
        shelf: SnapshotShelf,
        on_received: Callable[[int], None],
        on_refused: Callable[[PeerId, RemoteProtocolError], None] = lambda _peer, _error: None,
        stall_timeout_s: float = 30.0,
        describe_timeout_s: float = 180.0,
        fingerprint_timeout_s: float = 15.0,
    ) -> None:
        self._channels = channels
        self._protocol_version = protocol_version
        self._shelf = shelf
        self._on_received = on_received
        self._on_refused = on_refused
        self._stall_timeout_s = stall_timeout_s
        self._describe_timeout_s = describe_timeout_s
        self._fingerprint_timeout_s = fingerprint_timeout_s

    async def download(
        self, donors: Sequence[PeerId], run_id: RunId, destination: Path, max_bytes: int, on_progress: _Progress
    ) -> None:
        """As ``ports.StateClient`` says. The file appears under its name only when it is whole.

        Raises:
            LinkError: unreachable, disconnect, timeout or busy.
            RemoteProtocolError: what the donor described or sent cannot be used.
            StoreError: the file cannot be written.
        """
        try:
            begun = await asyncio.to_thread(read_begun, destination, run_id, max_bytes)
            if begun is not None:
                snapshot, holders = begun
                try:
                    return await self._fetch_all(snapshot, (*holders, *donors), run_id, destination, on_progress)
                except (LinkError, RemoteProtocolError):
                    pass  # nobody has that one any more
            snapshot = await self._describe(donors[0], run_id, max_bytes)
            await asyncio.to_thread(write_begun, destination, snapshot, run_id, donors)
            await self._fetch_all(snapshot, donors, run_id, destination, on_progress)
        except OSError as error:
            raise StoreError(
                f"{error.filename or destination}: cannot keep the download: {error.strerror}; "
                "see that the folder exists and its disk has room, or set state_dir to another one"
            ) from error

    async def fingerprint(self, peer: PeerId, run_id: RunId) -> Fingerprint:
        """Ask a member what its live state looks like. Raises LinkError, RemoteProtocolError."""
        request = state_pb2.FingerprintRequest(run_id=bytes.fromhex(run_id), protocol_version=self._protocol_version)
        data = await self._ask(peer, FINGERPRINT, request.SerializeToString(), self._fingerprint_timeout_s)
        with self._blaming(peer):
            return decode_fingerprint(data, run_id)

    async def keep(self, path: Path, progress_steps: float) -> None:
        """Put a downloaded state on the shelf. Raises StoreError when it cannot be read."""
        try:
            await self._shelf.put(path, progress_steps)
        except OSError as error:
            raise StoreError(f"{path}: cannot be kept for others: {error.strerror}") from error

    def discard(self, destination: Path) -> None:
        """Remove a download and what lies beside it."""
        discard(destination)

    async def _describe(self, peer: PeerId, run_id: RunId, max_bytes: int) -> Snapshot:
        request = state_pb2.DescribeRequest(run_id=bytes.fromhex(run_id), protocol_version=self._protocol_version)
        data = await self._ask(peer, DESCRIBE, request.SerializeToString(), self._describe_timeout_s)
        with self._blaming(peer):
            return Snapshot.decode(data, run_id=run_id, max_bytes=max_bytes)

    async def _fetch_all(
        self,
        snapshot: Snapshot,
        holders: Sequence[PeerId],
        run_id: RunId,
        destination: Path,
        on_progress: _Progress,
    ) -> None:
        def fetch(peer: PeerId, chunks: Sequence[int]) -> AsyncGenerator[tuple[int, bytes], None]:
            return self._fetch(peer, run_id, snapshot, chunks)

        def received(num_bytes: int, done: int) -> None:
            self._on_received(num_bytes)
            on_progress(done, snapshot.total_bytes)

        download = Download(
            snapshot=snapshot,
            holders=tuple(dict.fromkeys(holders))[:_MAX_HOLDERS],
            destination=destination,
            fetch=fetch,
            on_chunk=received,
        )
        on_progress(await download.begin(), snapshot.total_bytes)
        await download.run()

    async def _ask(self, peer: PeerId, method: str, request: bytes, timeout_s: float) -> bytes:
        async with self._channels.lend(peer) as lent:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = lent.channel.unary_unary(
                f"/{STATE_SERVICE}/{method}"
            )
            async with _translated(timeout_s):
                return await call(request, metadata=lent.metadata)

    async def _fetch(
        self, peer: PeerId, run_id: RunId, snapshot: Snapshot, chunks: Sequence[int]
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """Chunks of a snapshot from one holder, verified, in the order in which they come."""
        request = state_pb2.FetchRequest(run_id=bytes.fromhex(run_id), snapshot_id=snapshot.snapshot_id, chunks=chunks)
        async with self._channels.lend(peer) as lent:
            stream: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = lent.channel.unary_stream(
                f"/{STATE_SERVICE}/{FETCH}"
            )
            call = stream(request.SerializeToString(), metadata=lent.metadata)
            wanted = set(chunks)
            try:
                while wanted:
                    async with _translated(self._stall_timeout_s):
                        data: object = await call.read()
                    if not isinstance(data, bytes):
                        raise LinkError("disconnect", f"the donor ended {len(wanted)} chunks early")
                    with self._blaming(peer):
                        index, content = snapshot.check_chunk(data, wanted)
                    wanted.discard(index)
                    yield index, content
            finally:
                call.cancel()

    @contextmanager
    def _blaming(self, peer: PeerId) -> Iterator[None]:
        """What is refused here is what the peer has said, and not what it says of us."""
        try:
            yield
        except RemoteProtocolError as error:
            self._on_refused(peer, error)
            raise


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
