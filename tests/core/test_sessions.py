"""Who has proven to be whom."""

from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.core.sessions import Nonces, Sessions
from lowcomm_node.units import PeerId

ANN, BOB = PeerId("ann"), PeerId("bob")
FOREVER = float("inf")


def test_a_token_is_worth_something_on_its_own_connection_only() -> None:
    """Who has overheard it, or was given another, is nobody."""
    sessions = Sessions()

    sessions.open(b"t", ANN, "1.2.3.4:5", 0.0, until=FOREVER)

    assert sessions.find(b"t", "1.2.3.4:5", 1.0) == ANN
    assert sessions.find(b"t", "1.2.3.4:6", 1.0) is None
    assert sessions.find(b"u", "1.2.3.4:5", 1.0) is None


def test_a_session_ends() -> None:
    """When its admission does, when nobody uses it any more, or when it is ended."""
    sessions = Sessions(keep_s=100.0)
    sessions.open(b"short", ANN, "a", 0.0, until=10.0)
    sessions.open(b"used", ANN, "a", 0.0, until=FOREVER)
    sessions.open(b"idle", BOB, "b", 0.0, until=FOREVER)

    assert sessions.find(b"short", "a", 9.0) == ANN
    assert sessions.find(b"short", "a", 10.0) is None
    assert sessions.find(b"used", "a", 90.0) == ANN
    assert sessions.find(b"idle", "b", 111.0) is None
    assert sessions.find(b"used", "a", 111.0) == ANN
    sessions.end(ANN)
    assert sessions.find(b"used", "a", 112.0) is None
    assert len(sessions) == 0


def test_many_sessions_of_one_peer_push_out_none_of_others() -> None:
    """Whoever opens a thousand has the newest few of them."""
    sessions = Sessions(max_sessions=10, max_per_peer=3)
    sessions.open(b"bob", BOB, "b", 0.0, until=FOREVER)

    for number in range(1000):
        sessions.open(b"%d" % number, ANN, "a", 1.0, until=FOREVER)

    assert len(sessions) == 4
    assert sessions.find(b"bob", "b", 2.0) == BOB
    assert [sessions.find(b"%d" % number, "a", 2.0) for number in (996, 997, 999)] == [None, ANN, ANN]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30), st.sampled_from(["open", "find", "end"])), max_size=60)
)
def test_it_stays_within_its_bounds(story: list[tuple[int, int, str]]) -> None:
    """Whatever happens in whatever order: so many in all, so many of each, and no peer's list without a session."""
    sessions = Sessions(max_sessions=6, max_per_peer=2, keep_s=5.0)
    for now, (who, token, what) in enumerate(story):
        peer, key = PeerId(f"p{who}"), b"%d %d" % (now if what == "open" else token, who)
        if what == "open":
            sessions.open(key, peer, "c", now, until=FOREVER)
            assert sessions.find(key, "c", now) == peer
        elif what == "find":
            sessions.find(key, "c", now)
        else:
            sessions.end(peer)
        assert len(sessions) <= 6
        assert all(0 < len(tokens) <= 2 for tokens in sessions._by_peer.values())
        assert sum(map(len, sessions._by_peer.values())) == len(sessions)


def test_a_proof_is_heard_once() -> None:
    """Within the time in which it would be believed."""
    nonces = Nonces(window_s=60.0)

    assert nonces.is_new(b"n", 0.0)
    assert not nonces.is_new(b"n", 119.0)
    assert nonces.is_new(b"m", 121.0)
    assert len(nonces) == 1


def test_memory_of_proofs_is_bounded() -> None:
    """A flood of them pushes out the oldest."""
    nonces = Nonces(window_s=60.0, max_nonces=100)

    for number in range(1000):
        assert nonces.is_new(b"%d" % number, 0.0)

    assert len(nonces) == 100
    assert not nonces.is_new(b"999", 1.0)
