"""Frozen factors are agreed upon without a leader: everybody ends with the same ones, whoever dies, lies, comes late or lags."""

from collections import Counter

import pytest

from lowcomm_node.core.ab_stages import Stage
from lowcomm_node.core.chance import Chance
from lowcomm_node.core.commands import FetchFrozen, SplitTensors, UseFrozen
from lowcomm_node.core.events import FetchFailed, FrozenHeld, FrozenNote, FrozenRefused, FrozenUsed, Member
from lowcomm_node.core.frozen import FrozenAgreement
from lowcomm_node.core.partners import Partners
from lowcomm_node.units import Factor, PeerId
from tests.core.frozen_world import FrozenWorld, VirtualNode, digest_of

LOW, LOWER, LOWEST = "3" * 64, "2" * 64, "1" * 64


def check_invariants(world: FrozenWorld) -> None:
    """Of a swarm that has had time: one digest, and nobody has split twice in an epoch."""
    assert len(world.used()) == 1
    for node in world.nodes:
        assert len(node.splits) == len(set(node.splits))


def test_the_first_in_the_order_splits_and_all_take_what_it_made() -> None:
    """Six nodes that come to the stage at the same time: one split, five downloads, halves of both factors, no message between them."""
    world = FrozenWorld(6)
    world.run(3.0)
    for node in world.nodes:
        world.enter(node, 1)
    world.run(10.0)
    assert [node.splits for node in world.nodes] == [[1], [], [], [], [], []]
    assert world.used() == {digest_of("n000/0/1")}
    notes = [note for node in world.nodes if (note := node.agreement.note)]
    assert Counter(note.factor for note in notes) == {Factor.A: 3, Factor.B: 3}
    assert all(len(node.fetches) == (node.peer != "n000") for node in world.nodes)


def test_the_order_turns_round_and_factors_change_from_epoch_to_epoch() -> None:
    """Not always the same node pays for the split, and none trains the same factor all the time."""
    world = FrozenWorld(4)
    world.run(3.0)
    for node in world.nodes:
        world.enter(node, 1)
    world.run(10.0)
    first = [node.agreement.note for node in world.nodes]
    for node in world.nodes:
        world.enter(node, 1, Stage.REBOUND)
        world.enter(node, 2, after_s=1.0)
    world.run(10.0)
    second = [node.agreement.note for node in world.nodes]
    assert [node.splits for node in world.nodes] == [[1], [], [], [2]]
    assert all(a and b and a.factor is not b.factor for a, b in zip(first, second, strict=True))
    check_invariants(world)


def test_two_that_split_at_once_end_with_one() -> None:
    """Of nodes that did not know of each other the lower digest counts; the other one is given up within the stretch."""
    world = FrozenWorld(2, look_s=4.0, split_s=0.1)
    for node in world.nodes:
        node.agreement.looked(0.0)
        world.enter(node, 1)
    world.run(20.0)
    assert [node.splits for node in world.nodes] == [[1], [1]]
    assert world.used() == {min(digest_of("n000/0/1"), digest_of("n001/0/1"))}
    check_invariants(world)


def test_a_node_alone_splits_once_it_has_looked() -> None:
    """Nobody there is an answer too; but who has not looked yet does not know."""
    node = VirtualNode(PeerId("me"), *alone("me"))
    agreement = node.agreement
    agreement.trainer_ready(0.0)
    assert agreement.stepped(Stage.FACTORS, 1, 0.0) == []
    assert agreement.looked(0.5) == [SplitTensors(epoch=1)]
    assert agreement.ticked(9.0) == []


def test_nothing_happens_outside_of_factors() -> None:
    """Warm-up, rebound, and runs without stages."""
    _, agreement = alone("me")
    agreement.trainer_ready(0.0)
    for stage, epoch in ((None, 0), (Stage.WARM_UP, 0), (Stage.REBOUND, 1)):
        assert agreement.stepped(stage, epoch, 0.0) == agreement.looked(1.0) == agreement.ticked(50.0) == []
        assert not agreement.is_seeking


def test_a_late_joiner_fetches_and_does_not_split() -> None:
    """Its first look tells it what counts, however long it takes to come."""
    world = FrozenWorld(3)
    world.run(3.0)
    for node in world.nodes:
        world.enter(node, 1)
    world.run(10.0)
    late = world.join("a-first-in-the-order")
    world.enter(late, 1)
    world.run(10.0)
    assert late.splits == []
    assert late.fetches == [digest_of("n000/0/1")]
    check_invariants(world)


