"""Who may stay connected that has not said who it is."""

from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.core.doorway import Address, Doorway, Ending
from lowcomm_node.errors import RefusalReason
from lowcomm_node.units import PeerId

ANN, EVE = PeerId("ann"), PeerId("eve")


def ended(endings: list[Ending]) -> list[Address]:
    return [ending.address for ending in endings]


def test_the_silent_leave_in_time_and_the_proven_stay() -> None:
    """Patience ends for each connection by itself; a far end that comes back is a new one."""
    doorway = Doorway(patience_s=10.0)
    ann, silent, late = ("192.0.2.1", 1), ("192.0.2.2", 1), ("192.0.2.2", 2)

    assert doorway.looked([ann, silent], 0.0) == []
    doorway.proven(ann, ANN)
    assert doorway.looked([ann, silent, late], 5.0) == []
    (ending,) = doorway.looked([ann, silent, late], 10.5)
    assert (ending.address, ending.reason) == (silent, RefusalReason.UNPROVEN)
    assert ended(doorway.looked([ann, silent], 20.5)) == [silent], "it has not gone yet"
    assert doorway.looked([ann], 21.0) == []
    assert doorway.looked([ann, silent], 22.0) == []
    assert doorway.looked([ann], 1e6) == []


def test_the_newest_of_too_many_stay() -> None:
    """In all, of one host, and of one peer."""
    doorway = Doorway(most_unproven=4, most_of_host=2, most_of_peer=2)
    crowd = [(f"192.0.2.{number}", 7) for number in range(6)]
    one_host = [("198.51.100.1", port) for port in range(3)]
    for number in range(len(crowd)):
        doorway.looked(crowd[:number], float(number) / 10)
    first = doorway.looked(crowd, 0.9)
    assert ended(first) == crowd[:2]
    assert ended(doorway.looked(one_host[:2], 1.0)) == []
    assert ended(doorway.looked(one_host, 1.1)) == one_host[:1]
    assert {ending.reason for ending in first} == {RefusalReason.TOO_MANY}

    for address in one_host:
        doorway.proven(address, EVE)
    assert ended(doorway.looked(one_host, 1.2)) == one_host[:1]


def test_a_peer_of_whom_nothing_more_is_wanted_leaves_at_once() -> None:
    """With all its connections, and nobody else does."""
    doorway = Doorway()
    for port in range(3):
        doorway.proven(("192.0.2.1", port), EVE if port else ANN)
    addresses = [("192.0.2.1", port) for port in range(3)]
    assert doorway.looked(addresses, 0.0) == []

    doorway.disowned(EVE)

    assert ended(doorway.looked(addresses, 0.1)) == addresses[1:]


@given(st.lists(st.sets(st.tuples(st.sampled_from("abc"), st.integers(0, 5))), max_size=8), st.data())
def test_after_each_look_there_is_room(looks: list[set[Address]], data: st.DataObject) -> None:
    """Whatever comes and goes, what stays is within all bounds, and what is remembered is there."""
    doorway = Doorway(patience_s=3.0, most_unproven=5, most_of_host=3, most_of_peer=2)
    proven: dict[Address, PeerId] = {}
    for now, addresses in enumerate(looks):
        for address in data.draw(st.sets(st.sampled_from(sorted(addresses)), max_size=4)) if addresses else ():
            proven[address] = data.draw(st.sampled_from([ANN, EVE]))
            doorway.proven(address, proven[address])
        gone = ended(doorway.looked(addresses, float(now)))

        proven = {address: peer for address, peer in proven.items() if address in addresses}
        staying = addresses - set(gone)
        unproven = staying - set(proven)
        assert len(gone) == len(set(gone)) <= len(addresses)
        assert len(unproven) <= 5
        assert all(sum(address[0] == host for address in unproven) <= 3 for host in "abc")
        assert all(sum(proven.get(address) == peer for address in staying) <= 2 for peer in (ANN, EVE))
        assert doorway._seen_at.keys() == addresses
        assert doorway._peers.keys() == set(proven)
