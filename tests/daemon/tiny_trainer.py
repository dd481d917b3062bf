"""In place of a ``TrainerSession``: a trainer in the loop, with tiny tensors in real state files and checkpoints."""

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from lowcomm_node.errors import LowcommError, StoreError, TrainerError, TrainerHangError, UnfitStateError
from lowcomm_node.settings.canonical import run_id
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.checkpoint import MeetingMemory, read_checkpoint, write_checkpoint
from lowcomm_node.train.fingerprint import fingerprint_of
from lowcomm_node.train.messages import (
    CheckpointWritten,
    Configure,
    FingerprintTaken,
    FromTrainer,
    LoadState,
    Ready,
    Report,
    Run,
    SnapshotWritten,
    StateLoaded,
    Stop,
    Stopped,
    TakeFingerprint,
    ToTrainer,
    WriteCheckpoint,
    WriteSnapshot,
)
from lowcomm_node.train.state_file import (
    Counters,
    TensorSpec,
    TrainingState,
    read_state,
    state_bytes_bound,
    write_state,
)
from tests.daemon.faulty_disk import KilledError

__all__ = ["LAYOUT", "MANIFEST", "RUN", "TinyTrainer", "Watcher", "content_of", "state_at"]

MANIFEST = Manifest(name="faults")
RUN = run_id(MANIFEST)
LAYOUT = {
    "params/w": TensorSpec((48, 32), torch.float32),
    "exp_avg_sq/w": TensorSpec((48, 32), torch.float32, is_non_negative=True),
}
"""About 13 kB: a dozen of the smallest chunks."""

_START = torch.linspace(-1.0, 1.0, 48 * 32).reshape(48, 32)
_DIRECTION = torch.sin(torch.arange(48 * 32, dtype=torch.float32)).reshape(48, 32)


def state_at(progress_steps: float, owner: int, steps: int = 0) -> TrainingState:
    """What node ``owner`` has at this progress: near to what others have, and equal to nothing else."""
    weights = _START + _DIRECTION * (progress_steps / 1000) + 1e-4 * (owner + 1)
    tensors = {"params/w": weights, "exp_avg_sq/w": torch.full((48, 32), 0.01) + weights.square() * 1e-4}
    return TrainingState(tensors=tensors, counters=Counters(progress_steps=progress_steps, steps=steps))


def content_of(state: TrainingState) -> str:
    """Names the tensors and the progress."""
    digest = hashlib.sha256(repr(state.counters.progress_steps).encode())
    for key in sorted(state.tensors):
        digest.update(state.tensors[key].numpy().tobytes())
    return digest.hexdigest()


class Watcher(Protocol):
    """The world around a trainer."""

    def step(self, name: str) -> None:
        """Something is about to happen."""

    def loaded(self, question: LoadState, content: str) -> None:
        """This is now in place."""

    def wrote(self, content: str, checkpoint: Path | None = None) -> None:
        """This is about to be on disk, for others or as a checkpoint of this node."""

    def began(self, trainer: "TinyTrainer") -> None:
        """A process was started."""