def test_the_next_splits_when_the_first_is_dead() -> None:
    """A record outlives its node by up to a minute, the stretch does not wait for that."""
    world = FrozenWorld(4)
    world.run(3.0)
    world.kill(world.nodes[0])
    for node in world.nodes[1:]:
        world.enter(node, 1)
    world.run(12.0)
    assert [node.splits for node in world.nodes] == [[], [1], [], []]
    check_invariants(world)


def test_the_holder_dies_during_the_download() -> None:
    """Only one had it, and only for a moment: after some attempts somebody else splits, and the dead one's does not count for ever."""
    world = FrozenWorld(4, fetch_s=2.0)
    world.run(3.0)
    for node in world.nodes:
        world.enter(node, 1)
    world.run(1.8)
    assert world.nodes[0].agreement.note is not None
    world.kill(world.nodes[0])
    world.run(60.0)
    assert world.used() != {""}
    assert digest_of("n000/0/1") not in world.used()
    check_invariants(world)
    world.revive(world.nodes[0])  # its shelf is still there, its note is not
    world.enter(world.nodes[0], 1)
    world.run(30.0)
    check_invariants(world)


def test_a_node_that_is_started_again_uses_its_own_file() -> None:
    """The daemon finds it on the shelf by the digest that others announce."""
    world = FrozenWorld(3)
    world.run(3.0)
    for node in world.nodes:
        world.enter(node, 1)
    world.run(10.0)
    world.kill(world.nodes[0])
    world.run(2.0)
    world.revive(world.nodes[0])
    world.nodes[0].cut_from = {node.peer for node in world.nodes}
    world.enter(world.nodes[0], 1)
    world.run(10.0)
    assert world.nodes[0].splits == [1]
    check_invariants(world)


def test_another_trainer_is_given_the_same_again() -> None:
    """With the same factor, though the view of the members has changed meanwhile."""
    partners, agreement = alone("m")
    agreement.trainer_ready(0.0)
    agreement.looked(0.0)
    agreement.stepped(Stage.FACTORS, 1, 0.0)
    use = UseFrozen(epoch=1, digest=LOW, factor=Factor.A)
    assert agreement.handle(FrozenHeld(epoch=1, digest=LOW, is_own=True), 1.0) == [use]
    agreement.handle(FrozenUsed(epoch=1, digest=LOW, factor=Factor.A), 2.0)
    assert partners.in_role == agreement.in_role == FrozenNote(epoch=1, digest=LOW, factor=Factor.A)
    agreement.trainer_lost()
    assert role_of(partners) is None
    assert agreement.note is not None  # it can still be fetched here
    partners.see(member("a"), 3.0)
    agreement.trainer_ready(3.0)
    assert agreement.ticked(3.0) == [use]


def test_a_lower_one_is_adopted_in_the_middle_of_the_stretch() -> None:
    """What is there is used until the other one is here; the factor stays."""
    partners, agreement = alone("m")
    agreement.trainer_ready(0.0)
    agreement.looked(0.0)
    agreement.stepped(Stage.FACTORS, 1, 0.0)
    agreement.handle(FrozenHeld(epoch=1, digest=LOWER, is_own=True), 1.0)
    agreement.handle(FrozenUsed(epoch=1, digest=LOWER, factor=Factor.A), 1.0)
    partners.see(member("a", note=FrozenNote(epoch=1, digest=LOW, factor=Factor.B)), 1.0)
    assert agreement.looked(1.0) == []  # higher: those come to us
    partners.see(member("b", note=FrozenNote(epoch=1, digest=LOWEST, factor=Factor.B)), 1.0)
    assert agreement.looked(2.0) == [FetchFrozen(epoch=1, digest=LOWEST, holders=(PeerId("b"),))]
    assert agreement.in_role is not None
    assert agreement.handle(FrozenHeld(epoch=1, digest=LOWEST, is_own=False), 3.0) == [
        UseFrozen(epoch=1, digest=LOWEST, factor=Factor.A)
    ]


