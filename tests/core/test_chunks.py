"""Sharing the chunks of a snapshot among holders that come, deliver, stop and die in any order."""

from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.core.chunks import ChunkBoard

_HOLDERS = ("a", "b", "c")


@given(num_chunks=st.integers(0, 40), data=st.data())
def test_each_chunk_is_somebodys_until_it_has_arrived(num_chunks: int, data: st.DataObject) -> None:
    """Free, in one window, or here: never lost, never in two windows; and holders that deliver come to an end."""
    board = ChunkBoard(range(num_chunks))
    windows: dict[str, list[int]] = {holder: [] for holder in _HOLDERS}
    arrived: list[int] = []

    for _ in range(data.draw(st.integers(0, 60))):
        holder = data.draw(st.sampled_from(_HOLDERS))
        match data.draw(st.sampled_from(("take", "deliver", "die"))):
            case "take":
                taken = board.take(holder, data.draw(st.none() | st.integers(1, 5)))
                for window in windows.values():
                    window[:] = [index for index in window if index not in taken]
                windows[holder] = list(taken)
            case "deliver" if windows[holder]:
                index = windows[holder].pop(0)
                assert board.is_wanted(holder, index)
                assert board.arrived(index)
                arrived.append(index)
            case "die":
                board.give_back(holder)
                windows[holder] = []
        assert [board.has_window(name) for name in _HOLDERS] == [bool(windows[name]) for name in _HOLDERS]
    for holder in _HOLDERS:
        board.give_back(holder)
    rest = board.take("a")

    assert sorted((*arrived, *rest)) == list(range(num_chunks))
    assert board.is_complete == (not rest)


def test_an_idle_holder_takes_the_tail_of_the_one_that_has_most_left() -> None:
    """The head stays, since it may be on its way; a single chunk stays too."""
    board = ChunkBoard(range(8))

    assert board.take("slow") == tuple(range(8))
    assert board.take("stranger", most=1) == (7,)
    assert board.take("fast") == (4, 5, 6)
    assert [board.is_wanted("slow", index) for index in (3, 4)] == [True, False]
    for index in range(3):
        board.arrived(index)
    for index in (4, 5, 6):
        board.arrived(index)
    assert board.take("fast") == ()
    assert not board.is_complete


def test_what_the_dead_leave_comes_first() -> None:
    """Its chunks were wished for before those that nobody has asked for yet."""
    board = ChunkBoard(range(6))
    board.take("dead", most=2)

    board.give_back("dead")

    assert board.take("other") == tuple(range(6))
    assert not board.arrived(7)
