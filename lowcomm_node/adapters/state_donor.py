"""What a donor answers to who asks for its state: a snapshot's description, its chunks, a fingerprint. Whatever they travel over."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

from google.protobuf.message import DecodeError

from lowcomm_node.adapters.line import Line
from lowcomm_node.adapters.snapshot_shelf import Held, SnapshotShelf
from lowcomm_node.core.pacing import Pacer
from lowcomm_node.core.places import Fullness
from lowcomm_node.errors import LowcommError, RefusalReason, RemoteProtocolError
from lowcomm_node.ports import FingerprintSource, SnapshotSource
from lowcomm_node.units import RunId
from lowcomm_node.wire.gen.lowcomm.v1 import state_pb2
from lowcomm_node.wire.state import decode_fingerprint, encode_fingerprint

__all__ = ["StateDonor"]


class StateDonor:
    """Gives what is on the shelf, and puts there what the snapshot source writes.

    All methods raise RemoteProtocolError with a sentence for who asks; ``too_many`` means: come back later.

    Args:
        run_id: the run whose state this is.
        protocol_version: what we speak.
        source: writes a fresh snapshot, or names a recent one.
        fingerprint: looks at the live state, or remembers a recent look.
        shelf: states that are held; not closed here.
        frozen: frozen factors of AB-training that are held; not closed here.
        pacer: how fast chunks go out while a meeting is under way.
        line: what chunks wait for where it is capped; while it is closed nothing is served.
        is_meeting: is a meeting of this node under way?
        on_sent: told the bytes of each chunk.
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
        frozen: SnapshotShelf | None = None,
        line: Line | None = None,
        max_downloads: int = 2,
    ) -> None:
        self._run_id = run_id
        self._protocol_version = protocol_version
        self._source = source
        self._fingerprint_source = fingerprint
        self._shelf = shelf
        self._frozen = frozen
        self._pacer = pacer
        self._line = line or Line()
        self._is_meeting = is_meeting
        self._on_sent = on_sent
        self._max_downloads = max_downloads
        self._num_downloads = 0
        self._lock = asyncio.Lock()
        self._newest: tuple[Path, bytes] | None = None

    @property
    def fullness(self) -> Fullness:
        """Of joiners that are served."""
        return Fullness(self._num_downloads, self._max_downloads)

    async def answer(self, method: str, data: bytes) -> AsyncGenerator[bytes, None]:
        """The messages that the method gives to this request; closing the generator ends it."""
        match method:
            case "Describe":
                yield await self.describe(data)
            case "Fingerprint":
                yield await self.fingerprint(data)
            case "Fetch":
                async with aclosing(self.fetch(data)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            case _:
                raise RemoteProtocolError(RefusalReason.MALFORMED, "I know no such question")

    async def describe(self, data: bytes) -> bytes:
        """Answer ``Describe``."""
        try:
            request = state_pb2.DescribeRequest.FromString(data)
        except DecodeError as error:
            raise _unreadable() from error
        self._check(request)
        if request.frozen_digest:
            return self._held(request.frozen_digest).snapshot.encode(self._run_id)
        try:
            async with self._lock:
                held = await self._take_up(*await self._source())
        except (LowcommError, OSError) as error:
            raise RemoteProtocolError(RefusalReason.NOT_READY, f"I have no snapshot to give: {error}") from error
        return held.snapshot.encode(self._run_id)

    async def fingerprint(self, data: bytes) -> bytes:
        """Answer ``Fingerprint``."""
        try:
            request = state_pb2.FingerprintRequest.FromString(data)
        except DecodeError as error:
            raise _unreadable() from error
        self._check(request)
        try:
            answer = encode_fingerprint(await self._fingerprint_source(), self._run_id)
            decode_fingerprint(answer, self._run_id)  # what we would not believe we do not say
        except LowcommError as error:
            raise RemoteProtocolError(RefusalReason.NOT_READY, f"I have no state to look at: {error}") from error
        return answer

    async def fetch(self, data: bytes) -> AsyncGenerator[bytes, None]:
        """Answer ``Fetch``: chunk after chunk, each counted when it was taken."""
        try:
            request = state_pb2.FetchRequest.FromString(data)
        except DecodeError as error:
            raise _unreadable() from error
        if request.run_id.hex() != self._run_id:
            raise RemoteProtocolError(RefusalReason.WRONG_RUN, f"I am in run {self._run_id}")
        held = self._held(request.snapshot_id)
        num_chunks = len(held.snapshot.digests)
        if not 0 < len(request.chunks) <= num_chunks or max(request.chunks) >= num_chunks:
            raise RemoteProtocolError(RefusalReason.MALFORMED, f"I have chunks 0 to {num_chunks - 1}, each once")
        if self._num_downloads >= self._max_downloads:
            raise RemoteProtocolError(RefusalReason.TOO_MANY, "I serve as many downloads as I can; come back later")
        if not self._line.is_open:
            raise RemoteProtocolError(RefusalReason.TOO_MANY, "My line is wanted for something else; ask later")
        self._num_downloads += 1
        held.readers += 1
        try:
            for index in request.chunks:
                content = await self._paced(held, index)
                yield state_pb2.SnapshotChunk(index=index, data=content).SerializeToString()
                self._on_sent(len(content))
        finally:
            self._num_downloads -= 1
            held.readers -= 1
            for shelf in self._shelves:
                shelf.tidy()

    @property
    def _shelves(self) -> tuple[SnapshotShelf, ...]:
        return (self._shelf,) if self._frozen is None else (self._shelf, self._frozen)

    def _held(self, snapshot_id: bytes) -> Held:
        for shelf in self._shelves:
            if (held := shelf.get(snapshot_id)) is not None:
                return held
        raise RemoteProtocolError(RefusalReason.EXPIRED, "I do not have that snapshot; ask for a description of mine")

    def _check(self, request: state_pb2.DescribeRequest | state_pb2.FingerprintRequest) -> None:
        if request.protocol_version != self._protocol_version:
            told = f"I speak protocol {self._protocol_version}, you speak {request.protocol_version}"
            raise RemoteProtocolError(RefusalReason.WRONG_PROTOCOL, told)
        if request.run_id.hex() != self._run_id:
            raise RemoteProtocolError(RefusalReason.WRONG_RUN, f"I am in run {self._run_id}")

    async def _take_up(self, path: Path, progress_steps: float) -> Held:
        """Put a snapshot on the shelf, once."""
        if self._newest is not None and self._newest[0] == path:
            known = self._shelf.get(self._newest[1])
            if known is not None:
                return known
        held = await self._shelf.put(path, progress_steps)
        self._newest = path, held.snapshot.snapshot_id
        return held

    async def _paced(self, held: Held, index: int) -> bytes:
        """A chunk, when it is its turn."""
        content = await asyncio.to_thread(held.read, index)
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(self._pacer.wait_s(len(content), now, is_meeting=self._is_meeting()))
        await self._line.sending(len(content))
        return content


def _unreadable() -> RemoteProtocolError:
    return RemoteProtocolError(RefusalReason.MALFORMED, "I cannot read this")
