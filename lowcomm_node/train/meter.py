"""What training tells the daemon about itself: means over the steps since the last report, and running sums."""

import math
from collections.abc import Callable, Mapping

import torch

from lowcomm_node.core.progress import is_finished
from lowcomm_node.core.spread import MarkedSketch
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.evaluate import Look
from lowcomm_node.train.exchanged import Exchanged
from lowcomm_node.train.messages import Report
from lowcomm_node.train.replica import Replica, StepResult
from lowcomm_node.units import Codec, Stream

__all__ = ["BLOCKED_CAUSES", "Meter"]

BLOCKED_CAUSES = ("meeting", "data", "sync", "checkpoint")


class Meter:
    """Collects measurements; ``report`` turns them into a Report and starts a new window."""

    def __init__(self, replica: Replica, manifest: Manifest, clock: Callable[[], float]) -> None:
        self._replica = replica
        self._training = manifest.training
        self._clock = clock
        self.blocked_seconds = dict.fromkeys(BLOCKED_CAUSES, 0.0)
        self.exchange_seconds = 0.0
        self.held_out = Look(loss=math.nan)
        """The newest look."""
        self.held: Callable[[], dict[str, tuple[int, int]]] = dict
        self.mark = 0
        self.sketches: tuple[MarkedSketch, ...] = ()
        self.exchanged: Mapping[tuple[Stream, Codec], Exchanged] = {}
        self.codec_work: Mapping[tuple[str, Codec], tuple[int, float]] = {}
        self._last: StepResult | None = None
        self._start_window()

    def window_seconds(self) -> float:
        """Seconds since the last report."""
        return self._clock() - self._window_started

    def stepped(self, result: StepResult, seconds: float) -> None:
        """Count one inner step."""
        self._last = result
        self._steps += 1
        self._tokens += result.tokens
        self._step_seconds += seconds
        if math.isfinite(result.loss):
            self._losses += 1
            self._loss_sum += result.loss

    def report(self) -> Report:
        """Where training stands. Means over no step at all are NaN (loss) or 0 (rates)."""
        replica = self._replica
        seconds = self.window_seconds()
        report = Report(
            steps=replica.steps,
            tokens=replica.tokens,
            loss=self._loss_sum / self._losses if self._losses else math.nan,
            validation_loss=self.held_out.loss,
            validation_accuracy=self.held_out.accuracy,
            learning_rate=self._last.learning_rate if self._last else 0.0,
            gradient_norm=self._last.gradient_norm if self._last else 0.0,
            progress_steps=replica.progress_steps,
            step_seconds=self._step_seconds / self._steps if self._steps else 0.0,
            tokens_per_second=self._tokens / seconds if seconds > 0 else 0.0,
            blocked_seconds=dict(self.blocked_seconds),
            exchange_seconds=self.exchange_seconds,
            nonfinite_steps=replica.nonfinite_steps,
            outer_steps=replica.outer_steps,
            micro_batches=replica.micro_batches,
            exchanged=dict(self.exchanged),
            codec_work=dict(self.codec_work),
            device_memory=_memory_of(replica.device),
            held=self.held(),
            sketches=self.sketches,
            is_finished=is_finished(replica.progress_steps, self._training),
            ab=None if replica.ab is None else replica.ab.report(replica.progress_steps),
        )
        self._start_window()
        return report

    def _start_window(self) -> None:
        self._window_started = self._clock()
        self._steps = 0
        self._tokens = 0
        self._step_seconds = 0.0
        self._losses = 0
        self._loss_sum = 0.0


def _memory_of(device: torch.device) -> tuple[int, int] | None:
    """Bytes that tensors take on a GPU, and that torch has reserved there."""
    if device.type != "cuda":
        return None
    return torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
