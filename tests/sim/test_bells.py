"""Virtual nodes behind routers, on a network that breaks: bells and punched holes carry meetings, and lose none of them."""

from collections import Counter
from fractions import Fraction
from random import Random

import pytest

from lowcomm_node.core.events import Member, MembersSeen, ReachabilityMeasured
from lowcomm_node.sim.conditions import Trouble
from lowcomm_node.sim.link import virtual_peer
from lowcomm_node.sim.swarm import Node, VirtualSwarm, rules
from lowcomm_node.units import LinkKind, PeerId, Reachability
from tests.core.exact_trainer import ExactTrainer

NUM_NODES = 8
CLOSED = {virtual_peer(index) for index in range(3, NUM_NODES)}
SYMMETRIC = {virtual_peer(index) for index in range(6, NUM_NODES)}
"""Among themselves, and with other closed nodes, they have no way."""
ALL = frozenset(LinkKind)


class Routers(Trouble):
    """Trouble, and most nodes cannot be dialled."""

    def dial(self, dialler: PeerId, answerer: PeerId, now: float) -> float | None:
        return 0.5 if answerer in CLOSED else super().dial(dialler, answerer, now)

    def can_punch(self, one: PeerId, other: PeerId, now: float) -> bool:
        return not ({one, other} <= CLOSED and {one, other} & SYMMETRIC)


class Swarm(VirtualSwarm[ExactTrainer]):
    """Each node looks around every two seconds, as its poll does."""

    def introduce(self, node: Node[ExactTrainer]) -> None:
        if node.name in CLOSED:
            self.feed(node, ReachabilityMeasured(reachability=Reachability.OUTBOUND_ONLY))
        self._look(node)

    def _look(self, node: Node[ExactTrainer]) -> None:
        members = tuple(
            Member(
                peer=name,
                grpc_address="" if name in CLOSED else name,
                progress_steps=0,
                has_state=True,
                expires_at=1e9,
                reachability=Reachability.OUTBOUND_ONLY if name in CLOSED else Reachability.PUBLIC,
            )
            for name in self.nodes
        )
        self.feed(node, MembersSeen(members=members))
        if self.is_stepping:
            self.at(2.0, lambda: self._look(node))


def swarm(seed: int, faults: float) -> Swarm:
    chance = Random(seed)
    trainers = [ExactTrainer(Fraction(chance.randrange(-1000, 1000))) for _ in range(NUM_NODES)]
    return Swarm(
        trainers,
        seed=seed,
        conditions=Routers(Random(f"network {seed}"), faults=faults),
        make_rules=lambda own, chance: rules(own, chance, verdict_keep_s=120.0),  # time for a dozen attempts
    )


def check(meeting: Swarm, first: Fraction) -> None:
    """Both ends or neither, as the sum shows. What is counted as half where a verdict or its confirmation was lost may be neither."""
    meeting.settle()
    for node in meeting.nodes.values():
        assert node.core.is_settled()
    assert sum(node.trainer.value - node.trainer.drift for node in meeting.nodes.values()) == first


@pytest.mark.parametrize("faults", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_no_half_meeting_however_it_travels(seed: int, faults: float) -> None:
    """The sum of all values is untouched, exactly; every link is used; and nobody meets where there is no way."""
    meeting = swarm(seed, faults)
    first = sum((node.trainer.value for node in meeting.nodes.values()), Fraction(0))
    meeting.run(60.0)
    check(meeting, first)

    links: Counter[LinkKind] = Counter()
    for node in meeting.nodes.values():
        for report in node.reports:
            if report.outcome == "completed":
                links[report.link] += 1
                assert not ({node.name, report.peer} <= CLOSED and {node.name, report.peer} & SYMMETRIC)
    assert set(links) == ALL


def test_bells_that_are_lost_are_hung_again() -> None:
    """A node that can be dialled restarts, and those whose bell it held lose nothing but a moment."""
    meeting = swarm(1, 0.05)
    first = sum((node.trainer.value for node in meeting.nodes.values()), Fraction(0))
    for at_s in (10.0, 20.0, 30.0):
        meeting.at(at_s, lambda: meeting._bells.cut(meeting[0]))
    meeting.run(60.0)

    for index in range(3, NUM_NODES):
        assert meeting[0].name in meeting[index].core.reach.bells()
    check(meeting, first)


def test_without_trouble_no_meeting_finds_its_door_closed() -> None:
    """A partner is chosen among those to whom there is a way: none is unreachable."""
    meeting = swarm(2, 0.0)
    meeting.run(60.0)

    failed = Counter(r.reason for node in meeting.nodes.values() for r in node.reports if r.outcome == "failed")
    assert set(failed) <= {"busy", "yielded", "no_partner"}
