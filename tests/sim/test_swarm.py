"""Nodes that come and go in a virtual swarm."""

from fractions import Fraction
from functools import partial

from tests.core.exact_trainer import ExactTrainer, exact_swarm


def test_a_seed_replays_restarts_and_removals_too() -> None:
    """Connections of a node that dies end in the order in which they were made: that of a set differs from run to run."""
    histories = []
    for _ in range(3):
        history = []
        for seed in range(2):
            swarm = exact_swarm(5, seed=seed, faults=0.2)
            for second in range(1, 12):
                swarm.at(second + 0.3, partial(swarm.restart, swarm[second % 4]))
            swarm.at(6.0, partial(swarm.remove, swarm[4]))
            swarm.run(15.0)
            history.append([(n.name, n.trainer.value, tuple(n.reports)) for n in swarm.nodes.values()])
        histories.append(history)

    assert histories[0] == histories[1] == histories[2]


def test_a_newcomer_takes_part_and_one_who_is_gone_is_heard_of_no_more() -> None:
    """Those who stay end all their meetings, also those with the machine that has vanished."""
    swarm = exact_swarm(4, seed=3, faults=0.05)
    swarm.run(5.0)
    gone = swarm[1]
    swarm.remove(gone)
    newcomer = swarm.add(ExactTrainer(Fraction(7)), is_ready=False)
    told = len(gone.reports)
    swarm.run(8.0)
    assert not newcomer.trainer.applied

    swarm.make_ready(newcomer)
    swarm.run(30.0)
    swarm.settle()

    assert newcomer.trainer.applied
    assert len(gone.reports) == told
    assert all(node.core.is_settled() for node in swarm.nodes.values())
