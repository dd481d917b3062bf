"""Offers of those who let answers lie."""

from lowcomm_node.core.reluctance import Reluctance
from lowcomm_node.units import PeerId

EVE, BOB = PeerId("eve"), PeerId("bob")


def test_who_never_closes_waits_longer_each_time() -> None:
    """Two are free, then 2, 4, 8... s, two minutes at most; nobody else waits."""
    reluctance, now, waits = Reluctance(), 0.0, []

    for _ in range(12):
        now += reluctance.left_s(EVE, now)
        reluctance.taken_up(EVE, now)
        waits.append(reluctance.left_s(EVE, now))

    assert waits == [0.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 120.0, 120.0, 120.0, 120.0, 120.0]
    assert reluctance.left_s(BOB, now) == 0.0


def test_a_close_makes_good() -> None:
    """A line that broke a few times is no reason to wait once a meeting works."""
    reluctance = Reluctance()
    for _ in range(5):
        reluctance.taken_up(EVE, 0.0)

    reluctance.made_good(EVE)
    assert reluctance.left_s(EVE, 0.0) == 0.0
    reluctance.taken_up(EVE, 0.0)
    assert reluctance.left_s(EVE, 0.0) == 0.0


def test_trouble_of_long_ago_is_forgotten() -> None:
    """Two minutes after it might have come back a peer is like any other; just before, it is not."""
    for late_s, left_s in ((119.0, 16.0), (121.0, 0.0)):
        reluctance, now = Reluctance(), 0.0
        for _ in range(4):
            now += reluctance.left_s(EVE, now)
            reluctance.taken_up(EVE, now)
        now += reluctance.left_s(EVE, now) + late_s
        reluctance.taken_up(EVE, now)
        assert reluctance.left_s(EVE, now) == left_s


def test_memory_is_bounded() -> None:
    reluctance = Reluctance()
    for number in range(1000):
        reluctance.taken_up(PeerId(f"p{number}"), 0.0)
    assert len(reluctance._askers) == 256
