"""Blocks by turns: what is measured is the disturbance, not the machine's drift."""

import math

import pytest

from lowcomm_node.bench.side_by_side import effect_of, measure_blocks
from lowcomm_node.errors import LowcommError


class Machine:
    """Steps in virtual time, at a speed that drifts; each disturbance stops it for a while."""

    def __init__(self, *, costs_s: float = 0.0, drift: float = 0.0, steps_per_s: float = 10.0) -> None:
        self.now = 0.0
        self.disturbances = 0
        self._costs_s = costs_s
        self._drift = drift
        self._steps_per_s = steps_per_s
        self._done = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self._done += seconds * self._steps_per_s * (1 + self._drift * self.now)
        self.now += seconds

    def steps(self) -> int:
        return int(self._done)

    def disturb(self) -> None:
        self.disturbances += 1
        self.now += self._costs_s


def _measured(machine: Machine, turns: int = 6) -> list[float]:
    blocks = list(
        measure_blocks(
            turns=turns, every_s=(0.0, 15.0, 1.0), block_s=30.0, steps=machine.steps, disturb=machine.disturb,
            clock=machine.clock, sleep=machine.sleep,
        )
    )  # fmt: skip
    assert [block.turn for block in blocks] == [turn for turn in range(turns) for _ in range(3)]
    assert {block.disturbances for block in blocks if block.every_s == 15.0} == {2}
    assert {block.disturbances for block in blocks if block.every_s == 1.0} == {30}
    return [effect_of(blocks, every_s).middle for every_s in (0.0, 15.0, 1.0)]


def test_what_costs_nothing_shows_nothing() -> None:
    """Whatever the pause; and undisturbed blocks are like each other."""
    assert _measured(Machine()) == pytest.approx([1.0, 1.0, 1.0], abs=0.002)


def test_what_costs_a_twentieth_of_a_second_shows_as_that() -> None:
    """Once a second five percent; every fifteen seconds a third of a percent."""
    quiet, rare, often = _measured(Machine(costs_s=0.05))

    assert quiet == pytest.approx(1.0, abs=0.002)
    assert rare == pytest.approx(1 - 0.05 / 15, abs=0.002)
    assert often == pytest.approx(0.95, abs=0.003)


def test_a_drift_is_not_taken_for_an_effect() -> None:
    """A machine that becomes faster by a third within the measurement: the order is turned round, so the middle stays where it is."""
    _, rare, often = _measured(Machine(drift=0.0006))

    assert rare == pytest.approx(1.0, abs=0.01)
    assert often == pytest.approx(1.0, abs=0.01)


def test_a_single_turn_has_no_spread() -> None:
    """And nothing to compare quiet blocks with."""
    machine = Machine()
    blocks = list(
        measure_blocks(
            turns=1, every_s=(0.0, 1.0), block_s=5.0, steps=machine.steps, disturb=machine.disturb, clock=machine.clock,
            sleep=machine.sleep,
        )
    )  # fmt: skip

    assert math.isnan(effect_of(blocks, 1.0).standard_error)
    assert effect_of(blocks, 0.0).ratios == ()


def test_a_node_that_stands_still_is_said_to() -> None:
    """Instead of waiting for ever."""
    machine = Machine(steps_per_s=0.0)

    with pytest.raises(LowcommError, match="no step"):
        next(
            measure_blocks(
                turns=1, every_s=(0.0,), block_s=1.0, steps=machine.steps, disturb=machine.disturb, clock=machine.clock,
                sleep=machine.sleep,
            )
        )  # fmt: skip
