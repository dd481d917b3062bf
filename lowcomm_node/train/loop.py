"""The training loop: between two steps, serve what the daemon asks; then take the next step. It never waits to train."""

import resource
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from lowcomm_node.algo.consensus import count_sketch
from lowcomm_node.core.commands import ApplyClose, DropMeeting, EncodeAnswer, EncodeClose, EncodeOffer, SettleMeeting
from lowcomm_node.core.events import CorrectionApplied, EncodingRefused, OfferEncoded
from lowcomm_node.core.progress import is_finished, is_plausible, mark_of
from lowcomm_node.core.spread import MarkedSketch, kept
from lowcomm_node.errors import RefusalReason, StoreError, TrainerError
from lowcomm_node.train.checkpoint import MeetingMemory, read_checkpoint, write_checkpoint
from lowcomm_node.train.data.prefetch import Prefetch
from lowcomm_node.train.desk import MeetingCommand, MeetingDesk, MeetingEvent
from lowcomm_node.train.evaluate import look_at
from lowcomm_node.train.fingerprint import fingerprint_of
from lowcomm_node.train.frozen_requests import serve_frozen
from lowcomm_node.train.mailbox import Mailbox
from lowcomm_node.train.messages import (
    CheckpointWritten,
    Configure,
    Failed,
    FingerprintTaken,
    LoadState,
    Run,
    SnapshotWritten,
    SplitWeights,
    StateLoaded,
    Stop,
    Stopped,
    TakeFingerprint,
    TakeFrozen,
    ToTrainer,
    WriteCheckpoint,
    WriteSnapshot,
)
from lowcomm_node.train.meter import Meter
from lowcomm_node.train.payloads import is_finite_offer
from lowcomm_node.train.session import Session
from lowcomm_node.train.state_file import Counters, TrainingState, read_state, write_state
from lowcomm_node.train.state_writer import StateJob, StateWriter
from lowcomm_node.units import Stream

__all__ = ["REPORT_EVERY_S", "Trainer"]

REPORT_EVERY_S = 0.1
_SHORTEST_WAIT_S = 0.05
"""A look into the mailbox takes microseconds. Up to some milliseconds more are the interpreter's doing (another thread
holds its lock) or the system's; what waits for a network waits longer, and counts."""

