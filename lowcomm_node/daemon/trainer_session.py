"""Questions to the trainer that have one answer: configure, load, checkpoint, snapshot, stop. Everything else is passed on."""

import asyncio
import signal
from collections.abc import Callable
from typing import TypeVar

from lowcomm_node.daemon.memory import kernel_kills
from lowcomm_node.daemon.trainer_client import TrainerClient
from lowcomm_node.errors import (
    ConfigError,
    DataError,
    DeviceError,
    LowcommError,
    OutOfMemoryError,
    StoreError,
    TrainerError,
    TrainerHangError,
    TrainerKilledError,
    UnfitStateError,
)
from lowcomm_node.train.messages import (
    CheckpointWritten,
    Failed,
    FingerprintTaken,
    FromTrainer,
    FrozenTaken,
    FrozenWritten,
    Ready,
    SnapshotWritten,
    StateLoaded,
    Stopped,
    ToTrainer,
)

__all__ = ["TrainerSession"]

_Answer = TypeVar(
    "_Answer",
    Ready,
    StateLoaded,
    SnapshotWritten,
    CheckpointWritten,
    FingerprintTaken,
    FrozenWritten,
    FrozenTaken,
    Stopped,
)
_ERRORS: dict[str, type[LowcommError]] = {
    cls.code: cls for cls in (ConfigError, DataError, DeviceError, OutOfMemoryError, StoreError)
}


class TrainerSession:
    """One trainer process from the life cycle's point of view.

    ``on_message`` gets what is no answer to a question (reports, meetings). ``lost`` is set when the process has
    ended, with ``exit_status`` and, when it could say, ``failure``.
    """

    def __init__(self, on_message: Callable[[FromTrainer], None]) -> None:
        self._kills_before = kernel_kills()
        self._client = TrainerClient()
        self._on_message = on_message
        self._waiting: dict[type, asyncio.Future[FromTrainer]] = {}
        self._one_question = asyncio.Lock()
        self.lost = asyncio.Event()
        self.exit_status = 0
        self.failure: LowcommError | None = None
        self.has_stopped = False
        """It ends, or has ended, because it was asked to."""

    @property
    def pid(self) -> int:
        return self._client.pid

    def attach(self) -> None:
        """Deliver into the running loop from now on."""
        self._client.attach(asyncio.get_running_loop(), self._received, self._ended)

    @property
    def is_asked(self) -> bool:
        """It owes an answer to a question."""
        return bool(self._waiting)

    def send(self, message: ToTrainer) -> None:
        """Tell the trainer something that has no answer, or one that ``on_message`` gets."""
        self._client.send(message)

    async def ask(self, question: ToTrainer, answer: type[_Answer]) -> _Answer:
        """Send ``question`` and wait for its answer; one question at a time.

        Raises the trainer's own error (ConfigError, DataError, StoreError, TrainerError).
        """
        async with self._one_question:
            if self.lost.is_set():
                raise self.error()
            future: asyncio.Future[FromTrainer] = asyncio.get_running_loop().create_future()
            self._waiting[answer] = future
            try:
                self._client.send(question)
                found = await future
            finally:
                self._waiting.pop(answer, None)
        if not isinstance(found, answer):
            raise TrainerError(f"the trainer answered {type(found).__name__}")
        return found

    def error(self) -> LowcommError:
        """Why the process ended."""
        if self.failure is not None:
            return self.failure
        if self.exit_status == -signal.SIGKILL:
            return self._killed("the trainer")
        return TrainerError(f"the trainer process ended with status {self.exit_status}")

    def _killed(self, whom: str, detail: str = "") -> TrainerError:
        """By a SIGKILL that is not ours: the kernel's, when it counts one more process ended for want of memory."""
        before, kills = self._kills_before, kernel_kills()
        if before is None or kills is None:
            return TrainerKilledError(
                f"{detail}something has killed {whom}; if memory is short here, it was the kernel"
            )
        if kills > before:
            return OutOfMemoryError(f"{detail}the kernel has killed {whom} because this machine's memory had run out")
        return TrainerKilledError(f"{detail}somebody has killed {whom}, and not the kernel for want of memory")

    async def end(self, grace_s: float) -> None:
        """Make sure the process is gone; it gets ``grace_s`` to end by itself."""
        if not await asyncio.to_thread(self._client.join, grace_s):
            self._client.kill()
            await asyncio.to_thread(self._client.join, 10.0)

    def kill(self) -> None:
        """End the process at once."""
        self._client.kill()

    def end_unfit(self, reason: str) -> None:
        """End a process whose state is to be replaced, with that as the reason."""
        self.failure = UnfitStateError(f"its state is unfit ({reason})")
        self._client.kill()

    def end_hanging(self, silent_s: float) -> None:
        """End a process that says nothing, with that as the reason."""
        self.failure = TrainerHangError(f"the trainer has said nothing for {silent_s:.0f} s")
        self._client.kill()

    def _received(self, message: FromTrainer) -> None:
        if isinstance(message, Failed):
            error: LowcommError
            if message.code == TrainerKilledError.code:
                error = self._killed("it", f"{message.detail}; ")  # one of its device followers
            else:
                error = _ERRORS.get(message.code, TrainerError)(message.detail)
            if message.is_fatal:
                self.failure = error
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(error)
            return
        self.has_stopped = self.has_stopped or isinstance(message, Stopped)
        future_or_none = self._waiting.get(type(message))
        if future_or_none is not None and not future_or_none.done():
            future_or_none.set_result(message)
        else:
            self._on_message(message)

    def _ended(self, exit_status: int) -> None:
        self.exit_status = exit_status
        self.lost.set()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(self.error())
