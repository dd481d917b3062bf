"""Fixtures of the adapters' tests."""

import pytest

from lowcomm_node.units import MeetingId


@pytest.fixture
def meeting_id() -> MeetingId:
    return MeetingId("0123456789abcdef" * 2)