_STANDSTILL_S = 2.0
_STANDSTILL_STEPS = 8
"""A step that takes longer than either was interrupted: meetings, checkpoints and validation take less."""
_USUAL_STEPS = 32


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
        self._desk = MeetingDesk(session.replica, session.manifest, session.run_id, clock)
        self._meter = Meter(session.replica, session.manifest, clock)
        self._meter.exchanged, self._meter.held = self._desk.exchanged, self._desk.held
        self._meter.codec_work = self._desk.work.done
        self._writer = StateWriter(session.replica)
        self._batches = Prefetch(session.stream, stride=session.replica.num_devices)
        self._is_running = False
        self._is_stopped = False
        self._is_validation_stale = True
        self._has_reported_end = False
        self._stepped_at: float | None = None
        """When the last step ended, while the next one is to follow at once."""
        self._step_s = 0.0
        """What a step usually takes, with what is done after it."""

    def run(self) -> None:
        """Serve and train until Stop. Raises StoreError when the last checkpoint cannot be written."""
        with closing(self._batches), closing(self._writer):
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
                    self._copy_state()
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
        self._writer.while_idle()
        self._stepped_at = None
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
            case WriteSnapshot() | WriteCheckpoint():
                self._write(request)
            case TakeFingerprint():
                self._take_fingerprint(request)
            case SplitWeights() | TakeFrozen():
                self._freeze(request)
            case Stop():
                self._stop(request)
            case Configure():
                detail = "configured already; a trainer serves one run"
                self._mailbox.post(Failed(code=TrainerError.code, detail=detail, is_fatal=False))

    def _start(self) -> None:
        if not self._is_running:
            self._is_running = True
            self._meter.mark = self._mark()
            self._validate()
            self._mailbox.post(self._meter.report())

    def _step(self) -> None:
        replica, meter = self._replica, self._meter
        started = self._clock()
        batch = self._batches.batch(replica.data_cursor)
        drawn = self._clock()
        result = replica.train_step(batch)
        ended = self._clock()
        meter.blocked_seconds["data"] += drawn - started
        meter.stepped(result, ended - started)
        self._is_validation_stale = True
        every_steps = self._session.eval_every_steps
        if every_steps and replica.steps % every_steps == 0:
            self._validate()
        if self._mark() > meter.mark:
            self._sketch()
        if meter.window_seconds() >= REPORT_EVERY_S and not self._mailbox.has_unsent():
            self._mailbox.post(meter.report())
        self._notice_standstill(started)

    def _notice_standstill(self, started: float) -> None:
        """Was this process stopped, or the machine asleep, for much longer than a step takes?"""
        since, self._stepped_at = self._stepped_at or started, self._clock()
        took_s = self._stepped_at - since
        if self._step_s and took_s > max(_STANDSTILL_S, _STANDSTILL_STEPS * self._step_s):
            self._desk.stood_still(int(took_s / self._step_s))
        else:
            self._step_s = took_s if not self._step_s else self._step_s + (took_s - self._step_s) / _USUAL_STEPS

    def _meet(self, command: MeetingCommand) -> None:
        started = self._clock()
        event = self._vetted(self._desk.handle(command))
        if isinstance(event, CorrectionApplied):
            self._replica.share(with_optimizer=any(stream is not Stream.PARAMS for stream, _ in event.norms))
        work_s = self._clock() - started
        self._meter.exchange_seconds += work_s
        if isinstance(event, CorrectionApplied):
            self._is_validation_stale = True
            self._has_reported_end = False
        if event is not None:
            self._mailbox.post(replace(event, work_s=work_s))

    def _vetted(self, event: MeetingEvent | None) -> MeetingEvent | None:
        """An own offer that holds a NaN or an infinity is not sent: whoever got it would take this node for a hostile one."""
        if not isinstance(event, OfferEncoded) or all(
            is_finite_offer(self._replica, plan, part) for plan, part in zip(event.plans, event.parts, strict=True)
        ):
            return event
        return EncodingRefused(
            meeting_id=event.meeting_id, reason=RefusalReason.NONFINITE, detail="our own state is not finite"
        )

    def _report_end(self) -> None:
        """Tell once that the run is over, and again after each meeting that still moves the weights."""
        if self._has_reported_end:
            return
        if self._is_validation_stale:
            self._validate()
        self._sketch()  # nobody moves on from here, so the last mark is where all stand
        self._mailbox.post(self._meter.report())
        self._has_reported_end = True

    def _validate(self) -> None:
        self._is_validation_stale = False
        if self._session.eval_every_steps:
            replica = self._replica
            self._meter.held_out = look_at(replica.model, self._session.validation, replica.loss, replica.micro_batches)

    def _mark(self) -> int:
        return mark_of(self._replica.progress_steps, self._training)

    def _sketch(self) -> None:
        """Only when progress has just passed a mark: sketches of one mark tell how far apart nodes are, and not how far they have come."""
        meter = self._meter
        meter.mark = self._mark()
        sums = tuple(count_sketch(self._replica.theta).tolist())
        meter.sketches = kept(meter.sketches, MarkedSketch(meter.mark, sums))

    def _load(self, request: LoadState) -> None:
        replica, path, run_id = self._replica, Path(request.path), self._session.run_id
        try:
            if request.is_own:
                state, memory = read_checkpoint(path, run_id, replica.layout())
            else:
                state, memory = read_state(path, run_id, replica.layout()), MeetingMemory()
            if not is_plausible(state.counters.progress_steps, self._training):
                raise StoreError(
                    f"{path}: state refused: progress {state.counters.progress_steps} is beyond the run's end"
                )
            if memory.learnt:
                self._desk.recall(memory.learnt)
        except StoreError as error:
            self._mailbox.post(Failed(code=error.code, detail=str(error), is_fatal=False))
            return
        replica.load(state, is_own=request.is_own)
        self._desk.forget_all(memory.applied_meetings)
        if not request.is_own:
            self._desk.join()
        elif request.away_steps:
            self._desk.stood_still(request.away_steps)
        self._is_validation_stale = True
        loaded = StateLoaded(
            progress_steps=replica.progress_steps,
            steps=replica.steps,
            tokens=replica.tokens,
            due=memory.due,
            applied_meetings=memory.applied_meetings,
        )
        self._mailbox.post(loaded)

    def _write(self, request: WriteSnapshot | WriteCheckpoint) -> None:
        """Have the state written by the other thread, from the next boundary at which there is memory for its copy."""

        def freeze() -> Callable[[TrainingState], None]:
            if isinstance(request, WriteCheckpoint):
                return self._checkpoint_to(request.path, request.due)
            return lambda state: write_state(Path(request.path), state, self._session.run_id)

        def tell(counters: Counters) -> None:
            progress, steps = counters.progress_steps, counters.steps
            if isinstance(request, WriteCheckpoint):
                self._mailbox.post(CheckpointWritten(path=request.path, progress_steps=progress, steps=steps))
            else:
                self._mailbox.post(SnapshotWritten(path=request.path, progress_steps=progress, steps=steps))

        def fail(error: StoreError) -> None:
            self._mailbox.post(Failed(code=error.code, detail=str(error), is_fatal=False))

        self._writer.add(StateJob(freeze=freeze, on_written=tell, on_failed=fail))

    def _copy_state(self) -> None:
        if not self._writer.is_asked:
            return
        started = self._clock()
        if self._writer.at_boundary():
            self._meter.blocked_seconds["checkpoint"] += self._clock() - started

    def _checkpoint_to(self, path: str, due: Mapping[Stream, int]) -> Callable[[TrainingState], None]:
        memory = MeetingMemory(due=due, applied_meetings=self._desk.applied_meetings, learnt=self._desk.learnt())
        return lambda state: write_checkpoint(Path(path), state, self._session.run_id, memory)

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

    def _freeze(self, request: SplitWeights | TakeFrozen) -> None:
        started = self._clock()
        reply = serve_frozen(self._replica, request, self._session.run_id)
        self._meter.exchange_seconds += self._clock() - started
        self._mailbox.post(reply)

    def _stop(self, request: Stop) -> None:
        self._is_stopped = True
        self._writer.finish()
        if request.path:
            self._checkpoint_to(request.path, request.due)(self._replica.state())  # nothing changes it any more
        self._mailbox.post(Stopped(path=request.path))


def _voluntary_switches() -> int:
    # Where the system cannot tell for one thread, the whole process stands in for it: rather too many than too few.
    return resource.getrusage(getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)).ru_nvcsw
