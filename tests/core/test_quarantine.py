"""Repeat offenders."""

from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.core.quarantine import OFFENCES, Quarantine
from lowcomm_node.errors import RefusalReason
from lowcomm_node.units import PeerId

EVE, BOB = PeerId("eve"), PeerId("bob")
WRONG = RefusalReason.MALFORMED


def offences(quarantine: Quarantine, *times: float, reason: RefusalReason = WRONG) -> list[float]:
    return [quarantine.offended(EVE, reason, now) for now in times]


def test_three_in_ten_minutes_are_too_many() -> None:
    """One or two are an accident, and so are three that lie far apart."""
    quarantine = Quarantine()

    assert offences(quarantine, 0.0, 300.0, 601.0, 700.0) == [0.0, 0.0, 0.0, 60.0]
    assert quarantine.left_s(EVE, 700.0) == 60.0
    assert quarantine.left_s(EVE, 759.0) == 1.0
    assert quarantine.left_s(EVE, 760.0) == 0.0
    assert quarantine.left_s(BOB, 700.0) == 0.0
    assert [quarantine.count(now) for now in (700.0, 760.0)] == [1, 0]


def test_whoever_goes_on_is_left_alone_for_longer() -> None:
    """Twice as long each time, up to an hour; what it does meanwhile adds nothing."""
    quarantine, now, lengths = Quarantine(), 0.0, []
    for _ in range(9):
        *_, length_s = offences(quarantine, now, now, now)
        lengths.append(length_s)
        assert offences(quarantine, now + 1.0, now + 2.0, now + 3.0) == [0.0, 0.0, 0.0]
        now += length_s + 1000.0

    assert lengths == [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0, 3600.0]


def test_what_can_happen_to_anybody_is_no_offence() -> None:
    """Another run or version, a clock that is off, a node that is busy, leaving, or new."""
    for reason in set(RefusalReason) - OFFENCES:
        assert not any(offences(Quarantine(), 0.0, 0.0, 0.0, 0.0, reason=reason))
    assert RefusalReason.WRONG_PROTOCOL not in OFFENCES
    assert RefusalReason.EXPIRED not in OFFENCES
    assert RefusalReason.WRONG_CERTIFICATE not in OFFENCES, "it is another who answers at the address"


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0, 100)), max_size=100))
def test_memory_is_bounded(story: list[tuple[int, float]]) -> None:
    """However many offend: so many are remembered."""
    quarantine, now = Quarantine(max_peers=5), 0.0
    for who, passed_s in story:
        now += passed_s
        length_s = quarantine.offended(PeerId(f"p{who}"), WRONG, now)
        assert len(quarantine) <= 5
        assert quarantine.left_s(PeerId(f"p{who}"), now) >= length_s
