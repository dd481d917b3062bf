"""One node's view of the buckets in which member records stand: where its own belongs, and whom a look-up finds."""

import asyncio
import secrets
from collections.abc import Callable

from lowcomm_node.adapters.dht_session import DhtSession
from lowcomm_node.core.events import Member
from lowcomm_node.core.membership import (
    FULL,
    MAX_DEPTH,
    Bucket,
    buckets_to_read,
    child_of,
    next_depth,
    own_bucket,
    parent_of,
)
from lowcomm_node.errors import DirectoryError, RefusalReason, RemoteProtocolError
from lowcomm_node.units import PeerId, RunId
from lowcomm_node.wire.peer_id import peer_id_to_bytes
from lowcomm_node.wire.records import bucket_key

__all__ = ["MemberBuckets"]

_MAX_READ = 4 * FULL
_QUIET = frozenset({RefusalReason.LEAVING, RefusalReason.EXPIRED})


class MemberBuckets:
    """Reads and writes buckets; how deep to stand is decided in ``core.membership``.

    Args:
        own: this node.
        run_id: the run; raises DirectoryError before it is known.
        session: the DHT; raises DirectoryError while there is none.
        verify: checks a record; raises RemoteProtocolError.
        on_dropped: told why a record that was read is not believed.
    """

    def __init__(
        self,
        *,
        own: PeerId,
        run_id: Callable[[], RunId],
        session: Callable[[], DhtSession],
        verify: Callable[[bytes], Member],
        on_dropped: Callable[[RefusalReason], None],
    ) -> None:
        self._own = own
        self._run_id = run_id
        self._session = session
        self._verify = verify
        self._on_dropped = on_dropped
        self._depth = 0
        self._bucket: Bucket | None = None

    async def put(self, record: bytes, expires_at: float) -> Bucket | None:
        """Store our record where it belongs by now; returns the bucket that it has left, if any. Raises DirectoryError."""
        await self._walk()
        left, self._bucket = self._bucket, own_bucket(self._own, self._depth)
        await self.store(self._bucket, record, expires_at)
        return left if left != self._bucket else None

    def leave(self) -> Bucket | None:
        """The bucket in which our record stands, from which it is to go."""
        bucket, self._bucket = self._bucket, None
        return bucket

    async def store(self, bucket: Bucket, record: bytes, expires_at: float) -> None:
        """Put a record of ours into a bucket. Raises DirectoryError when no node takes it."""
        key = bucket_key(self._run_id(), bucket)
        if not await self._session().write(key, peer_id_to_bytes(self._own), record, expires_at):
            raise DirectoryError("no node of the DHT took our record")

    async def sample(self) -> tuple[Member, ...]:
        """Other members, of one bucket of our depth and those around it. Raises DirectoryError."""
        first, *above = buckets_to_read(self._depth, secrets.randbits(MAX_DEPTH))
        found = await self._read(first)
        below = [child_of(first, secrets.randbits(1))] if len(found) > FULL // 2 else []
        for more in await asyncio.gather(*map(self._read, [*above, *below])):
            found |= more
        return tuple(found.values())

    async def _walk(self) -> None:
        """Find the depth this node belongs to, see ``core.membership``."""
        for _ in range(MAX_DEPTH):
            bucket = own_bucket(self._own, self._depth)
            own = 1 + len(await self._read(bucket))
            child = parent = 0
            if own > FULL // 2:
                child = len(await self._read(own_bucket(self._own, self._depth + 1)))
            if self._depth:
                parent = len(await self._read(parent_of(bucket)))
            depth = next_depth(self._depth, own=own, child=child, parent=parent)
            if depth == self._depth:
                return
            self._depth = depth

    async def _read(self, bucket: Bucket) -> dict[bytes, Member]:
        """The other members in a bucket, by subkey; at most a few hundred are looked at."""
        values = await self._session().read(bucket_key(self._run_id(), bucket))
        members: dict[bytes, Member] = {}
        for subkey in sorted(values, key=lambda _: secrets.randbits(32))[:_MAX_READ]:
            try:
                member = self._verify(values[subkey])
                if peer_id_to_bytes(member.peer) != subkey or own_bucket(member.peer, bucket.depth) != bucket:
                    raise RemoteProtocolError(RefusalReason.MALFORMED, "a record that belongs elsewhere")
            except RemoteProtocolError as error:
                if error.reason not in _QUIET:
                    self._on_dropped(error.reason)
                continue
            if member.peer != self._own:
                members[subkey] = member
        return members
