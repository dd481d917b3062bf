"""Schedule by swarm progress."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.core.progress import (
    is_cooldown,
    is_dense_acceptable,
    is_finished,
    is_plausible,
    learning_rate_at,
    mark_of,
)
from lowcomm_node.settings.manifest import Manifest, MeetingConfig, TrainingConfig

_TRAINING = TrainingConfig(total_steps=1000, warmup_steps=100, min_lr_ratio=0.1)
_MANIFEST = Manifest(training=_TRAINING, meeting=MeetingConfig(dense_last_ratio=0.05))


def test_warm_up_rises_linearly_and_the_first_step_already_learns() -> None:
    """The first step has a rate above zero, and equal steps of progress raise it equally until the peak."""
    rates = [learning_rate_at(step, _TRAINING, 1.0) for step in range(101)]

    increments = [after - before for before, after in itertools.pairwise(rates)]
    assert rates[0] == pytest.approx(1 / 101)
    assert increments == pytest.approx([1 / 101] * 100)
    assert rates[100] == pytest.approx(1.0)


def test_cosine_ends_at_the_minimum_and_stays_there() -> None:
    """Half way down the cosine the rate is the mean of peak and minimum; from total_steps on it is the minimum."""
    assert learning_rate_at(550, _TRAINING, 2.0) == pytest.approx(2.0 * 0.55)
    assert learning_rate_at(1000, _TRAINING, 2.0) == pytest.approx(0.2)
    assert learning_rate_at(5000, _TRAINING, 2.0) == pytest.approx(0.2)


@given(st.floats(0, 2000), st.floats(0, 100))
def test_rate_never_rises_after_warm_up(progress: float, ahead: float) -> None:
    """After the warm-up, a node that is further never learns faster, and the rate stays between minimum and peak."""
    early, late = (learning_rate_at(100 + p, _TRAINING, 1.0) for p in (progress, progress + ahead))

    assert 0.1 - 1e-12 <= late <= early <= 1.0


def test_no_warm_up_starts_at_the_peak() -> None:
    """warmup_steps = 0 is allowed and divides by nothing."""
    assert learning_rate_at(0, TrainingConfig(total_steps=10, warmup_steps=0), 3e-3) == pytest.approx(3e-3)


def test_phases_of_a_run() -> None:
    """Dense offers are accepted before they are made, and both before the run ends."""
    phases = [
        (is_dense_acceptable(p, _MANIFEST), is_cooldown(p, _MANIFEST), is_finished(p, _TRAINING))
        for p in (900.0, 940.0, 950.0, 999.9, 1000.0)
    ]

    assert phases == [
        (False, False, False),
        (True, False, False),
        (True, True, False),
        (True, True, False),
        (True, True, True),
    ]


def test_without_a_dense_last_phase_nobody_offers_or_takes_whole_tensors() -> None:
    """A ratio of 0 leaves the byte budget in force to the end; the slack must not open it again."""
    never = Manifest(training=_TRAINING, meeting=MeetingConfig(dense_last_ratio=0.0))

    assert not any(is_cooldown(p, never) or is_dense_acceptable(p, never) for p in (0.0, 985.0, 1000.0, 1050.0))


@pytest.mark.parametrize("progress", [-1.0, math.nan, math.inf, -math.inf, 1e9])
def test_absurd_progress_is_not_plausible(progress: float) -> None:
    """One hostile number must not be able to end the run of whoever averages with it."""
    assert not is_plausible(progress, _TRAINING)


def test_honest_progress_is_plausible() -> None:
    """From the start to a few steps over the end."""
    assert all(is_plausible(progress, _TRAINING) for progress in (0.0, 0.5, 999.0, 1000.0, 1050.0))


def test_marks_are_the_same_for_all() -> None:
    """They follow from the run's length and progress alone: twenty of them in a short run, one every hundred steps in a long one."""
    assert [mark_of(steps, _TRAINING) for steps in (0.0, 49.9, 50.0, 99.0, 1000.0)] == [0, 0, 1, 1, 20]
    long = TrainingConfig(total_steps=100_000)
    assert [mark_of(steps, long) for steps in (99.0, 100.5, 99_999.0)] == [0, 1, 999]
    assert mark_of(7.0, TrainingConfig(total_steps=10, warmup_steps=0)) == 7
