"""Health by itself, and in swarms in virtual time: who is unfit heals, and nobody else does, whatever partners do."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest

from lowcomm_node.core.commands import GiveUp, Heal, HealReason
from lowcomm_node.core.events import MessageReceived, StepsTaken, TrainerReady
from lowcomm_node.core.health import Health
from lowcomm_node.core.messages import Refusal
from lowcomm_node.errors import RefusalReason
from lowcomm_node.sim.swarm import Node, VirtualSwarm
from lowcomm_node.units import PeerId, Stream
from tests.core.gossip_trainer import GossipTrainer, distance
from tests.core.test_node import core_with_partner, offer_from


def corrected(health: Health, peer: int, *, norm: float = 1.0, scale: float = 1.0, others: int = 20) -> None:
    health.corrected(
        PeerId(str(peer)),
        is_dense=False,
        norms=((Stream.PARAMS, norm),),
        scales=((Stream.PARAMS, scale),),
        num_others=others,
        now=0.0,
    )


def healthy(num_partners: int = 20) -> Health:
    """With thirty ordinary meetings behind it."""
    health = Health(4.0)
    for number in range(30):
        corrected(health, number % num_partners, others=num_partners)
    assert health.unwell is None
    return health


def test_some_steps_in_a_row_that_are_not_finite_are_an_illness() -> None:
    """Each was skipped, and the next one will be as bad. Reports may tell of several steps at once."""
    for stride in (1, 3, 7):
        health = Health(4.0)
        health.stepped(100, 2, 0.0)
        health.stepped(100 + 7 * stride, 2, 0.0)
        for number in range(1, 8):
            assert (health.unwell is None) == ((number - 1) * stride < 5)
            health.stepped(100 + (7 + number) * stride, 2 + number * stride, 0.0)
        assert health.unwell is HealReason.NONFINITE


def test_single_steps_that_are_not_finite_are_none() -> None:
    """A bad batch now and then is skipped, and training goes on; a new trainer counts anew."""
    health = Health(4.0)
    for nonfinite, steps in enumerate(range(2, 4000, 2)):
        health.stepped(steps % 1000, nonfinite % 500, 0.0)
    assert health.unwell is None


@pytest.mark.parametrize(("norm", "scale", "reason"), [(1.0, 0.1, HealReason.CLIPPED), (50.0, 1.0, HealReason.FAR)])
def test_whoever_is_far_from_all_is_far(norm: float, scale: float, reason: HealReason) -> None:
    """It takes the newest votes of eight different partners, or of all others in a small swarm."""
    for others, needed in ((20, 7), (5, 5), (3, 3)):
        health = healthy(others)
        for peer in range(needed):
            assert health.unwell is None
            corrected(health, peer, norm=norm, scale=scale, others=others)
        assert health.unwell is reason, others


@pytest.mark.parametrize("others", [1, 2, 20])
def test_one_partner_cannot_make_a_node_heal(others: int) -> None:
    """However often it meets us: it has one vote. Where there are only two others, nobody can say who is far."""
    health = healthy(others)
    for _ in range(100):
        corrected(health, 0, norm=1e6, scale=1e-3, others=others)
        if others == 2:
            corrected(health, 1, norm=1e6, scale=1e-3, others=others)
    assert health.unwell is None


def test_partners_that_are_near_outvote_those_that_are_not() -> None:
    """Six far ones of eight are a swarm in two parts, or many hostile ones: one of them need not be us."""
    health = healthy()
    for number in range(200):
        is_near = number % 4 == 3
        corrected(health, number % 20, norm=1.0 if is_near else 1e3, scale=1.0 if is_near else 0.1)
    assert health.unwell is None


@pytest.mark.parametrize("clip_ratio", [0.25, 1.0])
def test_a_run_that_clips_everything_makes_nobody_heal(clip_ratio: float) -> None:
    """An organiser may clip at less than the usual difference: half of it is then left of every correction."""
    health = Health(clip_ratio)
    for number in range(300):
        corrected(health, number % 20, scale=min(1.0, clip_ratio / 2))
    assert health.unwell is None


def test_whole_tensors_are_not_measured_by_what_low_rank_shows() -> None:
    """The last phase begins: all corrections are larger at once, and bounds are those of another codec."""
    health = healthy()
    for peer in range(16):
        health.corrected(
            PeerId(str(peer)),
            is_dense=True,
            norms=((Stream.PARAMS, 100.0),),
            scales=((Stream.PARAMS, 0.3),),
            num_others=20,
            now=0.0,
        )
    assert health.unwell is None


def test_heals_come_ever_more_rarely_and_end() -> None:
    """What a donor's state does not cure is the machine's fault: after some heals the node gives up and says so."""
    health = Health(4.0)
    now, healed_at, cures = 0.0, [], []
    while now < 24 * 3600:
        health.stepped(0, 0, now)
        health.stepped(9, 9, now)
        cure = health.cure(now)
        if cure is not None:
            cures.append(cure)
            healed_at.append(now)
            if isinstance(cure, GiveUp):
                break
            health.state_replaced(now)
        now += 5.0

    gaps_s = [after - before for before, after in pairwise(healed_at)]
    assert cures == [Heal(reason=HealReason.NONFINITE)] * 5 + [GiveUp(reason=HealReason.NONFINITE, num_heals=5)]
    assert gaps_s[0] >= 60.0
    assert all(later >= earlier for earlier, later in pairwise(gaps_s[:4]))
    assert health.cure(now + 1e6) is None


def test_a_node_that_is_healthy_for_long_is_forgiven() -> None:
    """A heal a day is no reason to end the node ever."""
    health = Health(4.0)
    for day in range(50):
        now = 86400.0 * day
        health.stepped(0, 0, now)
        health.stepped(9, 9, now)
        assert health.cure(now) == Heal(reason=HealReason.NONFINITE)
        health.state_replaced(now + 10.0)


def test_a_node_that_heals_takes_part_in_nothing() -> None:
    """Until a donor's state is in place it refuses offers, starts nothing, and its record says that it has no state."""
    core = core_with_partner("a", "b")
    core.handle(StepsTaken(steps=1), 0.0)
    states = [core.has_sound_state]

    assert core.handle(StepsTaken(steps=7, nonfinite_steps=6), 1.0) == [Heal(reason=HealReason.NONFINITE)]

    states.append(core.has_sound_state)
    (refusal, _) = core.handle(MessageReceived(message=offer_from("b", "a")), 2.0)
    assert getattr(refusal, "message", None) == Refusal(
        meeting_id=offer_from("b", "a").meeting_id, reason=RefusalReason.NOT_READY
    )
    assert not any(core.handle(StepsTaken(steps=steps, nonfinite_steps=steps), 3.0) for steps in range(8, 99))
    core.handle(TrainerReady(), 4.0)
    assert [*states, core.has_sound_state] == [True, False, True]


