"""So many at a time, and so many for one."""

from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.core.places import Places, Room


def test_one_has_its_share_and_others_the_rest() -> None:
    """Who has its share hears that, whatever is free; others find a place as long as there are some."""
    places = Places(most=3, most_of_one=2)

    assert [places.take("a") for _ in range(3)] == [Room.TAKEN, Room.TAKEN, Room.OWN_SHARE_USED]
    assert [places.take("b") for _ in range(2)] == [Room.TAKEN, Room.FULL]
    assert places.take("a") is Room.OWN_SHARE_USED
    places.leave("a")
    assert [places.take("b"), places.take("a")] == [Room.TAKEN, Room.FULL]


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), max_size=60))
def test_what_is_taken_is_never_more_than_there_is(moves: list[tuple[str, bool]]) -> None:
    """Whoever comes and goes; and nobody who has left is remembered."""
    places, held = Places(most=6, most_of_one=3), dict.fromkeys("abcde", 0)

    for who, comes in moves:
        if comes and places.take(who) is Room.TAKEN:
            held[who] += 1
        elif not comes and held[who]:
            places.leave(who)
            held[who] -= 1
        assert len(places) == sum(held.values()) <= 6
        assert max(held.values()) <= 3
        assert set(places._taken) == {who for who, count in held.items() if count}
