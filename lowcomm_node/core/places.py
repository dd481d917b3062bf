"""Is there a place for one more? So many at a time in all, and of those so many for one and the same."""

from collections import Counter
from dataclasses import dataclass
from enum import Enum, auto

__all__ = ["Fullness", "Places", "Room"]


@dataclass(frozen=True, slots=True)
class Fullness:
    """How full something is that cannot grow for ever."""

    taken: int
    limit: int


class Room(Enum):
    """What somebody finds who wants a place."""

    TAKEN = auto()
    """It has one now, and gives it back with ``leave``."""
    FULL = auto()
    """All are taken, by whomever."""
    OWN_SHARE_USED = auto()
    """It has as many as one may have."""


class Places:
    """Invariant: at most ``most`` are taken, and at most ``most_of_one`` by one. Who has left is forgotten."""

    def __init__(self, *, most: int, most_of_one: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._taken: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._taken.total()

    @property
    def fullness(self) -> Fullness:
        return Fullness(len(self), self._most)

    def take(self, one: str) -> Room:
        """Ask for a place; its own share is looked at first, because that is what the one can do something about."""
        if self._taken[one] >= self._most_of_one:
            return Room.OWN_SHARE_USED
        if self._taken.total() >= self._most:
            self._tidy(one)
            return Room.FULL
        self._taken[one] += 1
        return Room.TAKEN

    def leave(self, one: str) -> None:
        """Give back a place that was taken."""
        self._taken[one] -= 1
        self._tidy(one)

    def _tidy(self, one: str) -> None:
        if self._taken[one] <= 0:
            del self._taken[one]
