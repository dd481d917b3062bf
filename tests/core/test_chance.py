"""Chance is fixed by its seed, on every version and machine."""

from lowcomm_node.core.chance import Chance

GOLDEN_TOKEN = "72e4f9aecea933bf841f286eb62fca5c"
GOLDEN_DIGITS = [9, 3, 1, 1, 9, 8, 4, 6, 6, 6]


def test_golden_draws() -> None:
    """These values must never change: nodes of different versions may be compared by them."""
    chance = Chance(b"seed")
    assert chance.token().hex() == GOLDEN_TOKEN
    assert [chance.below(10) for _ in range(10)] == GOLDEN_DIGITS


def test_uniform_stays_below_one_and_covers_the_range() -> None:
    """No draw may index past the end of a list."""
    chance = Chance(b"x")
    draws = [chance.uniform() for _ in range(5000)]
    assert 0.0 <= min(draws) < 0.01
    assert 0.99 < max(draws) < 1.0
    assert {chance.below(3) for _ in range(200)} == {0, 1, 2}
