"""What a node does about its reach: bells while it cannot be dialled, direct paths to those without port and bell."""

from dataclasses import replace

import pytest

from lowcomm_node.core.chance import Chance
from lowcomm_node.core.commands import Command, HangBell, SeekPath, TakeBell
from lowcomm_node.core.events import Member
from lowcomm_node.core.partners import Partners
from lowcomm_node.core.reach import DialledBack, Reach, judge, lasting_address
from lowcomm_node.units import LinkKind, PeerId, Reachability

NOBODY: frozenset[PeerId] = frozenset()


def open_member(name: str) -> Member:
    return Member(peer=PeerId(name), grpc_address=f"{name}:1", progress_steps=0.0, has_state=True, expires_at=1e6)


def closed_member(name: str) -> Member:
    return replace(open_member(name), grpc_address="", reachability=Reachability.OUTBOUND_ONLY)


def reach_of(*members: Member, num_bells: int = 2) -> tuple[Reach, Partners]:
    partners = Partners(PeerId("me"), 50, Chance(b"p"))
    partners.see_all(members, 0.0)
    return Reach(num_bells=num_bells, partners=partners, chance=Chance(b"r")), partners


def peers(commands: list[Command], kind: type[HangBell | TakeBell | SeekPath]) -> set[str]:
    return {str(command.peer) for command in commands if isinstance(command, kind)}


def test_a_node_that_can_be_dialled_hangs_no_bell() -> None:
    """And takes down those it has when its port is found open after all."""
    reach, _ = reach_of(*map(open_member, "abc"))
    assert reach.looked_around(0.0) == []

    hung = peers(reach.measured(Reachability.OUTBOUND_ONLY, 1.0), HangBell)
    assert peers(reach.measured(Reachability.PUBLIC, 2.0), TakeBell) == hung
    assert reach.bells() == ()


def test_so_many_bells_hang_and_no_more() -> None:
    """Only at members that can be dialled; asked for once each."""
    reach, _ = reach_of(*map(open_member, "abcde"), closed_member("x"))

    hung = peers(reach.measured(Reachability.OUTBOUND_ONLY, 0.0), HangBell)
    assert len(hung) == 2
    assert "x" not in hung
    assert peers(reach.looked_around(1.0), HangBell) == set()
    for peer in hung:
        reach.hung(PeerId(peer))
    assert set(reach.bells()) == hung


def test_a_lost_bell_is_hung_elsewhere() -> None:
    """Not where it has just been lost, as long as there is somebody else, and there again after a while."""
    reach, _ = reach_of(open_member("a"), open_member("b"), num_bells=1)
    (first,) = peers(reach.measured(Reachability.RELAYED, 0.0), HangBell)
    reach.lost(PeerId(first), 0.0)
    (second,) = peers(reach.looked_around(0.0), HangBell)
    assert {first, second} == {"a", "b"}

    reach.lost(PeerId(second), 1.0)
    assert peers(reach.looked_around(2.0), HangBell) == set()
    assert peers(reach.looked_around(30.5), HangBell) == {first}


def test_paths_are_sought_two_at_a_time_and_make_partners() -> None:
    """A member with neither port nor bell is nobody's choice before a direct path to it is there."""
    reach, partners = reach_of(*map(closed_member, "xyz"))
    assert partners.choose(0.0, NOBODY) is None

    sought = peers(reach.looked_around(0.0), SeekPath)
    assert len(sought) == 2
    assert peers(reach.looked_around(0.1), SeekPath) == set()
    found, missed = sorted(sought)
    reach.sought(PeerId(found), 0.2, is_direct=True)
    reach.sought(PeerId(missed), 0.2, is_direct=False)

    for _ in range(20):
        chosen = partners.choose(0.3, NOBODY)
        assert chosen is not None
        assert chosen.peer == found
    assert partners.link_to(PeerId(found)) is LinkKind.LIBP2P
    assert peers(reach.looked_around(0.4), SeekPath) == {"x", "y", "z"} - sought


def test_a_look_that_nobody_answers_does_not_block_the_others() -> None:
    """The shell may have lost it: after a minute there is room again."""
    reach, _ = reach_of(*map(closed_member, "xyz"))
    reach.looked_around(0.0)
    assert len(peers(reach.looked_around(60.5), SeekPath)) == 2


def test_who_has_a_bell_here_can_be_met_and_stays_in_the_sample() -> None:
    """Few others can start a meeting with it: it is not swapped out for a stranger."""
    partners = Partners(PeerId("me"), 4, Chance(b"p"))
    partners.bells_held((PeerId("x"),))
    partners.see(closed_member("x"), 0.0)
    for number in range(100):
        partners.see(open_member(f"n{number}"), 0.0)

    assert partners.link_to(PeerId("x")) is LinkKind.GRPC_REVERSED
    partners.bells_held(())
    assert partners.link_to(PeerId("x")) is None


def answer(*, is_reachable: bool, is_global: bool = True) -> DialledBack:
    return DialledBack(host="h", is_global=is_global, is_reachable=is_reachable)


def test_one_that_gets_through_is_enough_and_those_outside_count_first() -> None:
    """A neighbour in the same home reaches us; what counts is whether the internet does, where somebody there has tried."""
    yes, no = answer(is_reachable=True), answer(is_reachable=False)
    near = answer(is_reachable=True, is_global=False)

    assert judge([]) is None
    assert judge([no, yes]) is yes
    assert judge([no, near]) is no
    assert judge([near]) is near
    assert judge([no, no]) is no


@pytest.mark.parametrize(
    ("seen", "lasting"),
    [(["a:1"], "a:1"), (["a:1", "", "a:1"], "a:1"), (["a:1", "a:2"], ""), (["", ""], ""), ([], "")],
)
def test_an_address_is_worth_telling_when_all_see_the_same(seen: list[str], lasting: str) -> None:
    """A router that shows two of them two ports shows a third one another; who says nothing counts for nothing."""
    assert lasting_address(seen) == lasting
