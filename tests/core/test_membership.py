"""Members walking between buckets."""

from collections import Counter

import pytest

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
from lowcomm_node.units import PeerId


def walk(peers: list[PeerId], depths: dict[PeerId, int]) -> int:
    """Each member takes one step, one after the other; returns how many moved."""
    counts = Counter(own_bucket(peer, depths[peer]) for peer in peers)
    moved = 0
    for peer in peers:
        depth = depths[peer]
        bucket = own_bucket(peer, depth)
        new = next_depth(
            depth,
            own=counts[bucket],
            child=counts[own_bucket(peer, depth + 1)],
            parent=counts[parent_of(bucket)] if depth else 0,
        )
        if new != depth:
            counts[bucket] -= 1
            counts[own_bucket(peer, new)] += 1
            depths[peer] = new
            moved += 1
    return moved


def settle(peers: list[PeerId], depths: dict[PeerId, int]) -> Counter[Bucket]:
    for _ in range(4 * MAX_DEPTH):
        if not walk(peers, depths):
            return Counter(own_bucket(peer, depths[peer]) for peer in peers)
    pytest.fail("the members walk back and forth")


def peers_of(count: int) -> list[PeerId]:
    return [PeerId(f"peer-{number}") for number in range(count)]


@pytest.mark.parametrize("count", [1, 2, FULL, FULL + 1, 100, 1000, 5000])
def test_buckets_stay_small_and_nobody_is_left_behind(count: int) -> None:
    """From the root, members settle with at most a full bucket each, and within a level or two of each other."""
    peers = peers_of(count)
    depths = dict.fromkeys(peers, 0)

    buckets = settle(peers, depths)

    assert max(buckets.values()) <= FULL
    assert max(depths.values()) - min(depths.values()) <= 2
    if count <= FULL:
        assert set(depths.values()) == {0}


def test_members_come_back_up_when_the_others_have_left() -> None:
    """After most have gone, those who stay meet in few buckets again."""
    peers = peers_of(2000)
    depths = dict.fromkeys(peers, 0)
    settle(peers, depths)

    few = peers[:20]
    buckets = settle(few, depths)

    assert {depths[peer] for peer in few} == {0}
    assert buckets == {Bucket(0, 0): 20}


def test_what_a_look_up_reads_does_not_grow() -> None:
    """One bucket and its parent at any depth; every bucket of a depth can be drawn."""
    assert buckets_to_read(0, 12345) == (Bucket(0, 0),)
    assert {buckets_to_read(2, draw)[0] for draw in range(8)} == {Bucket(2, prefix) for prefix in range(4)}
    for depth in range(1, MAX_DEPTH):
        bucket, above = buckets_to_read(depth, 0xABCDEF)
        assert above == parent_of(bucket)
        assert bucket in (child_of(above, 0), child_of(above, 1))


def test_a_bucket_is_part_of_its_parent() -> None:
    """A member's buckets lie within each other, from the root down; the root is its own parent."""
    peer = PeerId("somebody")

    for depth in range(1, MAX_DEPTH):
        assert parent_of(own_bucket(peer, depth)) == own_bucket(peer, depth - 1)
    assert parent_of(Bucket(0, 0)) == Bucket(0, 0)
