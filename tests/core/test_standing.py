"""How much newcomers count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.core.standing import ASLEEP_PERIODS, PROBATION_MEETINGS, share, weight_after, weight_after_sleep

_WEIGHTS = st.floats(0.01, 1.0)


@given(own=_WEIGHTS, partner=_WEIGHTS)
def test_the_weighted_mean_stays_and_the_difference_shrinks_as_ever(own: float, partner: float) -> None:
    """Whoever counts how much: a_i w_i = a_j w_j, and w_i + w_j is what it is between equals."""
    assert own * share(own, partner) == pytest.approx(partner * share(partner, own), rel=1e-14)
    assert share(own, partner) + share(partner, own) == pytest.approx(2.0, rel=1e-14)


def test_equals_move_alike() -> None:
    """Exactly: old and new members among themselves meet as they always have."""
    assert {share(weight, weight) for weight in (0.2, 0.4, 0.6, 1.0)} == {1.0}


def test_a_newcomer_counts_more_with_each_meeting_until_it_counts_as_everybody() -> None:
    """Little, but not nothing: two newcomers alone must be able to meet."""
    weights = [weight_after(number) for number in range(10)]

    assert weights[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert set(weights[PROBATION_MEETINGS:]) == {1.0}


def test_who_has_slept_counts_the_less_the_longer() -> None:
    """From a newcomer's weight down; never nothing, since all may have slept."""
    weights = [weight_after_sleep(periods) for periods in (ASLEEP_PERIODS, 9, 99, 1e6)]

    assert weights == pytest.approx([weight_after(0), 0.1, 0.01, 1e-6], rel=1e-5)
