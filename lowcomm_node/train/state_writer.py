"""Writes states to disk while training goes on: the step loop waits for a copy in memory, a thread does the rest.

The copy is made between two steps, so what is written is the state at one step boundary, whatever is trained meanwhile. Its
memory, once as much as the state itself, is taken when the first state is asked for, and kept.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lowcomm_node.errors import StoreError
from lowcomm_node.train.replica import Replica
from lowcomm_node.train.state_file import Counters, TensorSpec, TrainingState

__all__ = ["StateJob", "StateWriter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StateJob:
    """One state to be written."""

    freeze: Callable[[], Callable[[TrainingState], None]]
    """Called at the boundary; what it returns writes the state, in the thread, and may raise StoreError."""
    on_written: Callable[[Counters], None]
    """Called in the thread."""
    on_failed: Callable[[StoreError], None]
    """Called in either thread."""


class StateWriter:
    """One job after the other, never two at once. All methods are for the step loop's thread.

    What goes wrong in the thread and is no StoreError is raised by the next call.
    """

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._jobs: deque[StateJob] = deque()
        self._thread: ThreadPoolExecutor | None = None
        self._running: Future[None] | None = None
        self._copy: dict[str, Tensor] = {}

    def add(self, job: StateJob) -> None:
        """Write the state of a coming boundary: ``at_boundary`` or ``while_idle`` begins with it."""
        self._jobs.append(job)

    @property
    def is_asked(self) -> bool:
        """Is there a job to begin?"""
        return bool(self._jobs)

    def at_boundary(self) -> bool:
        """Between two steps: begin the next job if that takes no more than copying the state. True when it was copied."""
        if not self._jobs or not self._is_free():
            return False
        if not self._copy:
            # Memory that was never touched is several times slower to write, and that is not the step loop's to wait for.
            layout = self._replica.layout()
            is_pinned = self._replica.device.type == "cuda"
            self._running = self._in_thread(partial(self._take_memory, layout, is_pinned=is_pinned))
            return False
        self._begin(self._jobs.popleft())
        return True

    def while_idle(self) -> None:
        """There is no step to take: begin all jobs, however long it takes; the last may still run afterwards."""
        while self._jobs:
            self._wait()
            if not self._copy:
                self._take_memory(self._replica.layout(), is_pinned=False)
            if self._jobs:  # without memory all have failed
                self._begin(self._jobs.popleft())

    def finish(self) -> None:
        """Write all that was asked for, and end the thread."""
        self.while_idle()
        self._wait()
        self.close()

    def close(self) -> None:
        """End the thread, once what it writes is written; what was not begun is dropped."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _is_free(self) -> bool:
        if self._running is None or not self._running.done():
            return self._running is None
        self._wait()
        return True

    def _wait(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def _in_thread(self, work: Callable[[], None]) -> Future[None]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="state-writer")
        return self._thread.submit(work)

    def _take_memory(self, layout: dict[str, TensorSpec], *, is_pinned: bool) -> None:
        try:
            self._copy = {
                key: torch.empty(spec.shape, dtype=spec.dtype, pin_memory=is_pinned).zero_()
                for key, spec in layout.items()
            }
        except RuntimeError as error:  # of torch's allocators
            while self._jobs:
                self._jobs.popleft().on_failed(StoreError(f"no memory for a copy of the state: {error}"))

    def _begin(self, job: StateJob) -> None:
        state = self._replica.state()
        for key, tensor in state.tensors.items():
            self._copy[key].copy_(tensor, non_blocking=True)
        if self._replica.device.type == "cuda":
            torch.cuda.synchronize(self._replica.device)
        copied = TrainingState(tensors=self._copy, counters=state.counters)
        self._running = self._in_thread(partial(_write, job, job.freeze(), copied))


def _write(job: StateJob, write: Callable[[TrainingState], None], state: TrainingState) -> None:
    try:
        write(state)
    except StoreError as error:
        job.on_failed(error)
    else:
        job.on_written(state.counters)
