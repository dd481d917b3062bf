"""An asyncio loop whose clock jumps to the next timer when nothing is ready, and whose threads are none.

What takes an hour of timers takes milliseconds, and happens in the same order each time.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["VirtualLoop", "run_virtually"]

T = TypeVar("T")

_THREAD_S = 0.002
"""How long work in a thread takes: others get a turn before and after it."""


class _NothingArrives(selectors.SelectSelector):
    """No socket is ever ready; waiting is told instead of done."""

    def __init__(self, waited: Callable[[float], None]) -> None:
        super().__init__()
        self._waited = waited

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits for ever: no timer is set and nothing is ready")
        self._waited(max(0.0, timeout))
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """``runs_thread`` is called with the work of each thread; whoever does not call it kills the thread."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_NothingArrives(self._wait))
        self.unhandled: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.unhandled.append(context))

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> "asyncio.Future[T]":  # type: ignore[override]
        """In the loop, a little later; as with a thread, the work is done even if nobody waits for it any more."""
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except BaseException as error:  # noqa: BLE001 - for whoever waits, as in a thread
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_later(_THREAD_S, work)
        return future

    def _wait(self, timeout_s: float) -> None:
        self.now += timeout_s


def run_virtually(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run to the end; nothing may be left, and nothing may have gone wrong unseen."""
    loop = VirtualLoop()
    try:
        result = loop.run_until_complete(main())
        left = [task.get_name() for task in asyncio.all_tasks(loop)]
        assert not left, f"tasks are left: {left}"
        assert not loop.unhandled, f"nobody has handled: {loop.unhandled}"
        return result
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.close()
