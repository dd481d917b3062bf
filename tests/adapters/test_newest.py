"""A dictionary that forgets what was set longest ago."""

from lowcomm_node.adapters.newest import Newest
from lowcomm_node.core.places import Fullness


def test_the_oldest_goes_for_one_too_many() -> None:
    """Setting an entry again makes it the newest; looking at it, or a default that is there already, does not."""
    newest: Newest[str, int] = Newest(2)
    newest["a"] = 1
    assert newest.setdefault("b", 2) == 2
    newest["a"] = 3
    assert newest.setdefault("b", 9) == 2
    newest.setdefault("c", 4)

    assert dict(newest) == {"a": 3, "c": 4}
    assert newest.fullness == Fullness(2, 2)
