"""Bookkeeping of faults: when is a node back, and what did a kill cost?"""

from lowcomm_node.cli.swarm.cases import Case, Pulse
from lowcomm_node.cli.swarm.chaos import Blow, Fault
from tests.cli.swarm_fakes import status


def _case(fault: Fault, before: Pulse | None = None, *, seconds: float = 0.0) -> Case:
    blow = Blow(fault=fault, node="n1", seconds=seconds)
    return Case(blow=blow, subject="n1", began_s=10.0, before=before or Pulse())


def test_a_node_is_back_when_it_has_stepped_and_met_after_the_end() -> None:
    """What it says first may be from before or during the fault, so only growth counts."""
    case = _case(Fault.FREEZE, seconds=5.0)
    case.observe(status(steps=100, completed=9), 12.0, "")
    case.end(15.0)
    case.observe(status(steps=100, completed=9), 16.0, "")
    seen = [(case.is_open, case.trained_s)]
    case.observe(status(steps=101, completed=9), 17.0, "")
    seen.append((case.is_open, case.trained_s))
    case.observe(status(steps=105, completed=10), 18.0, "")

    assert seen == [(True, None), (True, 17.0)]
    assert not case.is_open
    assert case.met_s == 18.0
    assert case.lost_steps is None


def test_a_new_life_counts_anew() -> None:
    """Counters that go back are those of a replacement: its own growth is asked for."""
    case = _case(Fault.KILL_TRAINER)
    case.end(11.0)
    for second, steps in ((12.0, 100), (13.0, 2)):
        case.observe(status(steps=steps, completed=5), second, "state_downloaded")
    assert case.trained_s is None
    case.observe(status(steps=3, completed=6), 14.0, "state_downloaded")

    assert not case.is_open


def test_a_node_that_starts_is_not_back() -> None:
    """Only one that trains, or has finished, which needs no more meetings."""
    case = _case(Fault.KILL)
    case.end(11.0)
    case.observe(status(state="syncing", steps=1), 12.0, "")
    assert case.trained_s is None
    case.observe(status(state="finished", steps=100), 13.0, "")

    assert not case.is_open


def test_lost_work_hangs_on_what_the_node_came_back_with() -> None:
    """A donor knows what it did until its last meeting; its own state holds what it had saved."""
    before = Pulse()
    before.feel(status(steps=80, completed=3), 1.0)
    before.feel(status(steps=90, completed=4), 2.0)
    before.feel(status(steps=97, completed=4), 3.0)

    def lost(fault: Fault, log: str, steps: int) -> tuple[int | None, str]:
        case = _case(fault, before)
        case.end(11.0)
        case.observe(status(steps=steps), 12.0, log)
        return case.lost_steps, case.came_back_with

    assert lost(Fault.KILL, "... state_downloaded ...", 1) == (7, "donor")
    assert lost(Fault.KILL, "loaded", 60) == (37, "own state")
    assert lost(Fault.KILL_TRAINER, "loaded", 97) == (0, "own state")
    assert lost(Fault.END_FIRST, "", 5000) == (7, "")
    assert lost(Fault.FREEZE, "", 97) == (None, "")


def test_a_trainer_that_has_not_told_anything_has_lost_nothing() -> None:
    """The incident: a status before the first report of a new trainer, and its 688 steps were counted as lost."""
    before = Pulse()
    before.feel(status(steps=97, completed=4), 3.0)
    case = _case(Fault.KILL_TRAINER, before)
    case.end(11.0)

    case.observe(status(steps=0, completed=4), 12.0, "")
    seen = (case.lost_steps, case.came_back_with)
    case.observe(status(steps=96, completed=4), 13.0, "loaded")
    trained_s = [case.trained_s]
    case.observe(status(steps=97, completed=5), 14.0, "")
    trained_s.append(case.trained_s)

    assert seen == (None, "")
    assert (case.lost_steps, case.came_back_with, trained_s) == (1, "own state", [None, 14.0])


def test_a_pulse_follows_a_node_through_its_lives() -> None:
    """A restart with an own state goes on counting steps; one with a donor's state has met nobody yet."""
    pulse = Pulse()
    pulse.feel(status(steps=50, completed=2), 1.0)
    pulse.feel(status(steps=50, completed=0), 5.0)
    assert (pulse.steps_when_met, pulse.stepped_s) == (50, 1.0)
    pulse.feel(status(steps=4, completed=0), 6.0)
    assert (pulse.steps_when_met, pulse.stepped_s) == (0, 6.0)
    met = status(steps=9, completed=1)
    met.meetings.last_meeting_ago_seconds, met.training.step_seconds = 0.7, 0.2
    pulse.feel(met, 7.0)
    assert pulse.steps_when_met == 6


def test_training_that_needs_no_network_is_seen_to_go_on() -> None:
    """A cut line or a full disk must not stop it; a fault of a moment tells nothing."""
    before = Pulse()
    before.feel(status(steps=50), 9.0)

    def through(fault: Fault, steps: int, lasted_s: float) -> bool | None:
        case = _case(fault, before, seconds=lasted_s)
        case.end(10.0 + lasted_s)
        case.observe(status(steps=steps), 11.0 + lasted_s, "")
        return case.trained_through

    assert through(Fault.CUT_LINE, 60, 8.0) is True
    assert through(Fault.FULL_DISK, 50, 8.0) is False
    assert through(Fault.FULL_DISK, 50, 2.0) is None
    assert through(Fault.FREEZE, 50, 8.0) is None
