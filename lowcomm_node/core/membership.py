"""In which bucket of the directory a member stands, and which buckets a look-up reads.

Buckets are the nodes of a binary tree over the hashes of peer ids: a bucket of depth d holds members whose hash
begins with its d bits. A small run lives in the root; as it grows, its members walk deeper, so that no bucket
becomes much larger than ``FULL`` and a look-up costs the same for ten members as for a million.
"""

from dataclasses import dataclass
from hashlib import sha256

from lowcomm_node.units import PeerId

__all__ = ["FULL", "MAX_DEPTH", "Bucket", "buckets_to_read", "child_of", "next_depth", "own_bucket", "parent_of"]

FULL = 64
"""Members in a bucket, about 20 kB of records."""

MAX_DEPTH = 24


@dataclass(frozen=True, slots=True)
class Bucket:
    """Members whose hashed peer id begins with the ``depth`` bits of ``prefix``."""

    depth: int
    prefix: int


def own_bucket(peer: PeerId, depth: int) -> Bucket:
    """The one bucket of this depth in which ``peer`` belongs."""
    return Bucket(depth, int.from_bytes(sha256(peer.encode()).digest()) >> (256 - depth))


def parent_of(bucket: Bucket) -> Bucket:
    """One level up; of the root the root."""
    return Bucket(max(0, bucket.depth - 1), bucket.prefix >> 1) if bucket.depth else bucket


def child_of(bucket: Bucket, bit: int) -> Bucket:
    """One level down, on the side that ``bit`` (0 or 1) names."""
    return Bucket(bucket.depth + 1, bucket.prefix << 1 | bit)


def next_depth(depth: int, *, own: int, child: int, parent: int) -> int:
    """One step of a member's walk: stay, go deeper, or come up.

    It is the number of members below a bucket that counts, not only of those who stand in it: otherwise the first
    64 would stay in the root for ever and meet nobody but each other.

    Args:
        depth: where this member stands.
        own: members in its bucket, itself included.
        child: members in its bucket one level deeper; about half of those who have walked on from here.
        parent: members in its bucket one level up.

    Going deeper leaves at least ``FULL`` / 2 in the new bucket, and coming up needs fewer than that below the parent,
    so that no member walks back and forth.
    """
    below = own + 2 * child
    if below > FULL and depth < MAX_DEPTH:
        return depth + 1
    if depth > 0 and parent + 2 * below <= FULL // 2:
        return depth - 1
    return depth


def buckets_to_read(depth: int, draw: int) -> tuple[Bucket, ...]:
    """What a look-up of a member of this depth reads: a bucket that ``draw`` chooses, and the one above it.

    Neighbouring depths differ by at most one in a settled run, and members that see only their own depth would
    split it into layers.
    """
    bucket = Bucket(depth, draw % (1 << depth))
    return (bucket, parent_of(bucket)) if depth else (bucket,)
