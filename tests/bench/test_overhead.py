"""Nodes against bare loops: the arithmetic of windows, turn by turn."""

import math

import pytest

from lowcomm_node.bench.overhead import (
    BARE,
    EMULATOR,
    LOOP,
    TRAINER,
    Reading,
    Window,
    figures_of,
    window_between,
)


def _window(group: str, turn: int, tokens_per_s: float, **processor_ms: float) -> Window:
    begin = Reading(at_s=0.0, tokens=0, processor_s=dict.fromkeys(processor_ms, 0.0), machine_busy_s=0.0)
    end = Reading(
        at_s=10.0,
        tokens=int(10 * tokens_per_s),
        processor_s={kind: spent_ms / 100 for kind, spent_ms in processor_ms.items()},
        machine_busy_s=20.0,
    )
    return window_between(group, turn, begin, end)


def test_a_window_is_what_happened_between_its_readings() -> None:
    """Rates are of the time between; what was there before does not count; the rest of the machine's time is the others'."""
    before = Reading(
        at_s=100.0, tokens=5000, processor_s={TRAINER: 50.0, "daemon": 7.0}, machine_busy_s=1000.0,
        meetings=10, failed=4, sent_bytes=1000, exchange_s=3.0,
    )  # fmt: skip
    after = Reading(
        at_s=120.0, tokens=25000, processor_s={TRAINER: 85.0, "daemon": 8.0}, machine_busy_s=1040.0,
        meetings=30, failed=5, sent_bytes=41000, exchange_s=4.0,
    )  # fmt: skip

    window = window_between("nodes", 3, before, after)

    assert window.turn == 3
    assert window.tokens_per_s == 1000.0
    assert window.processor_ms == {TRAINER: 1750.0, "daemon": 50.0}
    assert window.others_ms == pytest.approx(200.0)
    assert (window.meetings_per_min, window.failed_per_min) == (60.0, 3.0)
    assert (window.bytes_per_s, window.exchange_ms) == (2000.0, 50.0)


def test_ratios_are_of_the_same_turn() -> None:
    """A machine that gets slower from turn to turn changes nothing: each window is compared with the bare one beside it."""
    windows = []
    for turn, speed in enumerate((1000.0, 500.0, 250.0)):
        windows.append(_window(BARE, turn, speed, **{LOOP: 2000.0}))
        windows.append(_window("nodes", turn, 0.9 * speed, **{TRAINER: 1900.0}))

    found = figures_of(windows, "nodes")

    assert found is not None
    assert found.ratio.middle == pytest.approx(0.9)
    assert found.ratio.standard_error == pytest.approx(0.0, abs=1e-9)
    assert found.ratio_without_emulator is None
    assert found.tokens_per_s == pytest.approx(525.0)


def test_what_the_trainer_lost_is_told_from_what_was_taken_from_it() -> None:
    """A tenth fewer tokens of which processor time explains half."""
    windows = [_window(BARE, 0, 1000.0, loop=2000.0), _window("nodes", 0, 900.0, trainer=1900.0, emulator=100.0)]

    found = figures_of(windows, "nodes", {TRAINER: 5})

    assert found is not None
    assert found.per_trainer_second.middle == pytest.approx(0.9 * 2000 / 1900)
    assert found.ratio_without_emulator == pytest.approx(0.9 * 2000 / 1900)
    assert found.processor_ms == {TRAINER: pytest.approx(1900.0), EMULATOR: pytest.approx(100.0)}
    assert found.memory_bytes == {TRAINER: 5}
    assert math.isnan(found.ratio.standard_error)


def test_no_figures_without_windows() -> None:
    """Of a group that never had its turn, and no ratio where the bare loops had none."""
    alone = [_window("nodes", 0, 900.0, trainer=1900.0)]

    assert figures_of(alone, BARE) is None
    found = figures_of(alone, "nodes")
    assert found is not None
    assert math.isnan(found.ratio.middle)
