"""Executes what ``core.supervision`` decides about the trainer: asks it at the right moments, says, counts and remembers."""

import asyncio
import dataclasses
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lowcomm_node.core.supervision import Cause, GiveUp, Supervision, Watch
from lowcomm_node.daemon.memory import MicroBatchMemory
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.daemon.trainer_session import TrainerSession
from lowcomm_node.errors import TrainerError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import DeviceSettings
from lowcomm_node.train.messages import Configure, FromTrainer, Report
from lowcomm_node.units import RunId

__all__ = ["TrainerSupervisor"]

_LOOK_EVERY_S = 1.0
"""Between two looks at how long the trainer has been silent."""
_FILE_NAME = "micro_batches.json"


class TrainerSupervisor:
    """Of all trainers of one node's life, one after the other. Only after ``begin``."""

    def __init__(
        self,
        settings: DeviceSettings,
        state_dir: Path,
        recorder: Recorder,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._state_dir = state_dir
        self._recorder = recorder
        self._clock = clock
        self._batch_size = self._told = 1
        self._supervision = Supervision(micro_batches=1, batch_size=1)
        self._memory: MicroBatchMemory | None = None
        self._watch: Watch | None = None

    def begin(self, manifest: Manifest, run: RunId) -> None:
        """The run is known: begin with the settings' number of micro-batches, or with what this run has needed before."""
        wanted = self._settings.micro_batches
        kept = None
        if not wanted:
            self._memory = MicroBatchMemory(self._state_dir / _FILE_NAME, run, self._settings.name)
            kept = self._memory.read()
        self._batch_size = manifest.training.batch_size
        self._supervision = Supervision(micro_batches=wanted or kept or 1, batch_size=self._batch_size)
        self._told = self._supervision.micro_batches
        self._recorder.metrics.micro_batches_set(self._told)

    def with_micro_batches(self, question: Configure) -> Configure:
        """The question with the number of micro-batches that the trainer is to begin with; 0 leaves it to the trainer."""
        known = self._supervision.micro_batches
        wished = known if known > 1 or self._settings.micro_batches else 0
        device = dataclasses.replace(question.settings.device, micro_batches=wished)
        return dataclasses.replace(question, settings=dataclasses.replace(question.settings, device=device))

    def starts(self) -> None:
        """A trainer is about to be started, or told to begin."""
        self._supervision.started(self._clock())

    def heard(self, message: FromTrainer) -> None:
        """The trainer has said something."""
        step_s = 0.0
        if isinstance(message, Report):
            step_s = message.step_seconds
            self._supervision.took(message.micro_batches)
            self._tell_micro_batches()
        if self._watch is not None:
            self._watch.heard(self._clock(), step_s)

    async def watch(self, session: TrainerSession, is_idle: Callable[[], bool]) -> None:
        """Return when the process has ended; end it when it says nothing for too long.

        ``is_idle`` once the run is finished: then the trainer has nothing to say until somebody asks.
        """
        watch = self._watch = Watch(least_s=self._settings.hang_after_s, now=self._clock())
        while True:
            with suppress(TimeoutError):
                # Not wait_for: Python 3.11's forgets a cancellation that comes together with the end, and who leaves waits for ever.
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await session.lost.wait()
                return
            now = self._clock()
            if is_idle():
                watch.heard(now)
            if watch.is_hanging(now, is_asked=session.is_asked):
                session.end_hanging(watch.patience_s(is_asked=session.is_asked))

    def fell(self, error: TrainerError, exit_status: int) -> float:
        """The trainer has ended: seconds to wait before the next. Raises TrainerError when there shall be none."""
        self._watch = None
        cause = Cause(error.code)
        decision = self._supervision.fell(cause, str(error), self._clock())
        if isinstance(decision, GiveUp):
            raise TrainerError(decision.sentence) from error
        self._recorder.trainer_lost(cause, exit_status, str(error))
        self._tell_micro_batches()
        return decision.after_s

    def _tell_micro_batches(self) -> None:
        """Say and remember how many parts a batch is taken in, when that is news."""
        micro_batches = self._supervision.micro_batches
        if micro_batches != self._told:
            self._told = micro_batches
            self._recorder.memory_short(micro_batches, self._batch_size)
            if self._memory is not None:
                self._memory.write(micro_batches)
