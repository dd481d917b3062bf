"""Meetings of killed, frozen and cut off nodes, judged by the logs of both ends."""

import json

from lowcomm_node.cli.swarm.halves import Death, Half, Outcome, examine_meetings, read_outcomes

NAMES = {"id-a": "a", "id-b": "b", "id-c": "c"}


def _end(node: str, partner: str, result: str, time_s: float = 100.0, meeting: str = "m") -> Outcome:
    return Outcome(node=node, partner=f"id-{partner}", meeting=meeting, result=result, reason="why", time_s=time_s)


def _examine(*ends: Outcome, deaths: tuple[Death, ...] = ()) -> list[Half]:
    return examine_meetings(ends, deaths, NAMES, memory_s=60.0)


def test_ends_that_agree_are_no_half() -> None:
    """Both completed, both failed, or one alone that nobody contradicts: its partner was killed before it could say so."""
    assert _examine(_end("a", "b", "completed"), _end("b", "a", "completed")) == []
    assert _examine(_end("a", "b", "failed"), _end("b", "a", "failed")) == []
    assert _examine(_end("a", "b", "completed")) == []


def test_a_completed_and_a_failed_end_are_a_half_that_nobody_counted() -> None:
    """The node that applied names its partner; nothing explains it."""
    (half,) = _examine(_end("a", "b", "completed"), _end("b", "a", "failed"))

    assert (half.node, half.partner, half.explanation) == ("a", "b", "")


def test_an_offer_that_went_to_a_second_peer_is_another_meeting() -> None:
    """The id is the same; the first peer's failure says nothing about the second one's success."""
    assert _examine(_end("b", "a", "failed"), _end("a", "c", "completed"), _end("c", "a", "completed")) == []


def test_a_half_whose_partner_completed_has_only_lost_its_last_word() -> None:
    """The answerer never heard the confirmation of what both have applied."""
    (half,) = _examine(_end("a", "b", "half"), _end("b", "a", "completed"))

    assert half.explanation == "applied by both"


def test_a_death_explains_halves_of_its_time_only() -> None:
    """Of the node that was killed and of its partners, and for as long as a verdict is waited for."""
    half = _end("a", "b", "half", time_s=100)

    def explanation(node: str, time_s: float) -> str:
        (found,) = _examine(half, deaths=(Death(node=node, time_s=time_s),))
        return found.explanation

    assert explanation("b", 50) == explanation("a", 99) == "death"
    assert explanation("b", 39) == explanation("b", 101) == explanation("c", 50) == ""


def test_a_meeting_that_one_node_completes_twice_is_reported() -> None:
    """At most once is half of the promise."""
    (half,) = _examine(_end("a", "b", "completed"), _end("a", "b", "completed"), _end("b", "a", "completed"))

    assert (half.node, half.explanation) == ("a", "")


def test_logs_are_read_line_by_line() -> None:
    """What is no end of a meeting, and a line that a kill has cut, is passed over."""
    entry = {"event": "meeting_half", "meeting": "m", "partner": "id-b", "reason": "no_verdict"}
    entry["time"] = "1970-01-01T00:01:40.000000Z"
    line = json.dumps(entry)
    lines = ["exchanging params", json.dumps({"event": "meeting_started"}), line[:60], line, "[]", '"meeting_half"']

    (outcome,) = read_outcomes("a", lines)

    assert outcome == Outcome(node="a", partner="id-b", meeting="m", result="half", reason="no_verdict", time_s=100.0)


def test_a_long_sleep_explains_what_a_death_does() -> None:
    """Partners stop waiting for a verdict before it is over: nobody can know any more."""
    half = _end("a", "b", "half", time_s=100)

    (found,) = _examine(half, deaths=(Death(node="b", time_s=50, kind="sleep"),))

    assert found.explanation == "sleep"