def test_a_lie_costs_a_few_downloads_and_no_more() -> None:
    """A digest that nobody can give is the lowest: others are fetched meanwhile, and the liar is left alone."""
    world = FrozenWorld(3)
    world.run(3.0)
    world.announce("liar", FrozenNote(epoch=1, digest="0" * 64, factor=Factor.A))
    world.run(1.5)
    for node in world.nodes:
        world.enter(node, 1)
    for _ in range(60):
        world.announce("liar", FrozenNote(epoch=1, digest="0" * 64, factor=Factor.A))
        world.run(10.0)
    check_invariants(world)
    assert world.used() != {""}
    assert all(node.fetches.count("0" * 64) == 5 for node in world.nodes)


def test_ever_new_lies_end_too() -> None:
    """A liar that names another digest each second is asked as seldom; a crowd of them costs a bounded number of downloads."""
    world = FrozenWorld(3)
    world.run(3.0)
    for node in world.nodes:
        world.enter(node, 1)
    for index in range(300):
        for liar in range(20):
            name = f"0{index:03}{liar:02}"
            world.announce(f"liar-{liar}", FrozenNote(epoch=1, digest=name.ljust(64, "0"), factor=Factor.A))
        world.run(1.0)
    check_invariants(world)
    assert world.used() != {""}
    assert all(len(node.fetches) <= 32 for node in world.nodes)


def test_what_the_trainer_refuses_is_not_fetched_again() -> None:
    """A file can be what its digest says and still be no frozen factors."""
    world = FrozenWorld(3)
    world.bad = {digest_of("n000/0/1")}
    world.run(3.0)
    for node in world.nodes:
        world.enter(node, 1)
    world.run(30.0)
    assert world.used() != {""}
    assert not world.bad & world.used()
    check_invariants(world)


def test_a_split_that_fails_is_tried_some_times_and_then_left_to_others() -> None:
    """A node without the memory for it, first in the order."""
    world = FrozenWorld(3, fails=lambda node: node.peer == "n000")
    world.run(3.0)
    for node in world.nodes:
        world.enter(node, 1)
    world.run(30.0)
    assert world.nodes[0].splits == [1, 1, 1]
    assert world.used() == {digest_of("n001/0/1")}


def test_a_busy_holder_is_asked_again_and_nobody_splits() -> None:
    """A hundred nodes cannot all be served at once; those who wait train whole."""
    world = FrozenWorld(3)
    world.run(3.0)
    for node in world.nodes:
        world.enter(node, 1)
    world.nodes[0].is_busy = True
    world.run(40.0)
    assert [node.splits for node in world.nodes] == [[1], [], []]
    assert world.used() == {digest_of("n000/0/1"), ""}
    world.nodes[0].is_busy = False
    world.run(40.0)
    check_invariants(world)


def test_who_has_fallen_behind_does_not_split() -> None:
    """All others are an epoch further: alone with frozen factors of its own it would meet nobody of its own accord."""
    world = FrozenWorld(3)
    world.run(3.0)
    for node in world.nodes[1:]:
        world.enter(node, 2)
    world.run(10.0)
    world.enter(world.nodes[0], 1)
    world.run(60.0)
    assert world.nodes[0].splits == []
    assert world.nodes[0].agreement.in_role is None
    world.enter(world.nodes[0], 2)  # it has skipped the rest
    world.run(10.0)
    check_invariants(world)


def test_who_cannot_use_what_most_others_have_stays_whole() -> None:
    """Its trainer refuses them, or nobody gives them to it: it goes on meeting everybody, and does not split for itself alone."""
    partners, agreement = alone("a-first-in-the-order")
    agreement.trainer_ready(0.0)
    for name in ("n1", "n2"):
        partners.see(member(name, note=FrozenNote(epoch=1, digest=LOW, factor=Factor.B)), 0.0)
    agreement.looked(0.0)
    (fetch,) = agreement.stepped(Stage.FACTORS, 1, 0.0)
    assert isinstance(fetch, FetchFrozen)
    agreement.handle(FrozenHeld(epoch=1, digest=LOW, is_own=False), 1.0)
    assert agreement.handle(FrozenRefused(epoch=1, digest=LOW), 2.0) == []
    seeking = []
    for now in (60.0, 200.0):
        assert agreement.ticked(now) == []
        seeking.append(agreement.is_seeking)
    assert seeking == [True, False]
    assert agreement.doing == "waiting"
    partners.expire(91.0)
    assert agreement.ticked(201.0) == [SplitTensors(epoch=1)]


