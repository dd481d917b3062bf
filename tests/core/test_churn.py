"""What has become of members is told from two looks, each thing once."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.core.churn import Churn, PeerEvent
from lowcomm_node.core.events import Member
from lowcomm_node.core.partners import PeerView
from lowcomm_node.units import PeerId


def _view(name: str, expires_at: float = 100.0, suspect_until: float = 0.0) -> PeerView:
    member = Member(peer=PeerId(name), grpc_address="", progress_steps=0.0, has_state=True, expires_at=expires_at)
    return PeerView(member=member, seen_at=0.0, suspect_until=suspect_until)


def _told(churn: Churn, now: float, *views: PeerView) -> list[tuple[str, PeerEvent]]:
    return [(change.peer, change.event) for change in churn.look(views, now)]


def test_members_appear_and_go() -> None:
    """Who is there for the first time, who is still there, whose record has run out, and who had to make room."""
    churn = Churn()

    assert _told(churn, 1.0, _view("a"), _view("b", expires_at=5.0)) == [
        ("a", PeerEvent.APPEARED),
        ("b", PeerEvent.APPEARED),
    ]
    assert _told(churn, 2.0, _view("a"), _view("b", expires_at=5.0)) == []
    assert _told(churn, 6.0, _view("a")) == [("b", PeerEvent.GONE)]
    assert _told(churn, 7.0, _view("c")) == [("a", PeerEvent.REPLACED), ("c", PeerEvent.APPEARED)]


def test_suspicion_begins_and_ends_once() -> None:
    """However often it is looked at meanwhile; a member may be suspect from the first look on."""
    churn = Churn()

    assert _told(churn, 1.0, _view("a", suspect_until=4.0)) == [("a", PeerEvent.APPEARED), ("a", PeerEvent.SUSPECTED)]
    assert _told(churn, 2.0, _view("a", suspect_until=4.0)) == []
    assert _told(churn, 5.0, _view("a", suspect_until=4.0)) == [("a", PeerEvent.TRUSTED)]
    assert _told(churn, 6.0, _view("a", suspect_until=9.0)) == [("a", PeerEvent.SUSPECTED)]


@given(st.lists(st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.floats(0, 20), st.floats(0, 20))), max_size=12))
def test_events_add_up_to_who_is_known(looks: list[dict[str, tuple[float, float]]]) -> None:
    """After any looks: appeared less gone and replaced is 1 of whom is known and 0 of all others; so with suspicion while it is known."""
    churn = Churn()
    known: Counter[str] = Counter()
    for now, look in enumerate(looks):
        views = [_view(name, expires_at, suspect_until) for name, (expires_at, suspect_until) in look.items()]
        for change in churn.look(views, float(now)):
            match change.event:
                case PeerEvent.APPEARED:
                    known[change.peer] += 1
                case PeerEvent.GONE | PeerEvent.REPLACED:
                    known[change.peer] -= 1

        assert {name for name, count in known.items() if count} == set(look)
        assert set(known.values()) <= {0, 1}
