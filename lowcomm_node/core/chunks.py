"""Who fetches which chunk of a snapshot? Several holders share the work; what one leaves is another's.

Invariant: each missing chunk is free, in exactly one holder's window, or has arrived.
"""

from collections import deque
from collections.abc import Iterable

__all__ = ["ChunkBoard"]


class ChunkBoard:
    """Hands out windows of missing chunks. Holders are named by any string."""

    def __init__(self, missing: Iterable[int]) -> None:
        self._free = deque(missing)
        self._windows: dict[str, list[int]] = {}

    @property
    def is_complete(self) -> bool:
        """Has everything arrived?"""
        return not self._free and not any(self._windows.values())

    def take(self, holder: str, most: int | None = None) -> tuple[int, ...]:
        """The next window of a holder that has none, in the order to fetch: all that is free, or as many as ``most``.

        When no chunk is free, half of the largest window that another has left: its tail, since the head may be on its way.
        Empty when there is nothing to do, now or any more.
        """
        self.give_back(holder)
        window = self._free_window(most) or self._tail_of_another(most)
        self._windows[holder] = window
        return tuple(window)

    def has_window(self, holder: str) -> bool:
        """Is there anything left for this holder to deliver?"""
        return bool(self._windows.get(holder))

    def is_wanted(self, holder: str, index: int) -> bool:
        """Is this chunk still this holder's to deliver?"""
        return index in self._windows.get(holder, ())

    def arrived(self, index: int) -> bool:
        """A chunk is here, from whomever; False when it was here before."""
        for chunks in (self._free, *self._windows.values()):
            if index in chunks:
                chunks.remove(index)
                return True
        return False

    def give_back(self, holder: str) -> None:
        """The holder is gone, or done: what it has not delivered is free, first of all."""
        self._free.extendleft(reversed(self._windows.pop(holder, [])))

    def _free_window(self, most: int | None) -> list[int]:
        num_taken = len(self._free) if most is None else min(most, len(self._free))
        return [self._free.popleft() for _ in range(num_taken)]

    def _tail_of_another(self, most: int | None) -> list[int]:
        victim = max(self._windows.values(), key=len, default=[])
        num_taken = len(victim) // 2 if most is None else min(most, len(victim) // 2)
        kept = len(victim) - num_taken
        tail = victim[kept:]
        del victim[kept:]
        return tail
