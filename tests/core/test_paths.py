"""The ways to one member: which is taken, and what is remembered of those that fail."""

import pytest

from lowcomm_node.core.events import Member
from lowcomm_node.core.paths import Paths
from lowcomm_node.units import LinkKind, PeerId, Reachability


def member(address: str = "") -> Member:
    return Member(
        peer=PeerId("a"),
        grpc_address=address,
        progress_steps=0.0,
        has_state=True,
        expires_at=100.0,
        reachability=Reachability.PUBLIC if address else Reachability.OUTBOUND_ONLY,
    )


@pytest.mark.parametrize(
    ("address", "is_ringable", "is_direct", "expected"),
    [
        ("h:1", True, True, LinkKind.GRPC),
        ("", True, True, LinkKind.GRPC_REVERSED),
        ("", False, True, LinkKind.LIBP2P),
        ("", False, False, None),
    ],
)
def test_ways_are_taken_in_order(address: str, is_ringable: bool, is_direct: bool, expected: LinkKind | None) -> None:
    """The port before the bell, the bell before libp2p; without any the two are not partners."""
    assert Paths(is_direct=is_direct).link_to(member(address), is_ringable=is_ringable) is expected


def test_a_way_that_fails_gives_way_to_another_one_and_comes_back() -> None:
    """A member whose port is not what it says is met by its bell; when that fails too, the port is tried again."""
    paths = Paths()
    paths.failed(LinkKind.GRPC, 0.0)
    assert paths.link_to(member("h:1"), is_ringable=True) is LinkKind.GRPC_REVERSED
    assert paths.link_to(member("h:1"), is_ringable=False) is LinkKind.GRPC
    paths.failed(LinkKind.GRPC_REVERSED, 0.0)
    assert paths.link_to(member("h:1"), is_ringable=True) is LinkKind.GRPC

    paths.worked(LinkKind.GRPC_REVERSED)
    assert paths.link_to(member("h:1"), is_ringable=True) is LinkKind.GRPC_REVERSED


def test_a_direct_path_is_sought_where_there_is_no_way_and_less_and_less_often() -> None:
    """After 1, 2, 4 ... minutes, an hour at most."""
    paths, found = Paths(), member()
    now, gaps = 0.0, []
    for _ in range(10):
        assert paths.wants_seeking(found, now, is_ringable=False)
        paths.seeking(now)
        assert not paths.wants_seeking(found, now + 1.0, is_ringable=False)
        paths.sought(now, is_direct=False)
        gaps.append(paths.seek_at - now)
        now = paths.seek_at

    assert gaps[:4] == [60.0, 120.0, 240.0, 480.0]
    assert gaps[-1] == 3600.0


def test_no_path_is_sought_where_there_is_a_way_that_works() -> None:
    """Unless its port has failed twice in a row."""
    paths = Paths()
    assert not paths.wants_seeking(member("h:1"), 0.0, is_ringable=False)
    assert not paths.wants_seeking(member(), 0.0, is_ringable=True)
    paths.failed(LinkKind.GRPC, 0.0)
    assert not paths.wants_seeking(member("h:1"), 0.0, is_ringable=False)
    paths.failed(LinkKind.GRPC, 0.0)
    assert paths.wants_seeking(member("h:1"), 0.0, is_ringable=False)


def test_a_direct_path_that_breaks_is_sought_again_at_once() -> None:
    """No meeting begins over it until it is found again; one that waits for its verdict tries in vain, and that delays nothing."""
    paths = Paths()
    paths.sought(0.0, is_direct=True)
    assert paths.link_to(member(), is_ringable=False) is LinkKind.LIBP2P
    paths.failed(LinkKind.LIBP2P, 0.0)
    assert paths.link_to(member(), is_ringable=False) is None
    assert paths.wants_seeking(member(), 0.0, is_ringable=False)
    paths.failed(LinkKind.LIBP2P, 0.0)
    assert paths.wants_seeking(member(), 0.1, is_ringable=False)
    paths.sought(0.1, is_direct=False)
    paths.failed(LinkKind.LIBP2P, 1.0)
    assert paths.seek_at == 60.1
