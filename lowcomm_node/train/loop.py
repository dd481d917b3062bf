"""The training loop: between two steps, serve what the daemon asks; then take the next step. It never waits to train."""

import resource
import time
from collections.abc import Callable
from pathlib import Path

from lowcomm_node.algo.consensus import count_sketch
from lowcomm_node.core.commands import ApplyClose, DropMeeting, EncodeAnswer, EncodeClose, EncodeOffer, SettleMeeting
from lowcomm_node.core.events import CorrectionApplied
from lowcomm_node.core.progress import is_finished, is_plausible
from lowcomm_node.errors import StoreError, TrainerError
from lowcomm_node.train.desk import MeetingCommand, MeetingDesk
from lowcomm_node.train.evaluate import validation_loss
from lowcomm_node.train.fingerprint import fingerprint_of
from lowcomm_node.train.mailbox import Mailbox
from lowcomm_node.train.messages import (
    Configure,
    Failed,
    FingerprintTaken,
    LoadState,
    Run,
    SnapshotWritten,
    StateLoaded,
    Stop,
    Stopped,
    TakeFingerprint,
    ToTrainer,
    WriteSnapshot,
)
from lowcomm_node.train.meter import Meter
from lowcomm_node.train.session import Session
from lowcomm_node.train.state_file import read_state, write_state
from lowcomm_node.units import Stream

__all__ = ["REPORT_EVERY_S", "Trainer"]

REPORT_EVERY_S = 0.1
_SHORTEST_WAIT_S = 0.05
"""A look into the mailbox takes microseconds. Up to some milliseconds more are the interpreter's doing (another thread
holds its lock) or the system's; what waits for a network waits longer, and counts."""


