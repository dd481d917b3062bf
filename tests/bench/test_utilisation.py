"""Shares of time and of lines, by hand."""

import pytest

from lowcomm_node.bench.utilisation import PUBLISHED, PUBLISHED_MODEL, Meeting, line_figures, ring_seconds

_MEETING = Meeting(
    coding="default", offer_bytes=1_000_000, answer_bytes=500_000, close_bytes=0, initiator_s=0.2, answerer_s=0.3
)


def test_their_model_has_their_size() -> None:
    assert round(PUBLISHED_MODEL.num_parameters / 1e6, 1) == 30.8


def test_line_that_is_fast_enough_leaves_the_period_alone() -> None:
    """Ten steps of a second and half a second of codecs; a meeting of two seconds ends within them."""
    found = line_figures(
        _MEETING,
        parameters=1_000_000,
        rate_mbit=6.0,
        meeting_s=2.0,
        is_measured=True,
        step_s=1.0,
        period_steps=10,
        is_codec_known=True,
    )

    assert found.steps_between == pytest.approx(10.0)
    assert found.going_share == pytest.approx(10 / 10.5)
    assert found.line_share == pytest.approx(2.0 / 10.5)
    assert found.standing_share == pytest.approx(128 / (128 + 2.5))
    assert found.ring_share == pytest.approx(128 / (128 + 8.0))  # 1.5 x 4 MB over 6 Mbit/s
    assert found.published_share is None


def test_line_that_is_too_slow_makes_meetings_rarer() -> None:
    """A meeting of forty seconds in a period of ten: training goes on, four times as long between two meetings."""
    found = line_figures(
        _MEETING,
        parameters=1_000_000,
        rate_mbit=0.3,
        meeting_s=40.0,
        is_measured=True,
        step_s=1.0,
        period_steps=10,
        is_codec_known=True,
    )

    assert found.steps_between == pytest.approx(40.0)
    assert found.going_share == pytest.approx(40 / 40.5)
    assert found.line_share == pytest.approx(40 / 40.5)


def test_published_share_is_near_what_its_own_bytes_say() -> None:
    """A full line would have given them a little more at each rate but the fastest, where other things count."""
    for rate_mbit in (50.0, 200.0, 1000.0):
        compute_s = PUBLISHED.steps_in_window * PUBLISHED.step_s
        ring_s = ring_seconds(PUBLISHED_MODEL.num_parameters, PUBLISHED.nodes, rate_mbit)
        share = PUBLISHED.share_at(rate_mbit)
        assert share is not None
        assert 0.8 < share / (compute_s / (compute_s + ring_s)) < 1.1


def test_codecs_of_another_machine_are_left_out() -> None:
    """A step on a GPU says nothing about codecs on a processor."""
    found = line_figures(
        _MEETING, parameters=1_000_000, rate_mbit=6.0, meeting_s=2.0, is_measured=True, step_s=0.1, period_steps=10,
        is_codec_known=False,
    )  # fmt: skip

    assert found.going_share is None
    assert found.steps_between == pytest.approx(20.0)
    assert found.standing_share == pytest.approx(12.8 / 14.8)
