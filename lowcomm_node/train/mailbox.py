"""The trainer's end of the pipe to its daemon: two threads move the bytes, so that a step never waits for the other end.

A pipe holds 64 KiB; without the threads a dense payload would stop training until the daemon has read it, and a
daemon that stalls while writing would stop it in the middle of a request.
"""

import queue
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Protocol

from lowcomm_node.train.messages import FromTrainer, ToTrainer

__all__ = ["Mailbox", "PipeMailbox"]

_CLOSE_TIMEOUT_S = 10.0


class Mailbox(Protocol):
    """Requests in, replies out."""

    def take(self) -> ToTrainer | None:
        """The next request that is already there; never waits."""
        ...

    def wait(self) -> ToTrainer:
        """The next request, however long it takes."""
        ...

    def post(self, message: FromTrainer) -> None:
        """Send in order; never waits."""
        ...

    def has_unsent(self) -> bool:
        """Is something posted that the daemon has not taken yet?"""
        ...


class PipeMailbox:
    """A mailbox over one end of a ``multiprocessing.Pipe``.

    The queues have no limit of their own: the daemon sends one request at a time per meeting, each request has
    one reply, and reports are posted only when nothing waits.
    """

    def __init__(self, connection: Connection, on_lost: Callable[[], None]) -> None:
        """``on_lost`` is called once, from a thread, when the daemon's end is gone."""
        self._connection = connection
        self._on_lost = on_lost
        self._inbox: queue.SimpleQueue[ToTrainer] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[FromTrainer | None] = queue.SimpleQueue()
        self._num_unsent = 0
        self._lock = threading.Lock()
        self._writer = threading.Thread(target=self._write, name="mailbox-writer", daemon=True)
        self._reader = threading.Thread(target=self._read, name="mailbox-reader", daemon=True)
        self._writer.start()
        self._reader.start()

    def take(self) -> ToTrainer | None:
        try:
            return self._inbox.get_nowait()
        except queue.Empty:
            return None

    def wait(self) -> ToTrainer:
        return self._inbox.get()

    def post(self, message: FromTrainer) -> None:
        with self._lock:
            self._num_unsent += 1
        self._outbox.put(message)

    def has_unsent(self) -> bool:
        return self._num_unsent > 0

    def close(self) -> None:
        """Send what is posted, then end; gives up on a daemon that reads nothing."""
        self._outbox.put(None)
        self._writer.join(_CLOSE_TIMEOUT_S)

    def _read(self) -> None:
        try:
            while True:
                self._inbox.put(self._connection.recv())
        except (EOFError, OSError):
            self._on_lost()

    def _write(self) -> None:
        try:
            while (message := self._outbox.get()) is not None:
                self._connection.send(message)
                with self._lock:
                    self._num_unsent -= 1
        except OSError:
            self._on_lost()
