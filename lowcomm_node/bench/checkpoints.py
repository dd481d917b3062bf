"""What a checkpoint costs a node that trains: the real replica, writer and store, and quiet and busy steps side by side.

A training thread takes steps the whole time, as in ``train.loop``, and the checkpoint is copied between two of them and written by
the other thread. So that a machine that is busy otherwise does not lie, steps without a checkpoint are measured right before and
after each one, medians are compared, and only their ratio is a result.
"""

import bisect
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import psutil
import torch

from lowcomm_node.adapters.checkpoint_store import CheckpointStore
from lowcomm_node.bench.plan import CheckpointRequest
from lowcomm_node.errors import ConfigError, StoreError
from lowcomm_node.settings.canonical import run_id
from lowcomm_node.settings.manifest import Manifest, ModelConfig, TrainingConfig
from lowcomm_node.settings.node import CheckpointSettings, DeviceSettings
from lowcomm_node.settings.presets import OPTIMIZERS
from lowcomm_node.train.checkpoint import MeetingMemory, write_checkpoint
from lowcomm_node.train.replica import Replica
from lowcomm_node.train.session import choose_device
from lowcomm_node.train.state_file import TrainingState, state_bytes_bound
from lowcomm_node.train.state_writer import StateJob, StateWriter

__all__ = ["CheckpointCost", "manifest_of_size", "measure_checkpoints"]

_MIB = 1 << 20
_NUM_LAYERS = 4
_CONTEXT_LENGTH = 32
_MIN_WIDTH, _MAX_WIDTH = 8, 65536
_WARM_UP_STEPS = 3
_QUIET_S = 2.0
"""Steps without a checkpoint between two with one: at least so long, and ..."""
_QUIET_STEPS = 6
"""... so many."""
_PATIENCE_S = 600.0
_MEMORY_RATIO = 2.5
"""Of the state: itself with gradients, its copy, and what goes through the page cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointCost:
    """What was measured for one state. Durations are seconds."""

    device: str
    parameters: int
    state_bytes: int
    memory_s: float
    """The writer's thread took the memory of the copy, once, while training went on."""
    first_pause_s: float
    """Training stood still for the copy."""
    pauses_s: tuple[float, ...]
    """Of all copies but the first."""
    writes_s: tuple[float, ...]
    """The writer's thread needed for each, from the copy to the folder that is safe on disk."""
    in_place_s: tuple[float, ...]
    """The same written by the training thread itself, which stands still for it."""
    quiet_steps_s: tuple[tuple[float, ...], ...]
    """Steps right before and after each checkpoint."""
    busy_steps_s: tuple[tuple[float, ...], ...]
    """Steps that lie within the writing of each; empty where a step is longer than that."""

    @property
    def step_s(self) -> float:
        """A step without a checkpoint."""
        return statistics.median(step_s for steps_s in self.quiet_steps_s for step_s in steps_s)

    @property
    def slowdowns(self) -> tuple[float, ...]:
        """Of each checkpoint: a step while it is written, as a multiple of one right before and after."""
        rounds = zip(self.quiet_steps_s, self.busy_steps_s, strict=True)
        return tuple(statistics.median(busy) / statistics.median(quiet) for quiet, busy in rounds if busy)

    @property
    def slowdown(self) -> float | None:
        """Of a checkpoint in the middle of all; None where no step lies within one."""
        return statistics.median(self.slowdowns) if self.slowdowns else None

    @property
    def bytes_per_s(self) -> float:
        """Of the writer's thread."""
        return self.state_bytes / statistics.median(self.writes_s)

    @property
    def lost_s(self) -> float | None:
        """Training time that one checkpoint costs: the pause, and what steps take longer while it is written."""
        if self.slowdown is None:
            return None
        slowed_s = statistics.median(self.writes_s) * (1 - 1 / self.slowdown)
        return statistics.median(self.pauses_s) + max(0.0, slowed_s)


def measure_checkpoints(
    request: CheckpointRequest, folder: Path, clock: Callable[[], float] = time.perf_counter
) -> Iterator[CheckpointCost]:
    """One state after the other, in ``folder``, which should be on the disk in question; the last checkpoint of each stays there.

    Sets torch's number of threads. Raises ConfigError when the memory does not suffice, and StoreError.
    """
    if request.threads:
        torch.set_num_threads(request.threads)
    device = choose_device(DeviceSettings(name=request.device))
    for mib in request.mib:
        available = psutil.virtual_memory().available
        if _MEMORY_RATIO * mib * _MIB > available:
            raise ConfigError(
                f"--mib {mib:g} needs about {_MEMORY_RATIO * mib:.0f} MiB of memory, {available // _MIB} are free"
            )
        yield _Measurement(manifest_of_size(mib * _MIB), device, folder / f"{mib:g}", clock).run(request.writes)


