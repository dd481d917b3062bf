"""Exchange periods: right on average, independent per stream, never in lockstep."""

from itertools import pairwise
from statistics import mean, pstdev

import pytest

from lowcomm_node.core.chance import Chance
from lowcomm_node.core.schedule import ExchangeSchedule, Timing
from lowcomm_node.units import Stream


def due_steps(schedule: ExchangeSchedule, until: int) -> dict[Stream, list[int]]:
    """Steps at which each stream was due, when each turn is taken at once."""
    found: dict[Stream, list[int]] = {stream: [] for stream in Stream}
    for step in range(until):
        due = schedule.due(step)
        schedule.met(due, step)
        for stream in due:
            found[stream].append(step)
    return found


def test_mean_gap_is_the_period_and_gaps_vary() -> None:
    """A period of K means every K steps on average, from K/2 to 3K/2."""
    found = due_steps(ExchangeSchedule({Stream.PARAMS: 10}, Chance(b"a")), 20_000)[Stream.PARAMS]
    gaps = [after - before for before, after in pairwise(found)]
    assert abs(mean(gaps) - 10) < 0.25
    assert set(gaps) == set(range(5, 16))


def test_streams_keep_their_own_periods() -> None:
    """DES-LOC: each stream has its own counter; 0 is never."""
    periods = {Stream.PARAMS: 4, Stream.EXP_AVG: 0, Stream.EXP_AVG_SQ: 24}
    found = due_steps(ExchangeSchedule(periods, Chance(b"b")), 24_000)
    assert abs(len(found[Stream.PARAMS]) / len(found[Stream.EXP_AVG_SQ]) - 6) < 0.3
    assert not found[Stream.EXP_AVG]


def test_bernoulli_gaps_are_geometric() -> None:
    """Each step with probability 1/K: mean K, standard deviation sqrt(K (K - 1)), and the past tells nothing of the next step."""
    found = due_steps(ExchangeSchedule({Stream.PARAMS: 10}, Chance(b"e"), Timing.BERNOULLI), 60_000)[Stream.PARAMS]
    gaps = [after - before for before, after in pairwise(found)]
    assert abs(mean(gaps) - 10) < 0.4
    assert abs(pstdev(gaps) - 90**0.5) < 0.5
    assert min(gaps) == 1
    waited = [gap for gap in gaps if gap > 10]
    assert abs(mean(waited) - 10 - mean(gaps)) < 0.8
    assert abs(gaps.count(1) / len(gaps) - 0.1) < 0.012


@pytest.mark.parametrize("timing", Timing)
def test_period_of_one_is_every_step(timing: Timing) -> None:
    """K = 1 may not become "sometimes twice" or "never"."""
    found = due_steps(ExchangeSchedule({Stream.PARAMS: 1}, Chance(b"c"), timing), 100)[Stream.PARAMS]
    assert len(found) >= 98


def test_what_is_due_stays_due_until_its_turn() -> None:
    """A busy node does not lose its turn."""
    schedule = ExchangeSchedule({Stream.PARAMS: 3}, Chance(b"d"))
    schedule.due(0)
    assert schedule.due(100) == (Stream.PARAMS,)
    assert schedule.due(101) == (Stream.PARAMS,)
    schedule.met((Stream.PARAMS,), 101)
    assert schedule.due(102) == ()


@pytest.mark.parametrize("timing", Timing)
@pytest.mark.parametrize("period", [1, 5, 10])
def test_a_turn_that_came_to_nothing_comes_again_sooner(period: int, timing: Timing) -> None:
    """Not at the next step, when the same partner would be asked that was busy, but within half a period; a turn that succeeds ends it."""
    schedule = ExchangeSchedule({Stream.PARAMS: period}, Chance(b"m"), timing)
    gaps = set()
    for steps in range(0, 100_000, 1000):
        schedule.met((Stream.PARAMS,), steps)
        schedule.missed((Stream.PARAMS, Stream.EXP_AVG), steps)
        gaps.add(schedule.due_at[Stream.PARAMS] - steps)

    shortest = (period + 1) // 2
    assert gaps == set(range(1, shortest + 1))
    assert Stream.EXP_AVG not in schedule.due_at  # the run does not exchange it
    schedule.met((Stream.PARAMS,), 100_000)
    if timing is Timing.UNIFORM:
        assert schedule.due_at[Stream.PARAMS] >= 100_000 + shortest


def test_a_turn_that_is_due_anyway_is_not_put_off() -> None:
    """Asking in vain never makes a meeting later."""
    schedule = ExchangeSchedule({Stream.PARAMS: 100}, Chance(b"m"))
    schedule.resume({Stream.PARAMS: 7})

    schedule.missed((Stream.PARAMS,), 6)

    assert schedule.due_at[Stream.PARAMS] == 7


def test_a_count_that_starts_anew_does_not_silence_the_node() -> None:
    """A trainer that died comes back with a donor's state and counts its own steps from 0 again."""
    schedule = ExchangeSchedule({Stream.PARAMS: 10}, Chance(b"s"))
    for steps in range(5000):
        schedule.met(schedule.due(steps), steps)

    assert any(schedule.due(steps) for steps in range(16))


def test_a_restart_puts_off_nothing() -> None:
    """What was due 5 steps after the checkpoint is due 5 steps after it in the next life, however rare it is."""
    periods = {Stream.PARAMS: 4, Stream.EXP_AVG_SQ: 1000}
    before = ExchangeSchedule(periods, Chance(b"a"))
    due_steps(before, 300)
    kept = before.due_at
    after = ExchangeSchedule(periods, Chance(b"another life"))
    after.resume(kept)

    for steps in range(300, 2000):
        assert (Stream.EXP_AVG_SQ in after.due(steps)) == (steps >= kept[Stream.EXP_AVG_SQ])


def test_a_trainer_that_goes_back_to_its_checkpoint_keeps_what_was_due_there() -> None:
    """Fewer steps than before are no new count then; streams that the run does not exchange are none."""
    schedule = ExchangeSchedule({Stream.PARAMS: 100}, Chance(b"a"))
    schedule.due(900)

    schedule.resume({Stream.PARAMS: 850, Stream.EXP_AVG: 1})

    assert schedule.due(800) == ()
    assert schedule.due(850) == (Stream.PARAMS,)
    schedule.met((Stream.PARAMS,), 850)
    assert schedule.due_at[Stream.PARAMS] >= 900
