"""The directory as nodes see it."""

from random import Random

from lowcomm_node.core.membership import FULL
from lowcomm_node.sim.directory import Registrant, VirtualDirectory
from lowcomm_node.sim.link import virtual_peer

_TTL_S = 60.0


def directory_of(count: int) -> tuple[VirtualDirectory, list[Registrant]]:
    """Members that have announced themselves three times, as often as it takes to find their depth."""
    directory = VirtualDirectory(_TTL_S, Random(0))
    registrants = [Registrant(virtual_peer(index), 0.0) for index in range(count)]
    for now in (0.0, 20.0, 40.0):
        for registrant in registrants:
            directory.announce(registrant, progress_steps=0.0, has_state=True, now=now)
    return directory, registrants


def test_a_look_costs_the_same_in_a_swarm_ten_times_as_large() -> None:
    """Buckets split, so that neither what is read nor how often depends on the number of members."""
    costs = []
    for count in (200, 2000):
        directory, registrants = directory_of(count)
        before = directory.num_gets
        found = [len(directory.members(registrant, 41.0)) for registrant in registrants[:50]]
        costs.append((directory.num_gets - before) / 50)
        assert min(found) > 0
        assert max(found) <= 3 * 2 * FULL

    assert max(costs) <= 3
    assert abs(costs[1] - costs[0]) < 1


def test_records_run_out_and_farewells_count_at_once() -> None:
    """Who does not renew its record is gone after its lifetime; who withdraws it is gone now."""
    directory, (one, two, three) = directory_of(3)
    directory.withdraw(two)

    assert {member.peer for member in directory.members(one, 41.0)} == {three.peer}
    assert directory.members(one, 40.0 + _TTL_S + 1) == ()


def test_clocks_that_differ_shorten_or_lengthen_a_record_s_life() -> None:
    """A reader judges by its own clock, and passes expiries on by it."""
    directory = VirtualDirectory(_TTL_S, Random(0))
    behind, ahead = Registrant(virtual_peer(0), -20.0), Registrant(virtual_peer(1), 25.0)
    for registrant in (behind, ahead):
        directory.announce(registrant, progress_steps=0.0, has_state=True, now=0.0)

    (seen,) = directory.members(ahead, 10.0)

    assert seen.peer == behind.peer
    assert seen.expires_at == _TTL_S - 20.0 - 25.0
    assert directory.members(ahead, 16.0) == ()
    assert len(directory.members(behind, 16.0)) == 1


def test_a_partition_hides_what_the_other_side_says_and_keeps_what_it_said_before() -> None:
    """The DHT falls apart with the network: old records outlive the cut, new ones do not cross it, and healing shows all."""
    directory, (one, two, three) = directory_of(3)
    two.side = 1
    directory.part(41.0)
    directory.announce(two, progress_steps=0.0, has_state=True, now=45.0)

    assert {member.peer for member in directory.members(one, 46.0)} == {three.peer}
    assert {member.peer for member in directory.members(two, 46.0)} == {one.peer, three.peer}
    directory.part(None)
    assert len(directory.members(one, 46.0)) == 2
