"""core.owner: every reason to pause, with the time it takes to begin and to end."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.core.owner import GpuUse, Owner, OwnerRules, PauseReason, Seen

_RULES = OwnerRules(quiet_hours=((22 * 60, 7 * 60),), max_temperature_c=90.0, max_others_load=0.5)
_GIB = 2**30


def gpu(*, others: float = 0.0, others_gib: float = 0.0, own_gib: float = 0.0, size_gib: float = 24.0) -> Seen:
    free_gib = size_gib - others_gib - own_gib
    use = GpuUse(
        others_ratio=others,
        others_bytes=int(others_gib * _GIB),
        own_bytes=int(own_gib * _GIB),
        free_bytes=int(free_gib * _GIB),
        size_bytes=int(size_gib * _GIB),
    )
    return Seen(minute_of_day=720, gpus={0: use})


def noon(**seen: Any) -> Seen:
    return Seen(minute_of_day=720, **seen)


class Watched:
    """An owner's machine, looked at every second."""

    def __init__(self, rules: OwnerRules = _RULES) -> None:
        self.owner = Owner(rules)
        self.now = 0.0

    def sees(self, seen: Seen, seconds: float, *, is_commanded: bool = False) -> tuple[PauseReason, ...]:
        """The same for so long; returns the reasons at the end."""
        reasons: tuple[PauseReason, ...] = ()
        for _ in range(int(seconds) + 1):
            reasons = self.owner.look(seen, self.now, is_commanded=is_commanded)
            self.now += 1.0
        return reasons


@pytest.mark.parametrize(
    ("reason", "bad", "begins_s", "ends_s"),
    [
        (PauseReason.BATTERY, noon(on_battery=True), 10, 30),
        (PauseReason.HOT, noon(temperature_c=91.0), 30, 60),
        (PauseReason.GPU, gpu(others=0.9), 4, 60),
        (PauseReason.VRAM, gpu(others_gib=8, own_gib=15.5), 4, 60),
        (PauseReason.LOAD, noon(others_load=0.8), 30, 60),
    ],
)
def test_a_reason_has_to_last_and_to_be_gone_for_longer(
    reason: PauseReason, bad: Seen, begins_s: int, ends_s: int
) -> None:
    """A moment of it changes nothing, in either direction; enough of it does."""
    machine = Watched()

    assert machine.sees(bad, begins_s - 1) == ()
    assert machine.sees(noon(), 0) == ()
    assert machine.sees(bad, begins_s - 1) == ()
    assert machine.sees(bad, 0) == (reason,)
    assert machine.sees(noon(), ends_s - 1) == (reason,)
    assert machine.sees(bad, 0) == (reason,)
    assert machine.sees(noon(), ends_s - 1) == (reason,)
    assert machine.sees(noon(), 0) == ()


def test_the_owners_word_and_hours_count_at_once() -> None:
    """Both at their first look, and they end with the first that says so."""
    machine = Watched()

    assert machine.sees(noon(), 0, is_commanded=True) == (PauseReason.COMMAND,)
    assert machine.sees(noon(), 0) == ()
    assert machine.sees(Seen(minute_of_day=23 * 60), 0) == (PauseReason.QUIET_HOURS,)
    assert machine.sees(Seen(minute_of_day=7 * 60), 0) == ()


def test_it_has_to_cool_down_before_it_goes_on() -> None:
    """Just below the limit is where it would be too hot again at once."""
    machine = Watched()

    assert machine.sees(noon(temperature_c=95.0), 30) == (PauseReason.HOT,)
    assert machine.sees(noon(temperature_c=85.0), 600) == (PauseReason.HOT,)
    assert machine.sees(noon(temperature_c=80.0), 60) == ()


@pytest.mark.parametrize(
    "harmless",
    [
        noon(),
        noon(temperature_c=89.9, others_load=0.5),
        gpu(others=0.19, own_gib=10),  # a desktop and a video
        gpu(others_gib=0.5, own_gib=23.4),  # a trainer that fills a GPU with a desktop on it
        gpu(own_gib=24),
        gpu(others_gib=10, own_gib=10),  # room enough for both
    ],
)
def test_what_is_no_reason(harmless: Seen) -> None:
    """A headless server, a desktop, and a GPU that is shared in peace are trained on for ever."""
    assert Watched().sees(harmless, 3600) == ()


def test_without_limits_nothing_pauses_but_the_battery() -> None:
    """Load and heat are limits that an owner sets."""
    worst = noon(temperature_c=120.0, others_load=1.0)

    assert Watched(OwnerRules()).sees(worst, 3600) == ()
    assert Watched(OwnerRules(pause_on_battery=False)).sees(noon(on_battery=True), 3600) == ()
    assert Watched(OwnerRules(yield_gpu=False)).sees(gpu(others=1.0, others_gib=20, own_gib=4), 3600) == ()


def test_a_trainer_that_has_left_comes_back_only_where_it_has_room() -> None:
    """Its own memory is free by now, so what is free says nothing: it must be what it had taken, and a little more."""
    machine = Watched()

    assert machine.sees(gpu(others_gib=8, own_gib=15.5), 4) == (PauseReason.VRAM,)
    assert machine.sees(gpu(others_gib=8), 600) == (PauseReason.VRAM,)
    assert machine.sees(gpu(others_gib=6), 60) == ()


def test_several_reasons_are_told_in_one_order() -> None:
    """The owner's word first."""
    seen = noon(on_battery=True, temperature_c=99.0, others_load=1.0)

    reasons = Watched().sees(seen, 60, is_commanded=True)

    assert reasons == (PauseReason.COMMAND, PauseReason.BATTERY, PauseReason.HOT, PauseReason.LOAD)


_LOOKS = st.lists(
    st.tuples(
        st.floats(0.5, 40.0),
        st.booleans(),
        st.floats(70.0, 110.0),
        st.floats(0.0, 1.0),
        st.floats(0.0, 1.0),
        st.floats(0.0, 24.0),
    ),
    max_size=200,
)


@given(looks=_LOOKS)
def test_nothing_flaps(looks: Sequence[tuple[float, bool, float, float, float, float]]) -> None:
    """Whatever is seen: a reason that has ended was gone for half a minute at least, and one that begins has lasted."""
    owner, now = Owner(_RULES), 0.0
    changed_at: dict[PauseReason, float] = {}
    before: tuple[PauseReason, ...] = ()
    for gap_s, battery, heat, load, others, others_gib in looks:
        now += gap_s
        seen = Seen(
            minute_of_day=720,
            on_battery=battery,
            temperature_c=heat,
            others_load=load,
            gpus=gpu(others=others, others_gib=others_gib, own_gib=24.0 - others_gib).gpus,
        )
        reasons = owner.look(seen, now, is_commanded=False)
        for reason in set(reasons) ^ set(before):
            least_s = 4.0 if reason in reasons else 30.0
            assert now - changed_at.get(reason, 0.0) >= least_s or (reason in reasons and gap_s >= least_s)
            changed_at[reason] = now
        before = reasons


def test_a_gpu_that_tells_no_more_is_no_reason() -> None:
    """It fell off its bus, or the reader gave up: the pause ends as if all were well."""
    machine = Watched()

    assert machine.sees(gpu(others=0.9), 4) == (PauseReason.GPU,)
    assert machine.sees(noon(), 60) == ()
