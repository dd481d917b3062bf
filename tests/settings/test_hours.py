"""Spans of the day."""

import pytest

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.hours import parse_hours
from lowcomm_node.settings.load import build
from lowcomm_node.settings.node import NodeSettings


def test_spans_are_minutes() -> None:
    assert parse_hours("") == ()
    assert parse_hours("22:00-07:05, 12:00-24:00") == ((1320, 425), (720, 1440))


@pytest.mark.parametrize(
    "text", ["7-9", "24:00-25:00", "12:60-13:00", "12:00-12:00", "12:00-24:01", "12:00", "08:00-09:00,,"]
)
def test_what_is_no_span_is_refused_and_named(text: str) -> None:
    """With the key, the value and what would be right."""
    with pytest.raises(ConfigError, match=r'bandwidth\.quiet_hours.*"22:00-07:00"'):
        build(NodeSettings, {"bandwidth": {"quiet_hours": text}}, "x")


def test_a_cap_that_partners_would_take_for_death_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"bandwidth\.up_mbit_per_s = 0\.1.*at least 0\.5"):
        build(NodeSettings, {"bandwidth": {"up_mbit_per_s": 0.1}}, "x")
