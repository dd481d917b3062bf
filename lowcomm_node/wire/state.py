"""The description of a downloadable snapshot, checked before a byte of the snapshot is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite

from google.protobuf.message import DecodeError

from lowcomm_node.errors import RefusalReason, RemoteProtocolError
from lowcomm_node.units import RunId
from lowcomm_node.wire.gen.lowcomm.v1 import state_pb2

__all__ = ["DESCRIBE", "FETCH", "MAX_STATE_CHUNK_BYTES", "STATE_CHUNK_BYTES", "STATE_SERVICE", "Snapshot"]

STATE_SERVICE = "lowcomm.v1.State"
DESCRIBE = "Describe"
FETCH = "Fetch"

STATE_CHUNK_BYTES = 1024 * 1024
MAX_STATE_CHUNK_BYTES = 4 * 1024 * 1024
"""What a reader accepts; a chunk is held in memory whole."""

_DIGEST_BYTES = 32
_MAX_PROGRESS_STEPS = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A frozen state file in chunks; every chunk but the last has ``chunk_bytes``."""

    total_bytes: int
    chunk_bytes: int
    digests: tuple[bytes, ...]
    progress_steps: float

    @property
    def snapshot_id(self) -> bytes:
        """Names the content: SHA-256 over the chunk digests."""
        return sha256(b"".join(self.digests)).digest()

    def length_of(self, index: int) -> int:
        """Bytes of one chunk."""
        return min(self.chunk_bytes, self.total_bytes - index * self.chunk_bytes)

    def check_chunk(self, data: bytes, wanted: Sequence[int] | set[int]) -> tuple[int, bytes]:
        """Parse a received chunk; returns its index and content.

        Raises:
            RemoteProtocolError: MALFORMED when it is not one of ``wanted``, CHECKSUM when its digest is another.
        """
        try:
            chunk = state_pb2.SnapshotChunk.FromString(data)
        except DecodeError as error:
            raise RemoteProtocolError(RefusalReason.MALFORMED, "a chunk that does not parse") from error
        if chunk.index not in wanted:
            raise RemoteProtocolError(RefusalReason.MALFORMED, f"chunk {chunk.index}, which was not asked for")
        if sha256(chunk.data).digest() != self.digests[chunk.index]:
            raise RemoteProtocolError(RefusalReason.CHECKSUM, f"chunk {chunk.index} is not what was described")
        return chunk.index, chunk.data

    def encode(self, run_id: RunId) -> bytes:
        """As a serialised SnapshotDescription."""
        return state_pb2.SnapshotDescription(
            run_id=bytes.fromhex(run_id),
            snapshot_id=self.snapshot_id,
            total_bytes=self.total_bytes,
            chunk_bytes=self.chunk_bytes,
            chunk_sha256=self.digests,
            progress_steps=self.progress_steps,
        ).SerializeToString()

    @classmethod
    def decode(cls, data: bytes, *, run_id: RunId, max_bytes: int) -> "Snapshot":
        """Read a description.

        Raises:
            RemoteProtocolError: WRONG_RUN; OVERSIZED above ``max_bytes``; MALFORMED; CHECKSUM when the id is not that
                of the chunks.
        """
        try:
            told = state_pb2.SnapshotDescription.FromString(data)
        except DecodeError as error:
            raise RemoteProtocolError(RefusalReason.MALFORMED, "a description that does not parse") from error
        if told.run_id.hex() != run_id:
            raise RemoteProtocolError(RefusalReason.WRONG_RUN, "a snapshot of another run")
        if told.total_bytes > max_bytes:
            raise RemoteProtocolError(
                RefusalReason.OVERSIZED, f"a snapshot of {told.total_bytes} bytes where {max_bytes} is the most"
            )
        if not (told.total_bytes and 1024 <= told.chunk_bytes <= MAX_STATE_CHUNK_BYTES):
            raise RemoteProtocolError(
                RefusalReason.MALFORMED, f"{told.total_bytes} bytes in chunks of {told.chunk_bytes}"
            )
        if len(told.chunk_sha256) != -(-told.total_bytes // told.chunk_bytes):
            raise RemoteProtocolError(RefusalReason.MALFORMED, f"{len(told.chunk_sha256)} chunk digests")
        if any(len(digest) != _DIGEST_BYTES for digest in told.chunk_sha256):
            raise RemoteProtocolError(RefusalReason.MALFORMED, "a chunk digest that is none")
        if not (isfinite(told.progress_steps) and 0.0 <= told.progress_steps <= _MAX_PROGRESS_STEPS):
            raise RemoteProtocolError(RefusalReason.MALFORMED, f"progress of {told.progress_steps} steps")
        snapshot = cls(
            total_bytes=told.total_bytes,
            chunk_bytes=told.chunk_bytes,
            digests=tuple(told.chunk_sha256),
            progress_steps=told.progress_steps,
        )
        if snapshot.snapshot_id != told.snapshot_id:
            raise RemoteProtocolError(RefusalReason.CHECKSUM, "a snapshot id that is not that of its chunks")
        return snapshot
