"""The joiner's side of the State service: asks members for descriptions, chunks and fingerprints, and checks what they say."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path

from lowcomm_node.adapters.line import Line
from lowcomm_node.adapters.partial_file import discard, read_begun, write_begun
from lowcomm_node.adapters.snapshot_shelf import SnapshotShelf
from lowcomm_node.adapters.state_download import Download
from lowcomm_node.adapters.state_streams import StateWay
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.errors import LinkError, RefusalReason, RemoteProtocolError, StoreError
from lowcomm_node.units import PeerId, RunId
from lowcomm_node.wire.gen.lowcomm.v1 import state_pb2
from lowcomm_node.wire.state import (
    DESCRIBE,
    FETCH,
    FINGERPRINT,
    Snapshot,
    ask_for_description,
    decode_fingerprint,
)

__all__ = ["MemberStateClient"]

_MAX_HOLDERS = 8
"""Members asked for one snapshot, at most."""

_Progress = Callable[[int, int], None]


class MemberStateClient:
    """Implements ``ports.StateClient``.

    Args:
        ways: to a member, in the order in which they are tried.
        protocol_version: what we speak.
        shelf: where ``keep`` puts what others may want; None where nobody asks this node.
        line: what chunks wait for where it is capped.
        on_received: told the bytes of each verified chunk.
        on_refused: told who has said something that cannot be used, and why.
        stall_timeout_s: seconds without a chunk after which a holder is given up.
        describe_timeout_s: seconds a donor may take to write and hash a snapshot.
        fingerprint_timeout_s: seconds a member may take to look at its state.
    """

    def __init__(
        self,
        *,
        ways: Sequence[StateWay],
        protocol_version: int,
        shelf: SnapshotShelf | None,
        on_received: Callable[[int], None],
        line: Line | None = None,
        on_refused: Callable[[PeerId, RemoteProtocolError], None] = lambda _peer, _error: None,
        stall_timeout_s: float = 30.0,
        describe_timeout_s: float = 180.0,
        fingerprint_timeout_s: float = 15.0,
    ) -> None:
        self._ways = tuple(ways)
        self._protocol_version = protocol_version
        self._shelf = shelf
        self._line = line or Line()
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
            raise _unwritable(destination, error) from error

    async def download_frozen(
        self, holders: Sequence[PeerId], run_id: RunId, digest: str, destination: Path, max_bytes: int
    ) -> None:
        """Fetch the frozen factors of this digest into ``destination``, each chunk verified, from those of ``holders`` that have them.

        Raises:
            LinkError: unreachable, disconnect or timeout; busy where somebody would have given them, later.
            RemoteProtocolError: what the last one described or sent cannot be used, or it has none.
            StoreError: the file cannot be written.
        """
        told: LinkError | RemoteProtocolError = LinkError("unreachable", "nobody is known who has it")
        for index, holder in enumerate(holders):
            try:
                snapshot = await self._describe(holder, run_id, max_bytes, digest)
                ordered = (holder, *holders[:index], *holders[index + 1 :])
                return await self._fetch_all(snapshot, ordered, run_id, destination, lambda _done, _total: None)
            except (LinkError, RemoteProtocolError) as error:
                is_better = isinstance(told, LinkError) and told.reason == "busy"
                told = told if is_better else error  # who is busy has it, and will give it
            except OSError as error:
                raise _unwritable(destination, error) from error
        raise told

    async def fingerprint(self, peer: PeerId, run_id: RunId) -> Fingerprint:
        """Ask a member what its live state looks like. Raises LinkError, RemoteProtocolError."""
        request = state_pb2.FingerprintRequest(run_id=bytes.fromhex(run_id), protocol_version=self._protocol_version)
        data = await self._ask(peer, FINGERPRINT, request.SerializeToString(), self._fingerprint_timeout_s)
        with self._blaming(peer):
            return decode_fingerprint(data, run_id)

    async def keep(self, path: Path, progress_steps: float) -> None:
        """Put a downloaded state on the shelf. Raises StoreError when it cannot be read."""
        try:
            if self._shelf is not None:
                await self._shelf.put(path, progress_steps)
        except OSError as error:
            raise StoreError(f"{path}: cannot be kept for others: {error.strerror}") from error

    def discard(self, destination: Path) -> None:
        """Remove a download and what lies beside it."""
        discard(destination)

    async def _describe(self, peer: PeerId, run_id: RunId, max_bytes: int, frozen: str = "") -> Snapshot:
        request = ask_for_description(run_id, self._protocol_version, frozen=frozen)
        timeout_s = (
            self._stall_timeout_s if frozen else self._describe_timeout_s
        )  # what lies on the shelf need not be written
        data = await self._ask(peer, DESCRIBE, request, timeout_s)
        with self._blaming(peer):
            snapshot = Snapshot.decode(data, run_id=run_id, max_bytes=max_bytes)
            if frozen and snapshot.snapshot_id.hex() != frozen:
                raise RemoteProtocolError(RefusalReason.CHECKSUM, "a snapshot that was not asked for")
        return snapshot

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
        async with aclosing(self._answers(peer, method, request, timeout_s)) as answers:
            async for answer in answers:
                return answer
        raise LinkError("disconnect", "the donor ended without an answer")

    async def _fetch(
        self, peer: PeerId, run_id: RunId, snapshot: Snapshot, chunks: Sequence[int]
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """Chunks of a snapshot from one holder, verified, in the order in which they come."""
        request = state_pb2.FetchRequest(run_id=bytes.fromhex(run_id), snapshot_id=snapshot.snapshot_id, chunks=chunks)
        wanted = set(chunks)
        asked = self._answers(peer, FETCH, request.SerializeToString(), self._stall_timeout_s)
        async with aclosing(asked) as answers:
            async for data in answers:
                await self._line.received(len(data))
                with self._blaming(peer):
                    index, content = snapshot.check_chunk(data, wanted)
                wanted.discard(index)
                yield index, content
                if not wanted:
                    return
        raise LinkError("disconnect", f"the donor ended {len(wanted)} chunks early")

    async def _answers(
        self, peer: PeerId, method: str, request: bytes, timeout_s: float
    ) -> AsyncGenerator[bytes, None]:
        """By the first way on which a connection comes about."""
        failures: list[LinkError] = []
        for way in self._ways:
            try:
                async with aclosing(way(peer, method, request, timeout_s)) as answers:
                    async for answer in answers:
                        yield answer
            except LinkError as error:
                if error.reason != "unreachable":
                    raise
                failures.append(error)
            else:
                return
        raise LinkError("unreachable", "; ".join(error.detail for error in failures))

    @contextmanager
    def _blaming(self, peer: PeerId) -> Iterator[None]:
        """What is refused here is what the peer has said, and not what it says of us."""
        try:
            yield
        except RemoteProtocolError as error:
            self._on_refused(peer, error)
            raise


def _unwritable(destination: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{error.filename or destination}: cannot keep the download: {error.strerror}; "
        "see that the folder exists and its disk has room, or set state_dir to another one"
    )
