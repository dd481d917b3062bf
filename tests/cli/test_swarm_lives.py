"""Counting over the lives of nodes that are killed and come back."""

import pytest

from lowcomm_node.cli.swarm.lives import Ledger, ddp_bytes
from tests.cli.swarm_fakes import status


def test_the_counters_of_a_killed_life_are_kept() -> None:
    """Bytes, meetings and waits of a process are added to those of the process that replaces it."""
    ledger = Ledger()
    ledger.begin("n1", 0.0)
    ledger.observe("n1", status(steps=40, completed=4, failed={"busy": 1}, sent={("params", "ab"): 400}), 5.0)
    ledger.end("n1", "killed")
    ledger.begin("n1", 8.0)
    ledger.observe(
        "n1",
        status(steps=1, completed=3, half=1, failed={"busy": 1, "timeout": 2}, sent={("params", "dense"): 50}),
        10.0,
    )

    assert ledger.meetings_completed == 4
    assert ledger.meetings_half == 1
    assert ledger.meetings_failed == {"busy": 2, "timeout": 2}
    assert ledger.bytes_sent == {"params": {"ab": 400, "dense": 50}}
    assert ledger.bytes_sent_total == 450
    assert ledger.count("killed") == 1
    assert ledger.lives_of("n1") == 2


def test_a_meeting_that_both_ends_counted_is_one_meeting() -> None:
    """Half the sum over all nodes; an odd one is a meeting whose other end died with its count."""
    ledger = Ledger()
    for name, completed in (("n0", 5), ("n1", 3), ("n2", 3)):
        ledger.begin(name, 0.0)
        ledger.observe(name, status(completed=completed), 1.0)

    assert ledger.meetings_completed == 6


@pytest.mark.parametrize("resumed_at", [0, 33])
def test_steps_of_a_later_life_are_counted_from_where_it_began(resumed_at: int) -> None:
    """A node may start again at zero or at its checkpoint: neither loses nor counts twice what came before."""
    ledger = Ledger()
    ledger.begin("n1", 0.0)
    ledger.observe("n1", status(steps=5), 1.0)
    ledger.observe("n1", status(steps=40), 5.0)
    ledger.end("n1", "killed")
    ledger.begin("n1", 6.0)
    ledger.observe("n1", status(state="syncing", steps=0), 7.0)
    ledger.observe("n1", status(steps=resumed_at), 8.0)
    ledger.observe("n1", status(steps=resumed_at + 20), 12.0)

    assert ledger.steps == ledger.steps_of("n1") == 60
    assert ledger.tokens == 600


def test_the_first_life_counts_from_zero() -> None:
    """What was done before the first look was done all the same."""
    ledger = Ledger()
    ledger.begin("n0", 0.0)
    ledger.observe("n0", status(steps=12), 3.0)

    assert ledger.steps == 12
    assert ledger.tokens == 120


def test_tokens_per_second_leave_out_starts_and_death() -> None:
    """100 tokens in 2 s, then dead for 50 s, then 300 tokens in 2 s: 100 a second; the rest after the end counts not."""
    ledger = Ledger()
    ledger.begin("n1", 0.0)
    ledger.observe("n1", status(steps=10), 10.0)
    ledger.observe("n1", status(steps=20), 12.0)
    ledger.begin("n1", 60.0)
    ledger.observe("n1", status(steps=100), 62.0)
    ledger.observe("n1", status(steps=130), 64.0)
    ledger.observe("n1", status(state="finished", steps=130), 99.0)

    assert ledger.tokens_per_second("n1") == pytest.approx(100.0)


def test_a_node_that_never_answered_counts_for_nothing() -> None:
    """It is listed, with zeros."""
    ledger = Ledger()
    ledger.begin("n0", 0.0)

    assert ledger.nodes == ("n0",)
    assert (ledger.steps, ledger.tokens, ledger.meetings_completed, ledger.bytes_sent_total) == (0, 0, 0, 0)
    assert ledger.tokens_per_second("n0") == 0.0
    assert ledger.blocked_seconds == {"meeting": 0.0}


def test_an_ending_that_was_stated_stays() -> None:
    """A node that was killed did not leave in order, whatever is said when the swarm stops."""
    ledger = Ledger()
    ledger.begin("n1", 0.0)
    ledger.end("n1", "killed")
    ledger.end("n1", "left")

    assert ledger.current("n1").ending == "killed"


def test_waits_are_summed_by_cause() -> None:
    """The cause meeting is always there, because its zero is the claim."""
    ledger = Ledger()
    for name in ("n0", "n1"):
        ledger.begin(name, 0.0)
        ledger.observe(name, status(blocked={"data": 0.25, "sync": 1.0}), 1.0)

    assert ledger.blocked_seconds == {"meeting": 0.0, "data": 0.5, "sync": 2.0}


def test_ddp_bytes_are_those_of_a_ring() -> None:
    """4 nodes, 1000 parameters, 10 steps of each: 2 * 3/4 * 4000 bytes for each of the 40 node steps."""
    assert ddp_bytes(4, 1000, 40) == 6000 * 40
    assert ddp_bytes(1, 1000, 40) == 0
