"""cli.words: numbers as people read them, at the edges where units change."""

import pytest

from lowcomm_node.cli.words import ago, amount, count, duration, printable, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3725, "1 h 2 min"),
        (90061, "1 d 1 h"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    """Rounding never gives 60 of anything."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 B"), (999, "999 B"), (1000, "0.977 KiB"), (1536, "1.5 KiB"), (1 << 30, "1 GiB")]
)
def test_sizes_are_powers_of_1024(num_bytes: int, text: str) -> None:
    """Three significant digits, never an exponent."""
    assert size(num_bytes) == text


@pytest.mark.parametrize(("number", "text"), [(999, "999"), (999.7, "1 k"), (1250, "1.25 k"), (3.1e9, "3.1 G")])
def test_amounts_are_powers_of_1000(number: float, text: str) -> None:
    """Three significant digits, never an exponent."""
    assert amount(number) == text


def test_the_rest() -> None:
    """One is singular, before the first time is never, and control characters are made visible."""
    assert (count(1, "step"), count(1200, "step")) == ("1 step", "1,200 steps")
    assert (ago(-1), ago(3)) == ("never", "3.0 s ago")
    assert printable("a\x1b[2J\nb\u202e") == "a\ufffd[2J\ufffdb\ufffd"