def test_one_that_says_it_is_far_ahead_keeps_nobody_from_splitting() -> None:
    """It takes most of those that this node knows."""
    world = FrozenWorld(3)
    world.announce("liar", FrozenNote(epoch=60000, digest="0" * 64, factor=Factor.A))
    world.run(3.0)
    for node in world.nodes:
        world.enter(node, 1)
    world.run(10.0)
    assert world.used() != {""}
    check_invariants(world)


def test_what_comes_late_from_an_epoch_that_is_over_changes_nothing() -> None:
    """A split that took longer than the stretch."""
    _, agreement = alone("m")
    agreement.trainer_ready(0.0)
    agreement.looked(0.0)
    assert agreement.stepped(Stage.FACTORS, 1, 0.0) == [SplitTensors(epoch=1)]
    assert agreement.stepped(Stage.FACTORS, 2, 9.0) == [SplitTensors(epoch=2)]
    assert agreement.handle(FrozenHeld(epoch=1, digest=LOW, is_own=True), 10.0) == []
    assert agreement.handle(FetchFailed(epoch=1, digest=LOW, is_busy=False), 10.0) == []
    assert agreement.doing == "splitting"


def test_progress_that_goes_back_is_no_second_split() -> None:
    """A healed node takes over a state of the epoch before, in which it has split already."""
    _, agreement = alone("m")
    agreement.trainer_ready(0.0)
    agreement.looked(0.0)
    for epoch, digest in ((1, LOW), (2, LOWER)):
        assert agreement.stepped(Stage.FACTORS, epoch, 0.0) == [SplitTensors(epoch=epoch)]
        agreement.handle(FrozenHeld(epoch=epoch, digest=digest, is_own=True), 1.0)
        agreement.handle(FrozenUsed(epoch=epoch, digest=digest, factor=Factor.A), 1.0)
    assert agreement.stepped(Stage.FACTORS, 1, 2.0) == []
    assert agreement.in_role is None
    assert agreement.ticked(100.0) == []


@pytest.mark.parametrize("seed", range(24))
def test_whatever_happens_all_end_with_one(seed: int) -> None:
    """Any views, times, deaths, lies and joiners: those who live on hold one digest, and nobody has split twice in an epoch."""
    world = FrozenWorld(2 + seed % 11, seed=seed, look_s=1.0 + seed % 4, split_s=seed % 5, fetch_s=0.2 + seed % 3)
    chance = world.chance
    world.run(chance.uniform(0.0, 6.0))
    for epoch in (1, 2, 3):
        for node in world.nodes:
            world.enter(node, epoch, after_s=chance.uniform(0.0, 15.0))
        if chance.random() < 0.5:
            note = FrozenNote(epoch=epoch, digest=f"{chance.randrange(16):x}" * 64, factor=Factor.B)
            world.announce("liar", note)
        world.run(chance.uniform(1.0, 20.0))
        victim = chance.choice(world.nodes)
        world.kill(victim)
        if chance.random() < 0.7:
            late = world.join(f"late-{epoch}-{chance.randrange(1000)}")
            world.enter(late, epoch, after_s=chance.uniform(0.0, 5.0))
        world.run(chance.uniform(1.0, 10.0))
        if chance.random() < 0.7:
            world.revive(victim)
            world.enter(victim, epoch, after_s=chance.uniform(0.0, 5.0))
        world.run(100.0)
        assert len(world.used()) == 1, epoch
        assert world.used() != {""}
        for node in world.nodes:
            # A life that was killed in the middle of it may have begun one that came to nothing.
            assert node.splits.count(epoch) <= 1 + node.life
            assert len(node.fetches) <= 32 * epoch
        for node in world.nodes:
            world.enter(node, epoch, Stage.REBOUND)
        world.run(1.0)


def alone(name: str) -> tuple[Partners, FrozenAgreement]:
    """A node that nobody plays the world for."""
    partners = Partners(PeerId(name), 16, Chance(b"p"))
    return partners, FrozenAgreement(own=PeerId(name), partners=partners, chance=Chance(b"f"), patience_s=5.0)


def role_of(partners: Partners) -> FrozenNote | None:
    """Whom meetings are to be started with."""
    return partners.in_role


def member(name: str, note: FrozenNote | None = None) -> Member:
    """Seen just now."""
    return Member(
        peer=PeerId(name), grpc_address="h:1", progress_steps=0.0, has_state=True, expires_at=90.0, frozen=note
    )
