"""The next batches, made by a thread while the device steps. Which batch is number k does not change."""

import threading

from lowcomm_node.train.batches import Batch, BatchSource

__all__ = ["Prefetch"]

_DEPTH = 4
"""Batches made ahead; they lie in memory, and one is used at a time."""


class Prefetch:
    """Of batch ``index``, ``index + stride``, ... the next few are made ahead.

    Whoever asks for another one, as after a state has been loaded, waits for it, and the thread goes on from there. What goes
    wrong in the thread is raised where the batch is asked for. The thread is there from the start, while there is memory for it, and
    ends with ``close``.
    """

    def __init__(self, batches: BatchSource, stride: int = 1, depth: int = _DEPTH) -> None:
        self._batches = batches
        self._stride = stride
        self._depth = depth
        self._changed = threading.Condition()
        self._ready: dict[int, Batch | Exception] = {}
        self._next: int | None = None
        """The batch to make next; None before the first is asked for."""
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
        self._thread.start()

    def batch(self, index: int) -> Batch:
        with self._changed:
            if index not in self._ready:
                self._ready.clear()
                self._next = index  # the thread may be at it already
            self._changed.notify_all()
            self._changed.wait_for(lambda: index in self._ready or self._is_closed)
            if self._is_closed:
                raise RuntimeError("asked for a batch after the end")
            batch = self._ready.pop(index)
            self._changed.notify_all()
        if isinstance(batch, Exception):
            raise batch
        return batch

    def close(self) -> None:
        """End the thread, at the latest when the batch it is at is made."""
        with self._changed:
            self._is_closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while (index := self._take()) is not None:
            made: Batch | Exception
            try:
                made = self._batches.batch(index)
            except Exception as error:  # noqa: BLE001 - the thread's supervisor: raised again where the batch is asked for
                made = error
            with self._changed:
                if index == self._next and not self._is_closed:  # else nobody wants it any more
                    self._ready[index] = made
                    self._next = index + self._stride
                    self._changed.notify_all()

    def _take(self) -> int | None:
        """The batch to make next, once there is room for it; None at the end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closed or (self._next is not None and len(self._ready) < self._depth)
            )
            return None if self._is_closed else self._next
