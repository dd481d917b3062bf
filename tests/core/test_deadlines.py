"""Deadlines that are learnt: bounded, close to what is usual, and able to grow again."""

import random

import pytest

from lowcomm_node.core.deadlines import Deadlines, Silence, Wait
from lowcomm_node.units import PeerId

_SHORTEST_S, _LONGEST_S = 0.5, 60.0
_PEER = PeerId("p")


def deadlines() -> Deadlines:
    return Deadlines(shortest_s=_SHORTEST_S, longest_s=_LONGEST_S)


def wait_for(known: Deadlines, needed_s: float, peer: PeerId | None = None) -> bool:
    """One wait for something that takes ``needed_s``; True when it was worth the wait."""
    limit_s = known.limit_s(Wait.ANSWER, False, peer)
    if needed_s > limit_s:
        known.missed(Wait.ANSWER, False, limit_s, peer)
        return False
    known.kept(Wait.ANSWER, False, needed_s, peer)
    return True


def test_the_longest_deadline_holds_until_enough_is_known() -> None:
    """A young node has seen nothing, and the first waits may be the quick ones."""
    known = deadlines()
    for _ in range(7):
        assert known.limit_s(Wait.ANSWER, False) == _LONGEST_S
        known.kept(Wait.ANSWER, False, 1.0)

    known.kept(Wait.ANSWER, False, 1.0)

    assert known.limit_s(Wait.ANSWER, False) == 2.0


@pytest.mark.parametrize("scale_s", [1e-4, 0.3, 5.0, 1e3])
def test_deadlines_stay_within_their_bounds_and_above_what_is_usual(scale_s: float) -> None:
    """On loopback they never fire because of a hiccup, on the slowest line they never exceed what the volunteer has set."""
    chance = random.Random(1)
    known = deadlines()
    waits_s = [scale_s * (0.5 + chance.random()) for _ in range(100)]
    for wait_s in waits_s:
        known.kept(Wait.ANSWER, False, wait_s)

    limit_s = known.limit_s(Wait.ANSWER, False)

    assert _SHORTEST_S <= limit_s <= _LONGEST_S
    assert limit_s >= min(_LONGEST_S, max(waits_s))
    assert limit_s <= max(_SHORTEST_S, 10 * scale_s)


def test_rare_long_waits_do_not_move_the_deadline() -> None:
    """One frozen partner in five: the others' deadlines stay what they are."""
    known = deadlines()
    for number in range(100):
        wait_for(known, 1e9 if number % 5 == 4 else 0.4, PeerId(str(number % 5)))

    assert known.limit_s(Wait.ANSWER, False, PeerId("0")) < 5.0


def test_a_slow_down_locks_nobody_out() -> None:
    """The line becomes 50 times slower: waits that are cut off say so too, and most of the later ones are waited for."""
    known = deadlines()
    for _ in range(200):
        assert wait_for(known, 0.4, _PEER)

    worth = [wait_for(known, 20.0, _PEER) for _ in range(200)]

    assert True in worth[:8]
    assert all(worth[100:])


def test_deadlines_shrink_again_after_a_slow_down() -> None:
    """What was slow for a while is fast again: a frozen partner is then noticed as soon as before."""
    known = deadlines()
    for needed_s in [0.4] * 50 + [20.0] * 50 + [0.4] * 50:
        wait_for(known, needed_s, _PEER)

    assert known.limit_s(Wait.ANSWER, False, _PEER) < 2.0


def test_a_slow_partner_among_fast_ones_gets_its_time() -> None:
    """Its waits are too rare to move the median; without doublings of its own it would never meet anybody again."""
    known = deadlines()
    slow, worth = PeerId("slow"), []
    for number in range(400):
        if number % 20 == 19:
            worth.append(wait_for(known, 20.0, slow))
        else:
            assert wait_for(known, 0.4, PeerId(str(number % 7)))

    assert all(worth[6:])


def test_waits_are_learnt_apart() -> None:
    """What the trainer needs says nothing of what the partner needs, nor thin meetings of dense ones."""
    known = deadlines()
    for _ in range(20):
        known.kept(Wait.OFFER_ENCODED, False, 0.1)

    assert known.limit_s(Wait.OFFER_ENCODED, True) == _LONGEST_S
    assert known.limit_s(Wait.ANSWER, False) == _LONGEST_S
    (deadline,) = known.current()
    assert (deadline.wait, deadline.is_dense, deadline.limit_s) == (Wait.OFFER_ENCODED, False, _SHORTEST_S)


def test_partners_that_were_slow_are_forgotten_in_the_end() -> None:
    """Whoever makes up peer ids fills no memory."""
    known = deadlines()
    for _ in range(20):
        known.kept(Wait.ANSWER, False, 0.1)
    for number in range(1000):
        known.missed(Wait.CLOSE, False, 1.0, PeerId(str(number)))
        known.missed(Wait.ANSWER, False, 1.0, PeerId(str(number)))

    assert len(known._slow) <= 256


def test_silence_is_the_longest_gap_between_signs_of_life() -> None:
    """A payload that takes a minute in which something arrives every second was never silent for longer than that."""
    silence = Silence(0.0)
    for second in range(60):
        silence.end(float(second))

    assert silence.longest_s(60.5) == 1.5


def test_late_is_what_is_longer_than_usual_whatever_the_shortest_deadline() -> None:
    """A floor keeps a node from giving up too soon; it need not keep it from turning to somebody who is there."""
    known = Deadlines(shortest_s=3.0, longest_s=60.0)
    assert not known.is_late(Wait.ANSWER, False, 2.9, _PEER)
    assert known.is_late(Wait.ANSWER, False, 3.1, _PEER)

    for _ in range(20):
        known.kept(Wait.ANSWER, False, 0.1, _PEER)

    assert not known.is_late(Wait.ANSWER, False, 0.15, _PEER)
    assert known.is_late(Wait.ANSWER, False, 0.25, _PEER)
    assert known.limit_s(Wait.ANSWER, False, _PEER) == 3.0
    known.missed(Wait.ANSWER, False, 3.1, _PEER)
    assert not known.is_late(Wait.ANSWER, False, 0.3, _PEER)  # known to be slow
