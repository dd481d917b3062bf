"""core.costs: what a run costs, against numbers worked out by hand."""

import math
from dataclasses import replace

import pytest

from lowcomm_node.core.costs import Circumstances, Costs, Flow, Weight, reckon
from lowcomm_node.units import Stream

PARAMS = Weight(
    stream=Stream.PARAMS,
    every_steps=10,
    payload=Flow(sent=600, received=380),
    framing=Flow(sent=15, received=5),
    last_payload=Flow(sent=2400, received=1580),
)
"""A thousand bytes a meeting; four thousand at the end."""
RARE = Weight(
    stream=Stream.EXP_AVG_SQ,
    every_steps=100,
    payload=Flow(sent=100, received=80),
    framing=Flow(sent=15, received=5),
    last_payload=Flow(sent=100, received=80),
)
AROUND = Circumstances(steps_per_s=2.0, joins_per_day=0.0, total_steps=1_728_000)
STEPS = 172_800
MEETINGS = STEPS // 10


def reckoned(*weights: Weight, **changes: float) -> Costs:
    return reckon(weights or (PARAMS,), replace(AROUND, **changes))  # type: ignore[arg-type]


def test_a_node_starts_as_many_meetings_as_it_answers() -> None:
    """So each way it moves what both of the ends send: payloads by stream, framing, and states at last."""
    costs = reckoned(PARAMS, RARE, joins_per_day=2.0, state_bytes=5000)

    assert costs.steps_per_day == STEPS
    assert costs.usual.meetings_per_day == pytest.approx(MEETINGS * 1.1)
    assert costs.usual.payload_per_day == pytest.approx(
        {Stream.PARAMS: 980 * MEETINGS, Stream.EXP_AVG_SQ: 180 * MEETINGS / 10}
    )
    assert costs.usual.framing_per_day == pytest.approx(20 * MEETINGS * 1.1)
    assert costs.usual.states_per_day == 10_000
    assert costs.usual.bytes_per_day == pytest.approx(1020 * MEETINGS + 10_000)
    assert costs.usual.bytes_per_month == pytest.approx(30 * costs.usual.bytes_per_day)
    assert (costs.usual.stretch, costs.usual.crowding, costs.meeting_s) == (1.0, 0.0, 0.0)


def test_the_run_ends_densely() -> None:
    """The last share of its steps has its own traffic, and the whole run is the sum of both."""
    costs = reckoned(last_ratio=0.1)

    assert costs.days == pytest.approx(10)
    assert costs.last_days == pytest.approx(1)
    assert costs.last.bytes_per_day == pytest.approx(4000 * MEETINGS)
    assert costs.run_bytes == pytest.approx(9 * 1000 * MEETINGS + 4000 * MEETINGS)


def test_hours_count_for_steps_and_meetings_but_a_closed_line_for_meetings_alone() -> None:
    """Training goes on while the line is closed."""
    costs = reckoned(hours_per_day=12.0, training_share=0.5, open_share=0.25)

    assert costs.steps_per_day == STEPS / 4
    assert costs.usual.meetings_per_day == pytest.approx(MEETINGS / 16)
    assert costs.days == pytest.approx(40)


def test_a_months_budget_stretches_the_periods() -> None:
    """To what is left of it when the states are paid; a budget that does not pay for those leaves no meeting."""
    wished = 1000 * MEETINGS
    costs = reckoned(monthly_gb=60 * (wished / 4 + 3000) / 1e9, joins_per_day=1.0, state_bytes=3000)

    assert costs.usual.stretch == pytest.approx(4)
    assert costs.usual.meetings_per_day == pytest.approx(MEETINGS / 4)
    assert costs.usual.bytes_per_day == pytest.approx(wished / 4 + 3000)
    assert costs.usual.wished_per_day == pytest.approx(wished + 3000)

    poor = reckoned(monthly_gb=60 * 2000 / 1e9, joins_per_day=1.0, state_bytes=3000)
    assert math.isinf(poor.usual.stretch)
    assert poor.usual.bytes_per_day == 3000


def test_a_slow_line_is_crowded() -> None:
    """A started and an answered meeting in each period; the slower direction is the other end's way here, too."""
    slow = 0.004  # megabits a second: 500 bytes
    costs = reckoned(up_mbit_per_s=slow, down_mbit_per_s=100.0)

    assert costs.meeting_s == pytest.approx(2.0)
    assert costs.usual.crowding == pytest.approx(2 * 2.0 / 5.0)
    assert costs.usual.bytes_per_day == pytest.approx(1000 * MEETINGS)

    slower = reckoned(up_mbit_per_s=slow / 4)
    assert slower.usual.crowding == pytest.approx(3.2)
    assert slower.usual.meetings_per_day == pytest.approx(MEETINGS / 3.2)


def test_energy_is_of_the_hours_that_are_trained() -> None:
    """100 W for 12 hours are 1.2 kWh; without watts nothing is made up."""
    costs = reckoned(watts=100.0, hours_per_day=12.0, price_per_kwh=0.25)

    assert costs.kwh_per_day == pytest.approx(1.2)
    assert costs.money_per_day == pytest.approx(0.3)
    assert reckoned(price_per_kwh=0.25).kwh_per_day == 0


def test_a_node_that_never_trains_costs_nothing() -> None:
    """Quiet hours all day: no step, no meeting, no end, and no division by zero."""
    costs = reckoned(training_share=0.0, up_mbit_per_s=1.0, last_ratio=0.02)

    assert costs.usual.bytes_per_day == costs.run_bytes == 0
    assert math.isinf(costs.days)