class Trainer:
    """Drives one session from a mailbox.

    ``clock`` is monotonic seconds; ``num_waits`` how often this thread has let go of the processor to wait for
    something, which tells a wait from the system having given the processor to somebody else.
    """

    def __init__(
        self,
        session: Session,
        mailbox: Mailbox,
        clock: Callable[[], float] = time.monotonic,
        num_waits: Callable[[], int] | None = None,
    ) -> None:
        self._session = session
        self._replica = session.replica
        self._training = session.manifest.training
        self._mailbox = mailbox
        self._clock = clock
        self._num_waits = num_waits or _voluntary_switches
        self._desk = MeetingDesk(session.replica, session.manifest, session.run_id)
        self._meter = Meter(session.replica, session.manifest, clock)
        self._is_running = False
        self._is_stopped = False
        self._is_validation_stale = True
        self._has_reported_end = False

    def run(self) -> None:
        """Serve and train until Stop. Raises StoreError when the last state cannot be written."""
        while True:
            self._serve()
            if self._is_stopped:
                return
            self._step()

    def _can_train(self) -> bool:
        return self._is_running and not is_finished(self._replica.progress_steps, self._training)

    def _serve(self) -> None:
        """Handle requests until there is a step to take, or Stop."""
        while not self._is_stopped:
            if self._can_train():
                request = self._take_between_steps()
                if request is None:
                    return
            else:
                request = self._wait_without_training()
            self._handle(request)

    def _take_between_steps(self) -> ToTrainer | None:
        started, waits = self._clock(), self._num_waits()
        request = self._mailbox.take()
        waited = self._clock() - started
        if waited >= _SHORTEST_WAIT_S and self._num_waits() > waits:
            self._meter.blocked_seconds["meeting"] += waited
        return request

    def _wait_without_training(self) -> ToTrainer:
        """Before Run, or after the last step: there is nothing to do but to serve."""
        if self._is_running:
            request = self._mailbox.take()
            if request is not None:
                return request
            self._report_end()
            return self._mailbox.wait()
        started = self._clock()
        request = self._mailbox.wait()
        self._meter.blocked_seconds["sync"] += self._clock() - started
        return request

    def _handle(self, request: ToTrainer) -> None:
        match request:
            case EncodeOffer() | EncodeAnswer() | EncodeClose() | ApplyClose() | SettleMeeting() | DropMeeting():
                self._meet(request)
            case Run():
                self._start()
            case LoadState():
                self._load(request)
            case WriteSnapshot():
                self._write_snapshot(request)
            case TakeFingerprint():
                self._take_fingerprint(request)
            case Stop():
                self._stop(request)
            case Configure():
                detail = "configured already; a trainer serves one run"
                self._mailbox.post(Failed(code=TrainerError.code, detail=detail, is_fatal=False))

    def _start(self) -> None:
        if not self._is_running:
            self._is_running = True
            self._validate()
            self._mailbox.post(self._meter.report())

    def _step(self) -> None:
        replica, meter = self._replica, self._meter
        started = self._clock()
        batch = self._session.stream.batch(replica.data_cursor)
        drawn = self._clock()
        result = replica.train_step(batch)
        ended = self._clock()
        meter.blocked_seconds["data"] += drawn - started
        meter.stepped(result, ended - started)
        self._is_validation_stale = True
        every_steps = self._session.eval_every_steps
        if every_steps and replica.steps % every_steps == 0:
            self._validate()
        if meter.window_seconds() >= REPORT_EVERY_S and not self._mailbox.has_unsent():
            self._mailbox.post(meter.report())

    def _meet(self, command: MeetingCommand) -> None:
        started = self._clock()
        event = self._desk.handle(command)
        if isinstance(event, CorrectionApplied):
            self._replica.share(with_optimizer=any(stream is not Stream.PARAMS for stream, _ in event.norms))
        self._meter.exchange_seconds += self._clock() - started
        if isinstance(event, CorrectionApplied):
            self._is_validation_stale = True
            self._has_reported_end = False
        if event is not None:
            self._mailbox.post(event)

    def _report_end(self) -> None:
        """Tell once that the run is over, and again after each meeting that still moves the weights."""
        if self._has_reported_end:
            return
        if self._is_validation_stale:
            self._validate()
        self._mailbox.post(self._meter.report())
        self._has_reported_end = True

    def _validate(self) -> None:
        self._is_validation_stale = False
        if self._session.eval_every_steps:
            self._meter.validation_loss = validation_loss(self._replica.model, self._session.validation)
            self._meter.sketch = tuple(count_sketch(self._replica.theta).tolist())

    def _load(self, request: LoadState) -> None:
        replica, path = self._replica, Path(request.path)
        try:
            state = read_state(path, self._session.run_id, replica.layout())
            if not is_plausible(state.counters.progress_steps, self._training):
                raise StoreError(
                    f"{path}: state refused: progress {state.counters.progress_steps} is beyond the run's end"
                )
        except StoreError as error:
            self._mailbox.post(Failed(code=error.code, detail=str(error), is_fatal=False))
            return
        replica.load(state, is_own=request.is_own)
        self._desk.forget_all()
        if not request.is_own:
            self._desk.join()
        self._is_validation_stale = True
        loaded = StateLoaded(progress_steps=replica.progress_steps, steps=replica.steps, tokens=replica.tokens)
        self._mailbox.post(loaded)

    def _write_snapshot(self, request: WriteSnapshot) -> None:
        replica = self._replica
        try:
            write_state(Path(request.path), replica.state(), self._session.run_id)
        except StoreError as error:
            self._mailbox.post(Failed(code=error.code, detail=str(error), is_fatal=False))
            return
        written = SnapshotWritten(path=request.path, progress_steps=replica.progress_steps, steps=replica.steps)
        self._mailbox.post(written)

    def _take_fingerprint(self, request: TakeFingerprint) -> None:
        started = self._clock()
        try:
            state = self._replica.state()
            if request.path:
                state = read_state(Path(request.path), self._session.run_id, self._replica.layout())
        except StoreError as error:
            self._mailbox.post(Failed(code=error.code, detail=str(error), is_fatal=False))
            return
        self._mailbox.post(FingerprintTaken(fingerprint=fingerprint_of(state)))
        self._meter.exchange_seconds += self._clock() - started

    def _stop(self, request: Stop) -> None:
        self._is_stopped = True
        if request.path:
            write_state(Path(request.path), self._replica.state(), self._session.run_id)
        self._mailbox.post(Stopped(path=request.path))


def _voluntary_switches() -> int:
    # Where the system cannot tell for one thread, the whole process stands in for it: rather too many than too few.
    return resource.getrusage(getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)).ru_nvcsw