class TinyTrainer:
    """One life of one trainer process; everything takes a little time."""

    def __init__(self, world: Watcher, on_message: Callable[[FromTrainer], None]) -> None:
        self._world = world
        self._on_message = on_message
        self._one_question = asyncio.Lock()
        self._training: asyncio.Task[None] | None = None
        self._begun = state_at(0.0, 99)
        self._trained = 0
        """Steps since it was begun with; what they have made of it is made when somebody looks."""
        self.lost = asyncio.Event()
        self.has_stopped = False
        self.failure: LowcommError | None = None
        self.exit_status = 0
        self.pid = 0
        self.is_asked = False
        self.hangs = False
        world.began(self)

    def attach(self) -> None: ...

    def send(self, message: ToTrainer) -> None:
        if isinstance(message, Run):
            self._world.step("run")
            self._training = asyncio.create_task(self._train(), name="trainer")

    async def ask(self, question: ToTrainer, answer: type) -> Any:
        del answer
        async with self._one_question:
            self.is_asked = True
            try:
                await self._takes(0.01)
                self._world.step(type(question).__name__)
                await self._takes(0.1)
                return self._answer(question)
            except KilledError:
                self.kill()
                raise self.error() from None
            finally:
                self.is_asked = False

    def error(self) -> LowcommError:
        return self.failure or TrainerError("killed")

    def kill(self) -> None:
        self.exit_status = self.exit_status or 1
        self.lost.set()

    def end_unfit(self, reason: str) -> None:
        self.failure = UnfitStateError(reason)
        self.kill()

    def end_hanging(self, silent_s: float) -> None:
        self.failure = TrainerHangError(f"{silent_s:.0f} s")
        self.kill()

    async def end(self, grace_s: float) -> None:
        del grace_s
        self.kill()
        if self._training is not None:
            await asyncio.wait({self._training})

    async def _takes(self, seconds: float) -> None:
        """Ends early, with the reason, when the process is ended."""
        try:
            async with asyncio.timeout(None if self.hangs else seconds):
                await self.lost.wait()
        except TimeoutError:
            return
        raise self.error()

    async def _train(self) -> None:
        while True:
            try:
                await self._takes(2.0)
            except LowcommError:
                return
            self._trained += 1
            counters = self._begun.counters
            self._on_message(
                Report(
                    steps=counters.steps + self._trained, tokens=1, loss=1.0, validation_loss=1.0, learning_rate=0.1, gradient_norm=1.0,
                    progress_steps=counters.progress_steps + self._trained, step_seconds=1.0, tokens_per_second=1.0,
                )
            )  # fmt: skip

    @property
    def _state(self) -> TrainingState:
        if not self._trained:
            return self._begun
        counters = self._begun.counters
        return state_at(counters.progress_steps + self._trained, 99, counters.steps + self._trained)

    def _answer(self, question: ToTrainer) -> FromTrainer:
        current = self._state
        counters = current.counters
        match question:
            case Configure():
                sketch = fingerprint_of(state_at(0.0, -1)).sketch
                return Ready(
                    parameters=48 * 32, shapes=((48, 32),), snapshot_bytes_max=state_bytes_bound(LAYOUT), train_tokens=1,
                    validation_tokens=1, device="cpu", initial_sketch=sketch,
                )  # fmt: skip
            case TakeFingerprint(path=path):
                state = read_state(Path(path), RUN, LAYOUT) if path else current
                return FingerprintTaken(fingerprint=fingerprint_of(state))
            case LoadState():
                return self._load(question)
            case WriteSnapshot(path=path):
                self._world.wrote(content_of(current))
                write_state(Path(path), current, RUN)
                return SnapshotWritten(path=path, progress_steps=counters.progress_steps, steps=counters.steps)
            case WriteCheckpoint(path=path) | Stop(path=path):
                self._world.wrote(content_of(current), Path(path))
                write_checkpoint(Path(path), current, RUN, MeetingMemory(due=question.due))
                if isinstance(question, Stop):
                    self.has_stopped = True
                    return Stopped(path=path)
                return CheckpointWritten(path=path, progress_steps=counters.progress_steps, steps=counters.steps)
        raise StoreError(f"not a question: {question}")

    def _load(self, question: LoadState) -> StateLoaded:
        path = Path(question.path)
        if question.is_own:
            state, memory = read_checkpoint(path, RUN, LAYOUT)
        else:
            state, memory = read_state(path, RUN, LAYOUT), MeetingMemory()
        self._world.loaded(question, content_of(state))
        self._begun, self._trained = state, 0
        counters = state.counters
        return StateLoaded(progress_steps=counters.progress_steps, steps=counters.steps, tokens=0, due=memory.due)
