"""Virtual time: actions in the order of their times, and of their arrival where times are equal."""

import heapq
import itertools
from collections.abc import Callable

__all__ = ["VirtualClock"]


class VirtualClock:
    """A queue of actions; time stands still while one runs and jumps to the next. The same actions give the same history."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        """Actions that wait for their time."""
        return len(self._queue)

    def at(self, delay_s: float, action: Callable[[], None]) -> None:
        """Run ``action`` in ``delay_s`` seconds (at least 0) of virtual time."""
        heapq.heappush(self._queue, (self.now + delay_s, next(self._order), action))

    def run(self, until_s: float) -> None:
        """Everything that is due until then; the time is ``until_s`` afterwards."""
        self.run_until(lambda: False, until_s)
        self.now = max(self.now, until_s)

    def run_until(self, condition: Callable[[], bool], until_s: float) -> None:
        """Stop right after the action that makes the condition true, before anything follows from it."""
        queue = self._queue
        while not condition() and queue and queue[0][0] <= until_s:
            self.now, _, action = heapq.heappop(queue)
            action()
