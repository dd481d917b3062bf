"""One node that sleeps once: who, when, for how long."""

from lowcomm_node.cli.swarm.chaos import Blow, Fault
from lowcomm_node.cli.swarm.nap import AWAKE_S, Nap

_NODES = ["n0", "n1", "n2", "n10"]


def _due(nap: Nap, elapsed_s: float, healthy: list[str]) -> Blow | None:
    victims = {Fault.SLEEP: healthy[1:], Fault.KILL: healthy[1:]}
    return nap.due(elapsed_s=elapsed_s, share_done=0.0, victims=victims, healthy=healthy)


def test_the_newest_node_sleeps_once() -> None:
    """For as long as was asked for, and nothing else ever happens."""
    nap = Nap(600.0)

    assert _due(nap, AWAKE_S, _NODES) == Blow(fault=Fault.SLEEP, node="n10", seconds=600.0)
    assert [_due(nap, AWAKE_S + second, _NODES) for second in range(100)] == [None] * 100


def test_it_waits_until_the_nodes_have_met_and_two_are_left() -> None:
    """A node that sleeps before anybody knows it, or from a swarm that has nobody else to meet, would show nothing."""
    nap = Nap(1.0)

    assert _due(nap, AWAKE_S - 1, _NODES) is None
    assert _due(nap, AWAKE_S, _NODES[:2]) is None
    assert nap.due(elapsed_s=AWAKE_S, share_done=0.0, victims={}, healthy=_NODES) is None
    assert _due(nap, AWAKE_S + 5, _NODES[:3]) == Blow(fault=Fault.SLEEP, node="n2", seconds=1.0)
