"""Machines that serve meetings between their steps."""

from random import Random

import pytest

from lowcomm_node.core.commands import ApplyClose, DropMeeting, EncodeOffer, SettleMeeting
from lowcomm_node.core.messages import Close
from lowcomm_node.sim.machine import Machine
from lowcomm_node.sim.machines import AssumedMachines, RecordedMachines
from lowcomm_node.sim.requests import Request
from lowcomm_node.sim.scenario import Scenario, Speeds
from lowcomm_node.units import MeetingId, PeerId, Stream

_A = PeerId("a")
_OFFER = EncodeOffer(meeting_id=MeetingId("m"), streams=(Stream.PARAMS,))
_DROP = DropMeeting(meeting_id=MeetingId("m"))


def recorded(*steps_s: float) -> RecordedMachines:
    """One that takes a quarter of a second for an offer."""
    works_s = {(request, "params"): (0.25,) for request in Request}
    machines = RecordedMachines(Machine(steps_s=steps_s, works_s=works_s, latency_s=0.0), Random(0))
    machines.add(_A)
    return machines


def test_a_request_waits_for_the_end_of_the_step_and_puts_off_the_next() -> None:
    """It is asked for in the middle of a step, served after it, and the next step follows."""
    machines = recorded(1.0)

    assert machines.step_s(_A, 0.0) == 1.0
    assert machines.serve_s(_A, _OFFER, 0.75) == pytest.approx(0.25 + 0.25)
    assert machines.put_off_s(_A, 1.0) == 0.0
    assert machines.step_s(_A, 1.0) == pytest.approx(0.25 + 1.0)


def test_requests_are_served_one_after_the_other_and_all_before_the_next_step() -> None:
    """Also one that comes while another is served; the end of the step that was about to begin moves with it."""
    machines = recorded(1.0)
    machines.step_s(_A, 0.0)

    assert machines.serve_s(_A, _OFFER, 0.5) == pytest.approx(0.75)
    assert machines.serve_s(_A, _OFFER, 0.5) == pytest.approx(1.0)
    assert machines.step_s(_A, 1.0) == pytest.approx(1.5)
    assert machines.serve_s(_A, _OFFER, 1.25) == pytest.approx(0.5)
    assert machines.put_off_s(_A, 2.5) == pytest.approx(0.25)
    assert machines.serve_s(_A, _OFFER, 2.0) == pytest.approx(0.75 + 0.25)


def test_what_a_step_s_end_brings_about_waits_for_the_whole_next_step() -> None:
    """By the time the daemon has heard of the step and asks, the trainer is at the next one."""
    machines = recorded(1.0)
    machines.step_s(_A, 0.0)

    assert machines.serve_s(_A, _OFFER, 1.0) == pytest.approx(1.0 + 0.25)
    assert machines.step_s(_A, 1.0) == pytest.approx(1.0)


def test_forgetting_a_meeting_is_no_work() -> None:
    """Nor is a request of a meeting nobody has heard of."""
    machines = recorded(1.0)
    machines.step_s(_A, 0.0)
    close = Close(meeting_id=MeetingId("?"), parts=())

    assert machines.serve_s(_A, _DROP, 0.5) == 0.5
    assert machines.serve_s(_A, ApplyClose(close=close), 0.5) == 0.5
    assert machines.serve_s(_A, SettleMeeting(meeting_id=MeetingId("?")), 0.5) == 0.5


def test_steps_are_as_uneven_as_they_were() -> None:
    """All lengths that were seen, as often as they were."""
    machines = recorded(0.1, 0.1, 0.4)
    now, steps_s = 0.0, []
    for _ in range(600):
        steps_s.append(machines.step_s(_A, now))
        now += steps_s[-1]

    assert sum(step_s > 0.3 for step_s in steps_s) == pytest.approx(200, abs=40)
    assert min(steps_s) == pytest.approx(0.1)


@pytest.mark.parametrize(("speeds", "slowest"), [(Speeds.EQUAL, 1.0), (Speeds.UNEQUAL, 8.0)])
def test_assumed_machines_differ_as_told(speeds: Speeds, slowest: float) -> None:
    """A step takes its machine's length within a tenth, a request at most a step and its work."""
    machines = AssumedMachines(Scenario(speeds=speeds, step_s=1.0, serve_s=0.25), Random(0), stride=3)
    machines.add(_A)

    for _ in range(100):
        assert 0.9 * 3 <= machines.step_s(_A, 0.0) <= 1.1 * 3 * slowest
        assert 0.25 <= machines.serve_s(_A, _OFFER, 0.0) <= 0.25 + slowest
    assert machines.put_off_s(_A, 0.0) == 0.0
