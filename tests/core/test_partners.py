"""The sample of live members: bounded, uniform, and careful with those that failed."""

from collections import Counter
from dataclasses import replace

from lowcomm_node.core.chance import Chance
from lowcomm_node.core.events import FrozenNote, Member
from lowcomm_node.core.partners import Partners
from lowcomm_node.units import Factor, PeerId

NOBODY: frozenset[PeerId] = frozenset()


def member(name: str, *, expires_at: float = 100.0, has_state: bool = True, address: str = "h:1") -> Member:
    return Member(
        peer=PeerId(name), grpc_address=address, progress_steps=0.0, has_state=has_state, expires_at=expires_at
    )


def partners(*names: str, capacity: int = 10) -> Partners:
    found = Partners(PeerId("me"), capacity, Chance(b"seed"))
    for name in names:
        found.see(member(name), 0.0)
    return found


def test_choice_is_uniform() -> None:
    """Random pairs are what the mixing analysis assumes."""
    found = partners("a", "b", "c", "d")
    counts = Counter(chosen.peer for _ in range(4000) if (chosen := found.choose(0.0, NOBODY)))
    assert len(counts) == 4
    assert max(counts.values()) < 1.15 * min(counts.values())


def test_never_oneself_nor_a_member_without_state() -> None:
    """Neither can be met."""
    found = partners("me")
    found.see(member("joining", has_state=False), 0.0)
    assert found.choose(0.0, NOBODY) is None


def test_sample_is_bounded_and_stays_random() -> None:
    """A large swarm does not fill our memory, and late members get in."""
    found = partners(*(f"n{index}" for index in range(500)), capacity=16)
    names = {int(view.member.peer[1:]) for view in found.views()}
    assert len(names) == 16
    assert max(names) == 499
    assert min(names) < 490


def test_in_a_role_only_members_with_the_very_same_are_met() -> None:
    """Same epoch, digest and factor as their records say; nobody where there is none, and everybody once it is over."""
    found = partners("whole")
    own = FrozenNote(epoch=2, digest="1" * 64, factor=Factor.A)
    others = (own, replace(own, epoch=1), replace(own, digest="2" * 64), replace(own, factor=Factor.B))
    for name, note in zip(("same", "earlier", "other", "b"), others, strict=True):
        found.see(replace(member(name), frozen=note), 0.0)
    found.in_role = own
    assert chosen(found, 0.0) == {"same"}
    assert found.choose(0.0, frozenset({PeerId("same")})) is None
    found.in_role = None
    assert chosen(found, 0.0) == {"whole", "same", "earlier", "other", "b"}


def chosen(found: Partners, now: float) -> set[str]:
    return {member.peer for _ in range(50) if (member := found.choose(now, NOBODY))}


def test_suspicion_doubles_and_ends_with_a_sign_of_life() -> None:
    """A peer that fails is left alone for 2, 4, 8 ... seconds; a message from it clears it."""
    found = partners("a", "b")
    found.failed(PeerId("a"), 0.0)
    assert chosen(found, 1.9) == {"b"}
    assert chosen(found, 2.1) == {"a", "b"}
    found.failed(PeerId("a"), 2.1)
    assert chosen(found, 6.0) == {"b"}
    assert found.counts(6.0) == (1, 1)
    found.heard_from(PeerId("a"), 6.0)
    assert chosen(found, 6.0) == {"a", "b"}


def test_a_renewed_record_shortens_suspicion() -> None:
    """A member that was cut off, and announces itself again, is met soon; how often it has failed still counts."""
    found = partners("a", "b")
    for second in range(8):
        found.failed(PeerId("a"), float(second))
    assert chosen(found, 60.0) == {"b"}

    found.see(member("a", expires_at=160.0), 60.0)

    assert chosen(found, 75.9) == {"b"}
    assert chosen(found, 76.1) == {"a", "b"}


def test_who_suspects_everybody_was_cut_off_itself() -> None:
    """Then each is tried again soon: after an outage nobody waits out what the outage has taught."""
    found = partners("a", "b")
    for second in range(6):
        found.failed(PeerId("a"), float(second))
    assert chosen(found, 20.0) == {"b"}

    for second in range(20, 26):
        found.failed(PeerId("b"), float(second))

    assert chosen(found, 25.1) == {"a"}
    assert chosen(found, 27.1) == {"a", "b"}