class HealingSwarm(VirtualSwarm[GossipTrainer]):
    """Writes down who healed why."""

    def __init__(self, trainers: list[GossipTrainer], *, seed: int) -> None:
        self.heals: list[tuple[int, HealReason]] = []
        super().__init__(trainers, seed=seed, faults=0.01)

    def heal(self, node: Node[GossipTrainer], reason: HealReason) -> None:
        self.heals.append((list(self.nodes).index(node.name), reason))
        super().heal(node, reason)

    def spread(self) -> float:
        honest = [node.trainer for node in self.nodes.values() if not node.trainer.is_hostile]
        return max(distance(a, b) for a in honest for b in honest)


def _poison_nan(trainer: GossipTrainer) -> None:
    trainer.value = (math.nan,) * len(trainer.value)


def _poison_far(trainer: GossipTrainer) -> None:
    trainer.value = tuple(x + 1e4 for x in trainer.value)


def _poison_flipped(trainer: GossipTrainer) -> None:
    trainer.value = tuple(-x for x in trainer.value)


@pytest.mark.parametrize(
    ("poison", "seeds", "fewest_heals"), [(_poison_nan, 2, 2), (_poison_far, 2, 2), (_poison_flipped, 6, 5)]
)
def test_a_poisoned_node_heals_and_drags_nobody(
    poison: Callable[[GossipTrainer], None], seeds: int, fewest_heals: int
) -> None:
    """Its weights go bad in the middle of a run: it takes over another node's, and no meeting has moved anybody beyond the clip.

    A flipped vector is near enough that meetings bring it back now and then before it is noticed; the swarm is sound either way.
    """
    num_heals = 0
    for seed in range(seeds):
        swarm = HealingSwarm([GossipTrainer() for _ in range(9)], seed=seed)
        swarm.run(30.0)
        usual = swarm.spread()
        poison(swarm[3].trainer)
        swarm.run(80.0)

        assert {index for index, _ in swarm.heals} <= {3}, f"seed {seed}: {swarm.heals}"
        assert len(swarm.heals) <= 1, f"seed {seed}"
        num_heals += len(swarm.heals)
        assert swarm[3].core.has_sound_state
        assert swarm.spread() < 3 * usual, f"seed {seed}"
        for node in swarm.nodes.values():
            assert all(moved <= 0.5 * limit * 1.001 for moved, limit in node.trainer.moves)
    assert num_heals >= fewest_heals


def test_nobody_heals_in_an_ordinary_run() -> None:
    """Differences grow from zero through the warm-up, at different speeds, under network faults: no false alarm in many runs."""
    for seed in range(24):
        swarm = HealingSwarm([GossipTrainer() for _ in range(4 + seed % 4)], seed=seed)
        swarm.run(45.0)
        assert swarm.heals == [], f"seed {seed}"


def test_hostile_partners_make_nobody_heal() -> None:
    """A fifth of the nodes meets with rubbish, each time: the honest ones go on."""
    for seed in range(3):
        swarm = HealingSwarm([GossipTrainer(is_hostile=index % 5 == 4) for index in range(10)], seed=seed)
        swarm.run(60.0)
        assert {index for index, _ in swarm.heals if index % 5 != 4} == set(), f"seed {seed}"
