"""The daemon's end of the trainer: starts the process, talks to it over a socket pair, notices its end.

The trainer is a fresh interpreter (never a fork: CUDA and gRPC do not survive one). Two threads keep the event loop
free: a message to a trainer that is in the middle of a long step may not fit the pipe, and one from it may be large.
"""

import asyncio
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

from lowcomm_node.train.messages import FromTrainer, ToTrainer

__all__ = ["TrainerClient"]

T = TypeVar("T")


class TrainerClient:
    """One life of one trainer process.

    ``on_message`` and ``on_lost`` are called in ``loop``; ``on_lost`` once, with the exit status, after the last
    message, however the process ends.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lowcomm_node.train.process", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        self._outbox: queue.SimpleQueue[ToTrainer | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    def attach(
        self,
        loop: asyncio.AbstractEventLoop,
        on_message: Callable[[FromTrainer], None],
        on_lost: Callable[[int], None],
    ) -> None:
        """Start delivering messages into the loop."""
        self._loop = loop
        threading.Thread(target=self._read, args=(on_message, on_lost), name="trainer-read", daemon=True).start()
        threading.Thread(target=self._write, name="trainer-write", daemon=True).start()

    def send(self, message: ToTrainer) -> None:
        """Queue a message; nothing happens when the trainer has ended."""
        self._outbox.put(message)

    def kill(self) -> None:
        """End the process at once."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)

    def join(self, timeout_s: float) -> bool:
        """Wait for the process to end; False when it has not. Blocks: call it from a thread."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _read(self, on_message: Callable[[FromTrainer], None], on_lost: Callable[[int], None]) -> None:
        while True:
            try:
                message: FromTrainer = self._connection.recv()
            except (EOFError, OSError):
                break
            self._call(on_message, message)
        self._outbox.put(None)
        self._call(on_lost, self._process.wait())

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self._connection.send(message)
            except (BrokenPipeError, ConnectionResetError, OSError):
                return  # the reading thread reports the end
        self._connection.close()

    def _call(self, function: Callable[[T], None], value: T) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            try:
                loop.call_soon_threadsafe(function, value)
            except RuntimeError:
                return  # the loop closed meanwhile: nobody is interested any more
