"""Downloads beside meetings, on a virtual clock."""

from lowcomm_node.core.pacing import Pacer

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
