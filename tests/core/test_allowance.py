"""What the owner allows: hours and a month's budget."""

from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.core.allowance import Allowance, LineState

_NIGHT = ((22 * 60, 7 * 60),)
_NOON = ((12 * 60, 13 * 60 + 30),)


def state(allowance: Allowance, *, minute: int = 0, used: float = 0.0, share: float = 0.0) -> LineState:
    return allowance.line_state(minute_of_day=minute, used_bytes=used, month_share=share)


def test_without_rules_the_line_is_open() -> None:
    assert state(Allowance(), minute=700, used=1e15, share=1.0) is LineState.OPEN


def test_quiet_hours_begin_and_end_on_the_minute() -> None:
    """The beginning belongs to them, the end does not; over midnight as well as within a day."""
    quiet = {
        minute for minute in range(24 * 60) if state(Allowance(quiet_hours=_NIGHT), minute=minute) is LineState.QUIET
    }
    noon = {
        minute for minute in range(24 * 60) if state(Allowance(quiet_hours=_NOON), minute=minute) is LineState.QUIET
    }

    assert quiet == set(range(22 * 60, 24 * 60)) | set(range(7 * 60))
    assert noon == set(range(12 * 60, 13 * 60 + 30))


@given(cost=st.floats(1e-4, 0.02), busy=st.floats(0.01, 1.0))
def test_a_budget_stretches_the_period_and_is_never_exceeded(cost: float, busy: float) -> None:
    """Meetings that would cost more than the budget become rarer all month, and never stop for longer than two days' pace."""
    allowance = Allowance(month_bytes=100.0)
    used, last, longest = 0.0, 0.0, 0.0
    for look in range(3000):
        share = look / 3000
        if look * busy % 1 < busy and state(allowance, used=used, share=share) is LineState.OPEN:
            used += 100.0 * cost
            longest, last = max(longest, share - last), share
    assert used <= 100.0 * (1 + cost)
    assert longest <= cost + 0.01 + 1 / (3000 * busy)


def test_a_used_up_budget_waits_for_the_next_month() -> None:
    """Also when it was used up at once, as by a download that is larger than the budget."""
    allowance = Allowance(month_bytes=100.0)

    assert state(allowance, used=100.0, share=1.0) is LineState.SAVING
    assert state(allowance, used=100.0, share=0.01) is LineState.SAVING
    assert state(allowance, used=0.0, share=0.0) is LineState.OPEN


def test_when_the_line_opens_again_is_known() -> None:
    """To the minute and over midnight; spans that touch are one; a budget to the share of the month."""
    evening = Allowance(quiet_hours=((18 * 60, 22 * 60), *_NIGHT))
    assert [evening.quiet_for_min(minute) for minute in (17 * 60 + 59, 18 * 60, 23 * 60, 6 * 60 + 59, 7 * 60)] == [
        0, 13 * 60, 8 * 60, 1, 0,
    ]  # fmt: skip
    assert Allowance(quiet_hours=((0, 12 * 60), (12 * 60, 24 * 60))).quiet_for_min(60) == 24 * 60

    budget = Allowance(month_bytes=100.0)
    until = budget.saves_until(50.0)
    assert state(budget, used=50.0, share=until - 0.001) is LineState.SAVING
    assert state(budget, used=50.0, share=until + 0.001) is LineState.OPEN
    assert budget.saves_until(500.0) == 1.0
