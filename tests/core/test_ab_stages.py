"""Stages of AB-training, by progress."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.core.ab_stages import (
    Stage,
    StagePoint,
    cutoff_of,
    join_weights,
    ramp_at,
    ramp_of,
    stage_at,
    stage_of,
    trained_factor,
)
from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.ab_training import ONLY_LEARNED, WITH_STALE, AbTrainingConfig
from lowcomm_node.settings.manifest import Manifest, MeetingConfig, OuterConfig, TrainingConfig
from lowcomm_node.units import Factor

_CONFIG = AbTrainingConfig(warm_up_ratio=0.2, epochs=4, rebound_ratio=0.02, ramp_ratio=0.03)


def _points(config: AbTrainingConfig, total_steps: int) -> list[StagePoint]:
    return [stage_at(step, total_steps, config) for step in range(total_steps)]


def test_epochs_fill_the_run_after_the_warm_up() -> None:
    """A thousand steps: 200 whole, then four times 180 in factors and 20 whole."""
    points = _points(_CONFIG, 1000)

    lengths = [(key.stage, key.epoch, len(list(group))) for key, group in itertools.groupby(points)]

    assert lengths == [
        (Stage.WARM_UP, 0, 200),
        *((stage, epoch, n) for epoch in (1, 2, 3, 4) for stage, n in ((Stage.FACTORS, 180), (Stage.REBOUND, 20))),
    ]


@given(st.floats(0, 1), st.integers(1, 20), st.floats(0, 1), st.integers(1, 500))
def test_stages_come_in_order(warm_up: float, epochs: int, share: float, total_steps: int) -> None:
    """Whatever the lengths: warm-up, then factors and rebound by turns, epochs counted up to the last; short ones may be skipped."""
    config = AbTrainingConfig(
        warm_up_ratio=warm_up, epochs=epochs, rebound_ratio=share * (1 - warm_up) / epochs, ramp_ratio=0.1
    )
    points = _points(config, total_steps)

    order = [(point.epoch, point.stage is Stage.REBOUND) for point in points]
    assert order == sorted(order)
    assert all((point.epoch == 0) == (point.stage is Stage.WARM_UP) for point in points)
    assert all(point.epoch <= epochs for point in points)
    assert all(0 < ramp_at(step, total_steps, config) <= 1 for step in range(total_steps))


def test_a_stage_without_length_is_left_out() -> None:
    """Without rebounds one stretch of factors follows another, and the two are told apart; a warm-up may be the whole run."""
    without = AbTrainingConfig(warm_up_ratio=0.0, epochs=2, rebound_ratio=0.0)
    only = AbTrainingConfig(warm_up_ratio=1.0, rebound_ratio=0.0)

    assert {point.stage for point in _points(without, 10)} == {Stage.FACTORS}
    assert stage_at(4, 10, without) != stage_at(5, 10, without)
    assert {point.stage for point in _points(only, 10)} == {Stage.WARM_UP}


def test_the_end_is_part_of_the_last_stage() -> None:
    """Progress may run a little beyond the run; no further epoch begins."""
    assert stage_at(1007.5, 1000, _CONFIG) == stage_at(999, 1000, _CONFIG)


def test_the_rate_comes_back_after_each_change() -> None:
    """From near nothing up to the schedule's in a straight line; full in the warm-up, whose start is the schedule's affair."""
    ramps = [ramp_at(step, 1000, _CONFIG) for step in range(1000)]

    assert set(ramps[:200]) == {1.0}
    for start in (200, 380, 400, 580):
        assert ramps[start] == pytest.approx(1 / 31)
    assert ramps[380:400] == pytest.approx([(step + 1) / 31 for step in range(20)])
    assert ramps[229:380] == pytest.approx([30 / 31, *[1.0] * 150])


def test_the_first_split_cuts_nothing() -> None:
    """Later ones do."""
    cutoffs = [cutoff_of(stage_at(step, 1000, _CONFIG), _CONFIG) for step in (200, 400, 800)]

    assert cutoffs == [0.0, 0.15, 0.15]


@pytest.mark.parametrize("groups", range(2, 9))
def test_both_factors_are_trained(groups: int) -> None:
    """By half of the groups each, the odd one trains A."""
    trained = [trained_factor(group, groups) for group in range(groups)]

    assert trained == sorted(trained)
    assert trained.count(Factor.A) - trained.count(Factor.B) == groups % 2


def test_what_counts_in_a_join() -> None:
    """With stale copies every node, else those that have trained the factor; by nodes and not by groups."""
    trained, sizes = [Factor.A, Factor.A, Factor.B], [2, 2, 1]

    stale, learned = (join_weights(trained, sizes, join) for join in (WITH_STALE, ONLY_LEARNED))

    assert stale == {Factor.A: [0.4, 0.4, 0.2], Factor.B: [0.4, 0.4, 0.2]}
    assert learned == {Factor.A: [0.5, 0.5, 0.0], Factor.B: [0.0, 0.0, 1.0]}


def test_rebounds_have_to_fit() -> None:
    """Between the end of the warm-up and that of the run."""
    with pytest.raises(ConfigError, match="rebound_ratio"):
        AbTrainingConfig(warm_up_ratio=0.9, epochs=12, rebound_ratio=0.01).check()


def test_the_dense_last_phase_of_a_swarm_is_rebound() -> None:
    """Whatever the stage would be, replicas train and meet whole at the end, and the ramp begins where that begins."""
    manifest = Manifest(
        training=TrainingConfig(total_steps=1000, warmup_steps=50),
        outer=OuterConfig(method="ab"),
        meeting=MeetingConfig(dense_last_ratio=0.05),
        ab_training=_CONFIG,
    )

    points = [stage_of(step, manifest) for step in range(1200)]

    assert points[:950] == [stage_at(step, 1000, _CONFIG) for step in range(950)]
    assert points[949].stage is Stage.FACTORS
    assert set(points[950:]) == {StagePoint(stage=Stage.REBOUND, epoch=4, begun_at=950.0)}
    assert [ramp_of(step, manifest) for step in (100, 949, 950, 960)] == [1.0, 1.0, 1 / 31, 11 / 31]
    assert ramp_of(950, replace(manifest, outer=OuterConfig(), ab_training=AbTrainingConfig())) == 1.0
    whole = replace(manifest, meeting=MeetingConfig(dense_last_ratio=1.0))
    assert {stage_of(step, whole).stage for step in (0, 500, 1000)} == {Stage.WARM_UP}