def test_who_was_cut_off_and_hears_from_anybody_trusts_all_again() -> None:
    """Its own line is back, so nothing is held against the others; where one was fine all along, a sign of life tells nothing of the rest."""
    cut_off = partners("b", "c", "d")
    for peer in ("b", "c", "d", "d", "d"):
        cut_off.failed(PeerId(peer), 0.0)
    cut_off.heard_from(PeerId("b"), 1.0)
    assert chosen(cut_off, 1.0) == {"b", "c", "d"}

    well = partners("b", "c", "d")
    for peer in ("b", "c"):
        well.failed(PeerId(peer), 0.0)
    well.heard_from(PeerId("b"), 1.0)
    assert chosen(well, 1.0) == {"b", "d"}


def test_an_old_record_changes_nothing() -> None:
    """The DHT may return a cached older record after a newer one."""
    found = partners()
    found.see(member("a", expires_at=50.0, address="new:1"), 0.0)
    found.see(member("a", expires_at=40.0, address="old:1"), 1.0)
    assert found.views()[0].member.grpc_address == "new:1"


def test_expired_members_are_forgotten() -> None:
    """Who does not renew its record is gone."""
    found = partners("a")
    found.expire(100.0)
    assert found.views() == ()
    found.see(member("a", expires_at=90.0), 95.0)
    assert found.views() == ()


def test_a_member_that_comes_back_elsewhere_is_tried_at_once() -> None:
    """A new address is a new start: suspicion was about the old one."""
    found = partners("a")
    found.failed(PeerId("a"), 0.0)
    found.see(member("a", expires_at=120.0, address="other:2"), 0.5)
    assert found.choose(0.5, NOBODY) is not None


def test_a_peer_that_is_clipped_again_and_again_is_avoided_for_a_while() -> None:
    """Four clipped meetings of five; a sign of life does not end it, two minutes do, and then it takes four more."""
    found = partners("a", "b")

    def chosen(now: float) -> set[str]:
        return {str(member.peer) for _ in range(50) if (member := found.choose(now, NOBODY)) is not None}

    for is_clipped in (True, True, False, True):
        found.met(PeerId("a"), 0.0, is_clipped=is_clipped)
    assert chosen(0.0) == {"a", "b"}

    found.met(PeerId("a"), 0.0, is_clipped=True)
    found.heard_from(PeerId("a"), 1.0)

    assert chosen(1.0) == {"b"}
    assert found.counts(1.0) == (1, 1)
    found.met(PeerId("a"), 121.0, is_clipped=True)
    assert chosen(121.0) == {"a", "b"}


def test_an_avoided_peer_is_better_than_none() -> None:
    """Two nodes that were cut off from each other long enough to be clipped must still come together."""
    found = partners("a")
    for _ in range(4):
        found.met(PeerId("a"), 0.0, is_clipped=True)
    assert found.counts(1.0) == (0, 1)
    assert found.choose(1.0, NOBODY) is not None


def test_now_and_then_clipped_is_nothing() -> None:
    """Every other meeting clipped, for ever: the peer stays one of those to meet."""
    found = partners("a")
    for number in range(100):
        found.met(PeerId("a"), float(number), is_clipped=number % 2 == 0)
        assert found.counts(float(number)) == (1, 0)


def test_suspicion_grows_no_further_than_its_bound_however_often_contact_fails() -> None:
    """A member that keeps its record alive and is never reachable can be tried for weeks."""
    found = partners("a")
    for _ in range(3000):
        found.failed(PeerId("a"), 0.0)
    assert found.counts(119.0) == (0, 1)


def test_a_look_into_a_large_swarm_leaves_what_was_learnt() -> None:
    """More strangers than the sample holds come with every look; most of the sample, and its suspicions, stay."""
    found = partners(capacity=16)
    first = [member(f"old{index}") for index in range(16)]
    found.see_all(first, 0.0)

    found.see_all([member(f"new{index}") for index in range(200)], 0.1)

    kept = [view for view in found.views() if view.member in first]
    assert len(found.views()) == 16
    assert 12 <= len(kept) < 16
    found.see_all([member(f"more{index}") for index in range(3)], 0.2)
    assert len(found.views()) == 16


def test_a_look_fills_an_empty_sample() -> None:
    """A newcomer knows as many as it may after its first look."""
    found = partners(capacity=16)
    found.see_all([member(f"new{index}") for index in range(200)], 0.0)

    assert len(found.views()) == 16
