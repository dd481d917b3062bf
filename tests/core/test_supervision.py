"""Supervision of the trainer: when it is started again, with how small a part of a batch, and when silence is a hang."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.core.supervision import Cause, GiveUp, Restart, Supervision, Watch

CAUSES = st.sampled_from([cause for cause in Cause if cause is not Cause.UNFIT])
"""An unfit state is replaced as often as ``core.health`` wants it: see its own test below."""
FALLS = st.lists(st.tuples(CAUSES, st.floats(0.0, 2000.0)), max_size=60)
"""Cause of each end, and how long the life before it was."""


def lives(supervision: Supervision, falls: list[tuple[Cause, float]]) -> list[Restart | GiveUp]:
    """What is decided about each fall, up to giving up."""
    now, decisions = 1000.0, []
    for cause, life_s in falls:
        supervision.started(now)
        now += life_s
        decision = supervision.fell(cause, "it fell", now)
        decisions.append(decision)
        if isinstance(decision, GiveUp):
            break
        now += decision.after_s
    return decisions


@given(micro_batches=st.integers(0, 5000), batch_size=st.integers(1, 4096), falls=FALLS)
def test_every_decision_is_in_bounds(micro_batches: int, batch_size: int, falls: list[tuple[Cause, float]]) -> None:
    """Waits are between one second and one minute, parts never fewer than before and never more than examples."""
    supervision = Supervision(micro_batches=micro_batches, batch_size=batch_size)
    least = supervision.micro_batches
    assert 1 <= least <= batch_size

    for decision in lives(supervision, falls):
        if isinstance(decision, Restart):
            assert 1.0 <= decision.after_s <= 60.0
            assert least <= decision.micro_batches <= batch_size
            least = decision.micro_batches


@given(batch_size=st.integers(1, 4096), falls=FALLS)
def test_it_always_ends_when_it_keeps_falling(batch_size: int, falls: list[tuple[Cause, float]]) -> None:
    """Lives of less than ten minutes: five falls that no smaller part could cure, and it is over; never with fewer."""
    short = [(cause, min(life_s, 599.0)) for cause, life_s in falls] + [(Cause.OUT_OF_MEMORY, 1.0)] * 20

    decisions = lives(Supervision(micro_batches=1, batch_size=batch_size), short)

    assert isinstance(decisions[-1], GiveUp)
    parts = [1, *(decision.micro_batches for decision in decisions if isinstance(decision, Restart))]
    cured = sum(after > before for before, after in itertools.pairwise(parts))
    assert len(decisions) == 5 + cured
    assert cured <= batch_size.bit_length()


@given(st.lists(CAUSES.filter(lambda cause: cause is not Cause.OUT_OF_MEMORY), min_size=1, max_size=50))
def test_long_lives_are_forgiven(causes: list[Cause]) -> None:
    """However often it falls, after more than ten minutes each it is started again, after the same short wait."""
    decisions = lives(Supervision(micro_batches=1, batch_size=8), [(cause, 600.5) for cause in causes])

    assert decisions == [Restart(after_s=2.0, micro_batches=1)] * len(causes)


def test_memory_that_runs_out_shrinks_the_parts_down_to_one_example() -> None:
    """Doubling, the last step to the batch's size; then it counts like any other fall, and the end says what to change."""
    supervision = Supervision(micro_batches=1, batch_size=6)

    decisions = lives(supervision, [(Cause.OUT_OF_MEMORY, 1.0)] * 20)

    assert decisions[:3] == [Restart(after_s=1.0, micro_batches=m) for m in (2, 4, 6)]
    assert [decision.after_s for decision in decisions[3:] if isinstance(decision, Restart)] == [2.0, 4.0, 8.0, 16.0]
    last = decisions[-1]
    assert isinstance(last, GiveUp)
    assert "5 times in a row: it fell" in last.sentence
    assert "device.name" in last.sentence


def test_an_unfit_state_is_no_fall() -> None:
    """A heal ends the process on purpose: it never counts, and the falls around it count as if it had not been."""
    supervision = Supervision(micro_batches=1, batch_size=8)

    healed = lives(supervision, [(Cause.UNFIT, 1.0)] * 20)
    fallen = lives(supervision, [(cause, 1.0) for cause in (Cause.KILLED, Cause.UNFIT) * 20])

    assert healed == [Restart(after_s=1.0, micro_batches=1)] * 20
    assert sum(isinstance(decision, Restart) for decision in fallen) == 8
    assert isinstance(fallen[-1], GiveUp)


def test_what_the_trainer_found_out_itself_counts() -> None:
    """It has taken more parts without dying: the next life begins with them, and a later report of fewer changes nothing."""
    supervision = Supervision(micro_batches=1, batch_size=16)
    supervision.took(8)
    supervision.took(2)

    assert supervision.fell(Cause.KILLED, "", 0.0) == Restart(after_s=2.0, micro_batches=8)
    assert supervision.fell(Cause.OUT_OF_MEMORY, "", 0.0) == Restart(after_s=2.0, micro_batches=16)


def hangs_after_s(watch: Watch, now: float, *, is_asked: bool = False) -> float:
    """Looked at once a second: how long from ``now`` until it is called a hang."""
    for second in range(1, 10_000):
        if watch.is_hanging(now + second, is_asked=is_asked):
            return float(second)
    raise AssertionError("never")


@given(steps_s=st.lists(st.floats(0.001, 200.0), min_size=1, max_size=20))
def test_patience_grows_with_the_slowest_step(steps_s: list[float]) -> None:
    """A machine that steps slowly is never taken for one that hangs: twenty of its steps pass first, and a minute."""
    now, watch = 0.0, Watch(least_s=60.0, now=0.0)
    for step_s in steps_s:
        now += step_s
        watch.is_hanging(now)
        watch.heard(now, step_s)

    assert hangs_after_s(watch, now) >= max(60.0, 20 * max(steps_s))
    assert watch.patience_s() <= max(60.0, 20 * max(steps_s), 3 * max(steps_s) + 5.0)


def test_before_the_first_step_and_while_asked_there_is_more_patience() -> None:
    """A first step may compile, a state file may be large."""
    watch = Watch(least_s=2.0, now=0.0)
    assert watch.patience_s() == 1800.0
    watch.heard(1.0)
    assert watch.patience_s() == 1800.0
    watch.heard(1.1, 0.1)

    assert hangs_after_s(watch, 1.1) == pytest.approx(4.0, abs=1.0)
    watch.heard(20.0, 0.1)
    assert watch.patience_s(is_asked=True) == 300.0


def test_time_in_which_nobody_looked_does_not_count() -> None:
    """The whole machine slept for an hour, or the daemon was stopped: no reason to end a trainer that may be well."""
    watch = Watch(least_s=60.0, now=0.0)
    watch.heard(0.5, 0.1)
    assert not watch.is_hanging(1.0)

    assert not watch.is_hanging(3601.0)
    assert hangs_after_s(watch, 3601.0) == 60.0
