"""The description of a downloadable snapshot, checked before a byte of the snapshot is asked for; and fingerprints."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite

from google.protobuf.message import DecodeError

from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.errors import RefusalReason, RemoteProtocolError
from lowcomm_node.units import RunId
from lowcomm_node.wire.gen.lowcomm.v1 import state_pb2

__all__ = [
    "DESCRIBE",
    "FETCH",
    "FINGERPRINT",
    "MAX_FINGERPRINT_BYTES",
    "MAX_STATE_CHUNK_BYTES",
    "STATE_CHUNK_BYTES",
    "STATE_SERVICE",
    "Snapshot",
    "ask_for_description",
    "decode_fingerprint",
    "encode_fingerprint",
]

STATE_SERVICE = "lowcomm.v1.State"
DESCRIBE = "Describe"
FETCH = "Fetch"
FINGERPRINT = "Fingerprint"

STATE_CHUNK_BYTES = 1024 * 1024
MAX_STATE_CHUNK_BYTES = 4 * 1024 * 1024
"""What a reader accepts; a chunk is held in memory whole."""

MAX_FINGERPRINT_BYTES = 8192
"""What a reader accepts; ours have about 500 bytes."""

_DIGEST_BYTES = 32
_MAX_PROGRESS_STEPS = 1e12
_MAX_SKETCH = 1024
_MAX_GROUPS = 32
_MAX_GROUP_NAME = 64


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
        _check_progress(told.progress_steps)
        snapshot = cls(
            total_bytes=told.total_bytes,
            chunk_bytes=told.chunk_bytes,
            digests=tuple(told.chunk_sha256),
            progress_steps=told.progress_steps,
        )
        if snapshot.snapshot_id != told.snapshot_id:
            raise RemoteProtocolError(RefusalReason.CHECKSUM, "a snapshot id that is not that of its chunks")
        return snapshot


def ask_for_description(run_id: RunId, protocol_version: int, *, frozen: str = "") -> bytes:
    """A serialised DescribeRequest: of the whole state, or of the frozen factors of this digest, 64 hexadecimal digits."""
    return state_pb2.DescribeRequest(
        run_id=bytes.fromhex(run_id), protocol_version=protocol_version, frozen_digest=bytes.fromhex(frozen)
    ).SerializeToString()


def encode_fingerprint(fingerprint: Fingerprint, run_id: RunId) -> bytes:
    """As a serialised StateFingerprint."""
    return state_pb2.StateFingerprint(
        run_id=bytes.fromhex(run_id),
        progress_steps=fingerprint.progress_steps,
        sketch=fingerprint.sketch,
        norms=[state_pb2.GroupNorm(group=group, norm=norm) for group, norm in fingerprint.norms],
    ).SerializeToString()


def decode_fingerprint(data: bytes, run_id: RunId) -> Fingerprint:
    """Read a fingerprint.

    Raises:
        RemoteProtocolError: OVERSIZED; WRONG_RUN; NONFINITE; MALFORMED.
    """
    if len(data) > MAX_FINGERPRINT_BYTES:
        raise RemoteProtocolError(RefusalReason.OVERSIZED, f"a fingerprint of {len(data)} bytes")
    try:
        told = state_pb2.StateFingerprint.FromString(data)
    except DecodeError as error:
        raise RemoteProtocolError(RefusalReason.MALFORMED, "a fingerprint that does not parse") from error
    if told.run_id.hex() != run_id:
        raise RemoteProtocolError(RefusalReason.WRONG_RUN, "a fingerprint of another run")
    _check_progress(told.progress_steps)
    norms = tuple((entry.group, entry.norm) for entry in told.norms)
    if len(told.sketch) > _MAX_SKETCH or len(norms) > _MAX_GROUPS or len(dict(norms)) < len(norms):
        raise RemoteProtocolError(RefusalReason.MALFORMED, f"{len(told.sketch)} sums and {len(norms)} norms")
    if any(len(group) > _MAX_GROUP_NAME or norm < 0 for group, norm in norms):
        raise RemoteProtocolError(RefusalReason.MALFORMED, "a norm that is none")
    if not all(map(isfinite, (*told.sketch, *(norm for _, norm in norms)))):
        raise RemoteProtocolError(RefusalReason.NONFINITE, "a fingerprint with a NaN or an infinity")
    return Fingerprint(progress_steps=told.progress_steps, sketch=tuple(told.sketch), norms=norms)


def _check_progress(progress_steps: float) -> None:
    if not (isfinite(progress_steps) and 0.0 <= progress_steps <= _MAX_PROGRESS_STEPS):
        raise RemoteProtocolError(RefusalReason.MALFORMED, f"progress of {progress_steps} steps")
