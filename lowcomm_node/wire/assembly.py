"""A payload in pieces: cut for sending, put together again and verified on arrival.

Nothing counts before length and digest both hold, so a peer that dies in mid message leaves nothing behind.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from hashlib import sha256

from lowcomm_node.errors import RefusalReason, RemoteProtocolError
from lowcomm_node.wire.limits import CHUNK_BYTES

__all__ = ["PayloadAssembler", "payload_digest", "split"]


def split(parts: Sequence[bytes], chunk_bytes: int = CHUNK_BYTES) -> Iterator[tuple[int, memoryview]]:
    """Cut a payload into slices of at most ``chunk_bytes``, each with its offset in the whole. Copies nothing."""
    start = 0
    for part in parts:
        view = memoryview(part)
        for offset in range(0, len(view), chunk_bytes):
            yield start + offset, view[offset : offset + chunk_bytes]
        start += len(view)


def payload_digest(parts: Sequence[bytes]) -> bytes:
    """SHA-256 over all parts in order. Safe to call in a thread: hashing a slice holds no lock of the interpreter."""
    digest = sha256()
    for _, piece in split(parts):
        digest.update(piece)
    return digest.digest()


class PayloadAssembler:
    """Collects one payload.

    Memory is taken only for bytes that arrived, whatever length was announced.

    Args:
        part_sizes: bytes of each part; their sum is the payload's length.
        digest: SHA-256 of the whole.
        max_bytes: most bytes the receiver is willing to hold.

    Raises:
        RemoteProtocolError: OVERSIZED for an announced length above ``max_bytes``; MALFORMED for a digest that is
            none.
    """

    def __init__(self, *, part_sizes: Sequence[int], digest: bytes, max_bytes: int) -> None:
        self._part_sizes = tuple(part_sizes)
        self._total = sum(self._part_sizes)
        if any(size < 0 for size in self._part_sizes):
            raise RemoteProtocolError(RefusalReason.MALFORMED, "a part of negative length")
        if self._total > max_bytes:
            raise RemoteProtocolError(
                RefusalReason.OVERSIZED, f"a payload of {self._total} bytes where at most {max_bytes} are allowed"
            )
        if len(digest) != sha256().digest_size:
            raise RemoteProtocolError(RefusalReason.MALFORMED, f"a digest of {len(digest)} bytes")
        self._digest = digest
        self._running = sha256()
        self._received = 0
        self._pieces: deque[bytes] = deque()
        self._crumbs = bytearray()

    @property
    def missing_bytes(self) -> int:
        """Bytes that have not arrived yet."""
        return self._total - self._received

    def add(self, offset: int, data: bytes) -> None:
        """Take the next piece.

        Raises:
            RemoteProtocolError: MALFORMED when it is empty, leaves a gap or overlaps; OVERSIZED when it goes beyond
                the announced length.
        """
        if not data:
            raise RemoteProtocolError(RefusalReason.MALFORMED, "an empty chunk")
        if offset != self._received:
            raise RemoteProtocolError(
                RefusalReason.MALFORMED, f"a chunk at offset {offset} where {self._received} was next"
            )
        if len(data) > self.missing_bytes:
            raise RemoteProtocolError(RefusalReason.OVERSIZED, f"more than the announced {self._total} bytes")
        self._running.update(data)
        self._received += len(data)
        # A list of one-byte pieces would cost fifty times its content, so small ones are gathered first.
        if not self._crumbs and len(data) >= CHUNK_BYTES:
            self._pieces.append(data)
            return
        self._crumbs += data
        if len(self._crumbs) >= CHUNK_BYTES:
            self._flush()

    def finish(self) -> tuple[bytes, ...]:
        """The parts of the complete payload.

        Raises:
            RemoteProtocolError: MALFORMED when bytes are missing; CHECKSUM when the digest does not match.
        """
        if self.missing_bytes:
            raise RemoteProtocolError(RefusalReason.MALFORMED, f"{self.missing_bytes} bytes are missing")
        if self._running.digest() != self._digest:
            raise RemoteProtocolError(RefusalReason.CHECKSUM, f"{self._total} bytes with another digest than announced")
        self._flush()
        return tuple(self._take(size) for size in self._part_sizes)

    def _flush(self) -> None:
        if self._crumbs:
            self._pieces.append(bytes(self._crumbs))
            self._crumbs.clear()

    def _take(self, size: int) -> bytes:
        """Cut the next ``size`` bytes off the front."""
        taken: list[bytes | memoryview] = []
        while size:
            piece = self._pieces.popleft()
            if len(piece) > size:
                self._pieces.appendleft(piece[size:])
                piece = piece[:size]
            taken.append(piece)
            size -= len(piece)
        return taken[0] if len(taken) == 1 and isinstance(taken[0], bytes) else b"".join(taken)