def manifest_of_size(num_bytes: float) -> Manifest:
    """A small run whose whole state has about ``num_bytes``, in as many tensors whatever the size: the width is chosen."""
    smallest = _manifest(_MIN_WIDTH)
    # With AdamW each parameter has as many numbers beside it.
    bytes_per_parameter = _tensor_bytes(Replica(smallest, torch.device("cpu"))) / smallest.model.num_parameters
    widths = range(_MIN_WIDTH, _MAX_WIDTH, 2)
    index = bisect.bisect(widths, num_bytes / bytes_per_parameter, key=lambda w: _manifest(w).model.num_parameters)
    return _manifest(widths[max(0, index - 1)])


def _manifest(width: int) -> Manifest:
    return Manifest(
        name="checkpoint",
        model=ModelConfig(
            num_layers=_NUM_LAYERS, num_heads=1, d_model=width, d_ff=4 * width, context_length=_CONTEXT_LENGTH
        ),
        training=TrainingConfig(batch_size=1, total_steps=1_000_000),
        optimizer=OPTIMIZERS["adamw"],
    )


def _tensor_bytes(replica: Replica) -> int:
    return sum(math.prod(spec.shape) * spec.dtype.itemsize for spec in replica.layout().values())


class _Measurement:
    """Of one state."""

    def __init__(self, manifest: Manifest, device: torch.device, folder: Path, clock: Callable[[], float]) -> None:
        self._manifest = manifest
        self._run_id = run_id(manifest)
        self._replica = Replica(manifest, device)
        self._writer = StateWriter(self._replica)
        self._store = CheckpointStore(folder, CheckpointSettings(keep=1), warn=_refuse)
        self._clock = clock
        self._random = torch.Generator().manual_seed(0)
        self._memory_s = 0.0
        self._pauses_s: list[float] = []
        self._writes_s: list[float] = []
        self._in_place_s: list[float] = []
        self._quiet_steps_s: list[tuple[float, ...]] = []
        self._busy_steps_s: list[tuple[float, ...]] = []

    def run(self, num_writes: int) -> CheckpointCost:
        """Write ``num_writes`` checkpoints either way. Raises StoreError."""
        for _ in range(_WARM_UP_STEPS):
            self._step()
        with closing(self._writer):
            for _ in range(num_writes):
                before = self._take_quiet_steps()
                self._write_while_training()
                self._quiet_steps_s.append((*before, *self._take_quiet_steps()))
                self._write_in_place()
        return CheckpointCost(
            device=str(self._replica.device),
            parameters=self._manifest.model.num_parameters,
            state_bytes=_tensor_bytes(self._replica),
            memory_s=self._memory_s,
            first_pause_s=self._pauses_s[0],
            pauses_s=tuple(self._pauses_s[1:]),
            writes_s=tuple(self._writes_s),
            in_place_s=tuple(self._in_place_s),
            quiet_steps_s=tuple(self._quiet_steps_s),
            busy_steps_s=tuple(self._busy_steps_s),
        )

    def _step(self) -> float:
        started = self._clock()
        tokens = torch.randint(self._manifest.model.vocab_size, (1, _CONTEXT_LENGTH + 1), generator=self._random)
        self._replica.train_step(tokens)
        return self._clock() - started

    def _take_quiet_steps(self) -> list[float]:
        until = self._clock() + _QUIET_S
        steps = [self._step() for _ in range(_QUIET_STEPS)]
        while self._clock() < until:
            steps.append(self._step())
        return steps

    def _write_while_training(self) -> None:
        ended_at: list[float] = []
        errors: list[StoreError] = []
        path = self._begin()

        def freeze() -> Callable[[TrainingState], None]:
            return lambda state: write_checkpoint(path, state, self._run_id, MeetingMemory())

        def end(_: object) -> None:
            ended_at.append(self._clock())

        self._writer.add(StateJob(freeze=freeze, on_written=end, on_failed=errors.append))
        asked_at = self._clock()
        while True:
            stopped_at = self._clock()
            if self._writer.at_boundary():
                break
            self._step()
            self._check(errors, asked_at)
        copied_at = self._clock()
        if not self._pauses_s:
            self._memory_s = stopped_at - asked_at
        self._pauses_s.append(copied_at - stopped_at)
        steps: list[tuple[float, float]] = []
        while not ended_at:
            took_s = self._step()
            steps.append((took_s, self._clock()))
            self._check(errors, copied_at)
        self._store.ended()
        self._writes_s.append(ended_at[0] - copied_at)
        self._busy_steps_s.append(tuple(took_s for took_s, until in steps if until <= ended_at[0]))

    def _write_in_place(self) -> None:
        path = self._begin()
        started_at = self._clock()
        write_checkpoint(path, self._replica.state(), self._run_id, MeetingMemory())
        self._in_place_s.append(self._clock() - started_at)
        self._store.ended()

    def _begin(self) -> Path:
        return self._store.begin(state_bytes_bound(self._replica.layout()))

    def _check(self, errors: Sequence[StoreError], since_s: float) -> None:
        if errors:
            raise errors[0]
        if self._clock() - since_s > _PATIENCE_S:
            raise StoreError(f"a checkpoint was not written within {_PATIENCE_S:.0f} s")


def _refuse(what: str, path: Path, detail: str) -> NoReturn:
    raise StoreError(f"{path}: {what}: {detail}")
