"""Capped lines, and downloads beside meetings, on a virtual clock."""

from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.core.pacing import Cap, Pacer

_CHUNK = 1_000_000


def sent_in(pacer: Pacer, seconds: float, *, since: float = 0.0, is_meeting: bool) -> int:
    """Bytes that a download which is always ready to go on sends in this time over an endless line."""
    now, sent = since, 0
    while True:
        now += pacer.wait_s(_CHUNK, now, is_meeting=is_meeting)
        if now >= since + seconds:
            return sent
        sent += _CHUNK
        if not is_meeting:
            now += 0.01


def test_during_a_meeting_downloads_keep_to_the_rate() -> None:
    """On average; the first chunk may go at once."""
    assert sent_in(Pacer(2e6), 10.0, is_meeting=True) == 20 * _CHUNK


def test_two_downloads_share_the_rate() -> None:
    """The rate is the node's, not each download's."""
    pacer = Pacer(2e6)

    waits = [pacer.wait_s(_CHUNK, 0.0, is_meeting=True) for _ in range(4)]

    assert waits == [0.0, 0.5, 1.0, 1.5]


def test_without_a_meeting_nothing_waits_and_nothing_is_owed() -> None:
    """What went out before a meeting does not make the download stand still in it, nor does a meeting's debt outlive it."""
    pacer = Pacer(1e6)

    assert sent_in(pacer, 1.0, is_meeting=False) > 90 * _CHUNK
    assert pacer.wait_s(_CHUNK, 2.0, is_meeting=True) == 0.0
    assert pacer.wait_s(_CHUNK, 2.0, is_meeting=True) == 1.0
    assert pacer.wait_s(_CHUNK, 2.1, is_meeting=False) == 0.0
    assert pacer.wait_s(_CHUNK, 2.2, is_meeting=True) == 0.0


@given(
    rate=st.floats(1e4, 1e9),
    pieces=st.lists(st.tuples(st.integers(1, 1 << 20), st.booleans(), st.floats(0.0, 0.5)), min_size=1, max_size=60),
)
def test_a_cap_holds_over_any_time(rate: float, pieces: list[tuple[int, bool, float]]) -> None:
    """Whatever is sent, and however urgent parts of it are: between two moments when the line was not owing, no more than rate x time."""
    cap = Cap(rate)
    now, begun, sent = 0.0, 0.0, 0
    for num_bytes, is_urgent, pause_s in pieces:
        wait_s = cap.wait_s(num_bytes, now, is_urgent=is_urgent)
        assert not (is_urgent and wait_s)
        now += wait_s
        sent += num_bytes
        if not is_urgent:
            assert sent <= rate * (now - begun) * (1 + 1e-6) + 1e-3
            begun, sent = now, 0
        now += pause_s


def test_a_busy_line_is_used_whole() -> None:
    """A payload of many frames takes as long as the cap says, within a thousandth; so do two that share the line."""
    for streams in (1, 2):
        cap = Cap(2.5e6)
        at = [0.0] * streams
        for _ in range(40):
            for stream in range(streams):
                at[stream] += cap.wait_s(256 << 10, at[stream])
        expected_s = 40 * streams * (256 << 10) / 2.5e6
        assert abs(max(at) - expected_s) < 1e-3 * expected_s


def test_urgent_frames_pass_a_payload_and_are_paid_for_behind_it() -> None:
    """A verdict does not wait for megabytes in front of it; the next payload frame waits a little longer instead."""
    cap = Cap(1e6)
    cap.wait_s(5_000_000, 0.0)

    assert cap.wait_s(1_000, 0.0, is_urgent=True) == 0.0
    assert cap.wait_s(1_000_000, 0.0) == 6.001


def test_no_cap_is_no_wait() -> None:
    assert Cap(0.0).wait_s(1 << 40, 0.0) == 0.0
