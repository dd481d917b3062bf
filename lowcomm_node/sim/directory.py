"""The directory of members as nodes see it: buckets in a DHT, of which every read and every write is counted.

Where a record stands and what a look-up reads is decided by ``core.membership``, as in ``adapters.hivemind_directory``.
One operation here is one ``get`` or ``put`` of the DHT, which takes it O(log N) messages; what those cost is not modelled.
"""

from dataclasses import dataclass, replace
from random import Random

from lowcomm_node.core.events import FrozenNote, Member
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
from lowcomm_node.units import PeerId, Reachability
from lowcomm_node.wire.certificate import CERTIFICATE_BYTES
from lowcomm_node.wire.records import MAX_LIFETIME_S

__all__ = ["Registrant", "VirtualDirectory"]

_MAX_READ = 4 * FULL


@dataclass(slots=True)
class Registrant:
    """One node's side of the directory."""

    peer: PeerId
    skew_s: float
    """Its clock is so far ahead of true time; negative when it is behind."""
    side: int = 0
    """Of a partition. It reads what its side has stored, and what was stored before the partition began."""
    depth: int = 0
    bucket: Bucket | None = None
    reachability: Reachability = Reachability.PUBLIC


@dataclass(frozen=True, slots=True)
class _Entry:
    member: Member
    """Its expiry is by its own clock."""
    side: int
    stored_at: float


class VirtualDirectory:
    """Shared by all nodes of a swarm."""

    def __init__(self, ttl_s: float, chance: Random) -> None:
        self._ttl_s = ttl_s
        self._chance = chance
        self._buckets: dict[Bucket, dict[PeerId, _Entry]] = {}
        self._parted_at: float | None = None
        self.num_gets = 0
        self.num_puts = 0
        self.largest_answer = 0
        """Records in the fullest bucket that was read."""

    def part(self, now: float | None) -> None:
        """Sides no longer see each other's new records from ``now`` on; None when they do again."""
        self._parted_at = now

    def announce(
        self,
        registrant: Registrant,
        *,
        progress_steps: float,
        has_state: bool,
        now: float,
        frozen: FrozenNote | None = None,
    ) -> Member:
        """Store a node's record where it belongs; returns the record, expiring by true time."""
        member = Member(
            peer=registrant.peer,
            grpc_address=registrant.peer if registrant.reachability is Reachability.PUBLIC else "",
            progress_steps=progress_steps,
            has_state=has_state,
            expires_at=now + registrant.skew_s + self._ttl_s,
            reachability=registrant.reachability,
            certificate=bytes(CERTIFICATE_BYTES),
            frozen=frozen,
        )
        self._walk(registrant, now)
        left, registrant.bucket = registrant.bucket, own_bucket(registrant.peer, registrant.depth)
        self._store(registrant.bucket, _Entry(member, registrant.side, now))
        if left is not None and left != registrant.bucket:
            self._forget(left, registrant.peer)
        return member

    def withdraw(self, registrant: Registrant) -> None:
        """A farewell: readers pass over the record from now on."""
        if registrant.bucket is not None:
            self._forget(registrant.bucket, registrant.peer)
            registrant.bucket = None

    def members(self, registrant: Registrant, now: float) -> tuple[Member, ...]:
        """A sample of the others, as ``HivemindDirectory.members`` draws it; expiries are by true time as the reader sees it."""
        first, *above = buckets_to_read(registrant.depth, self._chance.getrandbits(MAX_DEPTH))
        found = self._read(first, registrant, now)
        below = [child_of(first, self._chance.getrandbits(1))] if len(found) > FULL // 2 else []
        for bucket in (*above, *below):
            found |= self._read(bucket, registrant, now)
        return tuple(found.values())

    def depths(self) -> int:
        """Depth of the deepest bucket that holds somebody."""
        return max((bucket.depth for bucket, entries in self._buckets.items() if entries), default=0)

    def _walk(self, registrant: Registrant, now: float) -> None:
        for _ in range(MAX_DEPTH):
            bucket = own_bucket(registrant.peer, registrant.depth)
            own = 1 + self._count(bucket, registrant, now)
            child = parent = 0
            if own > FULL // 2:
                child = self._count(own_bucket(registrant.peer, registrant.depth + 1), registrant, now)
            if registrant.depth:
                parent = self._count(parent_of(bucket), registrant, now)
            depth = next_depth(registrant.depth, own=own, child=child, parent=parent)
            if depth == registrant.depth:
                return
            registrant.depth = depth

    def _count(self, bucket: Bucket, registrant: Registrant, now: float) -> int:
        self.num_gets += 1
        return len(self._seen(bucket, registrant, now))

    def _read(self, bucket: Bucket, registrant: Registrant, now: float) -> dict[PeerId, Member]:
        self.num_gets += 1
        seen = self._seen(bucket, registrant, now)
        if len(seen) > _MAX_READ:
            seen = self._chance.sample(seen, _MAX_READ)
        if registrant.skew_s:
            # The reader subtracts its own clock from an expiry by the writer's.
            return {m.peer: replace(m, expires_at=m.expires_at - registrant.skew_s) for m in seen}
        return {member.peer: member for member in seen}

    def _seen(self, bucket: Bucket, registrant: Registrant, now: float) -> list[Member]:
        """What a reader believes: neither run out nor lasting longer than any record may, by its own clock."""
        entries = self._buckets.get(bucket)
        if not entries:
            return []
        outdated = [peer for peer, entry in entries.items() if entry.member.expires_at <= now]
        for peer in outdated:  # those who store it let it go
            del entries[peer]
        own, parted_at = registrant.peer, self._parted_at
        from_s = now + registrant.skew_s
        until_s = from_s + MAX_LIFETIME_S
        seen = [
            entry.member
            for peer, entry in entries.items()
            if from_s < entry.member.expires_at <= until_s
            and peer != own
            and (parted_at is None or entry.side == registrant.side or entry.stored_at < parted_at)
        ]
        self.largest_answer = max(self.largest_answer, len(seen))
        return seen

    def _store(self, bucket: Bucket, entry: _Entry) -> None:
        self.num_puts += 1
        self._buckets.setdefault(bucket, {})[entry.member.peer] = entry

    def _forget(self, bucket: Bucket, peer: PeerId) -> None:
        self.num_puts += 1
        self._buckets.get(bucket, {}).pop(peer, None)
