"""The trainer over the node's whole life: build, sync, train, checkpoint, snapshot, and start again when the process dies."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lowcomm_node.adapters.checkpoint_store import CheckpointStore
from lowcomm_node.core.events import Member, TrainerReady
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.daemon.children import Children
from lowcomm_node.daemon.donors import Donors, DownloadRules
from lowcomm_node.daemon.looks import SNAPSHOT_PREFIX, Answer, Looks
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.daemon.supervisor import TrainerSupervisor
from lowcomm_node.daemon.sync import StateSources, obtain_state
from lowcomm_node.daemon.trainer_session import TrainerSession
from lowcomm_node.errors import LowcommError, StoreError, TrainerError, UnfitStateError
from lowcomm_node.ports import ChildKind, StateClient
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.train.messages import (
    CheckpointWritten,
    Configure,
    FingerprintTaken,
    FromTrainer,
    LoadState,
    Ready,
    Report,
    Run,
    StateLoaded,
    Stop,
    Stopped,
    ToTrainer,
    WriteCheckpoint,
)
from lowcomm_node.units import PeerId, RunId, Stream

__all__ = ["Training"]

_T = TypeVar("_T")

_SAVE_GRACE_S = 60.0
_END_GRACE_S = 5.0
_BRIEFLY_S = 600.0
"""A pause no longer than this is gone on from with the own state, however far others have come meanwhile: it costs no download, and
the trainer counts less at first (decision 0007)."""
_PATIENCE_S = 15.0
"""Seconds to look for a donor before an older state will do. Only who starts a run and knows nobody need not look."""


class Training:
    """Owns the trainer process.

    ``enter(state, detail)`` is told where this part of the node's life stands. While ``is_sound`` says no, what is trained
    is unfit to be given to others. ``clock`` is monotonic seconds.
    """

    def __init__(
        self,
        *,
        settings: NodeSettings,
        state_dir: Path,
        recorder: Recorder,
        children: Children,
        on_message: Callable[[FromTrainer], None],
        on_lost: Callable[[], None],
        enter: Callable[[str, str], None],
        is_sound: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._state_dir = state_dir
        self._recorder = recorder
        self._children = children
        self._on_message = on_message
        self._on_lost = on_lost
        self._enter = enter
        self._is_sound = is_sound
        self._clock = clock
        self._session = TrainerSession(self._said)
        self._question: Configure | None = None
        self._supervisor = TrainerSupervisor(settings.device, state_dir, recorder, clock)
        self._looks = Looks(state_dir, self.ask, clock)
        self._checkpoints = CheckpointStore(state_dir, settings.checkpoint, recorder.checkpoints_need_care)
        self._one_checkpoint = asyncio.Lock()
        self._saved_at: tuple[int, int] | None = None
        self._is_built = self._has_trained = False
        self._released_at: float | None = None
        """When the state was saved for a pause that no trainer has come back from yet; wall clock, as machines sleep."""
        self.ready: Ready | None = None
        self.report: Report | None = None
        """The trainer's newest report."""
        self.started_loss = math.nan
        """Validation loss before the first step of this life."""
        self.beat: float | None = None
        """Monotonic time of the trainer's last sign of life while it trains."""
        self.loaded: StateLoaded | None = None
        """What the state that this trainer began with brought along; None for the initial weights."""
        self.has_state = False
        """Weights are in place: this node can meet, and give its state to joiners."""

    @property
    def pids(self) -> tuple[int, ...]:
        """Trainer and followers, those of now or of last."""
        return (self._session.pid, *(self.ready.follower_pids if self.ready is not None else ()))

    def attach(self) -> None:
        """Listen to the trainer from now on, in the running loop. The state directory is ours alone by now."""
        self._session.attach()
        self._children.started(ChildKind.TRAINER, self._session.pid)

    @property
    def is_up(self) -> bool:
        """There is a trainer process, whatever it is doing."""
        return not self._session.lost.is_set()

    def send(self, message: ToTrainer) -> None:
        """Pass a request on."""
        self._session.send(message)

    async def ask(self, question: ToTrainer, answer: type[Answer], /) -> Answer:
        """Ask the trainer that there is now. Raises LowcommError."""
        return await self._session.ask(question, answer)

    def kill(self) -> None:
        self._session.kill()

    def heal(self, reason: str) -> None:
        """Begin anew with a donor's state: the one in place is unfit."""
        self._session.end_unfit(reason)

    async def configure(self, manifest: Manifest, run: RunId, peer: PeerId) -> Ready:
        """Build model and data, again when the trainer dies over it. Raises ConfigError, DataError, TrainerError."""
        await asyncio.to_thread(self._clear_leftovers)
        self._supervisor.begin(manifest, run)
        self._question = Configure(manifest=manifest, settings=self._settings, run_id=run, peer_id=peer)
        while True:
            self._supervisor.starts()
            try:
                return await self._watched(self._configure(self._question))
            except TrainerError as error:
                await self._restart(error, "connecting")

    def has_checkpoint(self, run: RunId) -> bool:
        """Could this node go on with the run by itself?"""
        return bool(self._checkpoints.candidates(run))

    async def live(
        self,
        *,
        is_first: bool,
        knows_nobody: bool,
        find_donors: Callable[[], Awaitable[tuple[Member, ...]]],
        client: StateClient,
        on_training: Callable[[], None],
    ) -> None:
        """Sync and train, again whenever the trainer dies; gives up when it keeps dying. Raises LowcommError."""
        patience_s = 0.0 if knows_nobody and not self._has_trained else _PATIENCE_S
        is_unfit = False
        while True:
            self._supervisor.starts()
            try:
                if not self._is_built and self._question is not None:
                    # Here, so that failing at it counts as failing again.
                    await self._watched(self._configure(self._question))
                syncing = self._sync(
                    is_first=is_first,
                    patience_s=patience_s,
                    is_unfit=is_unfit,
                    find_donors=find_donors,
                    client=client,
                )
                await self._watched(syncing)
                is_unfit = False
                self._session.send(Run())
                self.has_state = self._has_trained = True
                self._released_at = None
                self._enter("training", "")
                on_training()
                await self._supervisor.watch(self._session, self._has_finished)
                if self._session.has_stopped:
                    await asyncio.Event().wait()  # whoever has had it save and stop ends this as well
                raise self._session.error()
            except TrainerError as error:
                if isinstance(error, UnfitStateError):
                    is_unfit = True  # until another state is in place, however often the trainer falls meanwhile
                    self._looks.forget()
                self.has_state, self.beat = False, None
                await self._restart(error, "syncing")
                patience_s = _PATIENCE_S

    def began_with(self) -> TrainerReady:
        """What the core has to know of the state in place."""
        if self.loaded is None:
            return TrainerReady()
        return TrainerReady(applied_meetings=self.loaded.applied_meetings, due=tuple(self.loaded.due.items()))

    async def take_snapshot(self) -> tuple[Path, float]:
        """As ``Looks.snapshot``. Raises StoreError besides."""
        self._check_state()
        return await self._looks.snapshot()

    async def take_fingerprint(self) -> Fingerprint:
        """As ``Looks.fingerprint``."""
        self._check_state()
        return await self._looks.fingerprint()

    async def keep_checkpoints(self, due: Callable[[], Mapping[Stream, int]]) -> None:
        """Write one every so often, for ever; one that fails costs nothing but itself. ``due`` as WriteCheckpoint has it."""
        every_s = self._settings.checkpoint.every_s
        while every_s:
            await asyncio.sleep(every_s)
            if not self.has_state or self._moved_to() == self._saved_at:
                continue  # a run that is over need not wear out the disk
            if not self._is_sound():
                continue  # an unfit state shall not take the place of one from before
            moved_to = self._moved_to()
            try:
                async with self._one_checkpoint:
                    path = await self._begin_checkpoint()
                    await self._session.ask(WriteCheckpoint(path=str(path), due=due()), CheckpointWritten)
                    await asyncio.to_thread(self._checkpoints.ended)
            except LowcommError as error:
                self._recorder.checkpoint_failed(str(error))
                continue
            self._saved_at = moved_to
            self._recorder.checkpoint_written(self._checkpoints.used)

    async def save(self, due: Mapping[Stream, int]) -> bool:
        """Write the last checkpoint, unless there is no room for one or the state is unfit; the trainer ends. Raises StoreError."""
        try:
            async with asyncio.timeout(_SAVE_GRACE_S), self._one_checkpoint:
                has_room = self.ready is not None and self._checkpoints.fits(self.ready.snapshot_bytes_max)
                # An unfit state shall not be what the next life begins with.
                path = str(await self._begin_checkpoint()) if has_room and self._is_sound() else ""
                await self._session.ask(Stop(path=path, due=due), Stopped)
                await asyncio.to_thread(self._checkpoints.ended)
        except (LowcommError, TimeoutError) as error:
            self._recorder.checkpoint_failed(str(error))
            raise StoreError(f"the state could not be saved before leaving: {error}") from error
        if path:
            self._recorder.checkpoint_written(self._checkpoints.used)
        else:
            why = "this node's state is unfit" if has_room else "checkpoint.max_bytes leaves no room for one"
            self._recorder.checkpoint_failed(f"{why}: nothing was saved")
        return bool(path)

    async def release(self, due: Mapping[Stream, int]) -> None:
        """Save the state, if there is one, and end the trainer: what it held of machine and device is free. Only while ``live`` does not run.

        The owner goes first: where the state cannot be saved, which is logged, the checkpoint before it has to do.
        """
        had_state, self.has_state, self.beat = self.has_state, False, None
        if had_state:
            self._released_at = None
            with suppress(StoreError):
                self._released_at = time.time() if await self.save(due) else None
        await self._session.end(_END_GRACE_S if had_state else 0.0)
        self._forget_children()

    def wake(self) -> None:
        """Start another process; ``live`` does the rest."""
        self._session, self._is_built = TrainerSession(self._said), False
        self.beat = None  # the one before may have spoken until its end
        self.attach()

    async def end(self, grace_s: float) -> None:
        """Make sure the process is gone and nothing but the saved state is left."""
        await self._session.end(grace_s)
        self._forget_children()
        self._looks.drop_snapshot()

    async def _begin_checkpoint(self) -> Path:
        if self.ready is None:
            raise TrainerError("the trainer is not configured")
        self._recorder.metrics.checkpoint_began()
        return await asyncio.to_thread(self._checkpoints.begin, self.ready.snapshot_bytes_max)

    def _check_state(self) -> None:
        if not self.has_state:
            raise StoreError("this node has no state yet")
        if not self._is_sound():
            raise StoreError("this node's state is unfit; it is about to be replaced")

    def _moved_to(self) -> tuple[int, int]:
        """Changes with the state: own steps, and meetings."""
        return self.report.steps if self.report is not None else 0, self._recorder.tally.completed.total()

    def _clear_leftovers(self) -> None:
        """Remove what a life of this node that was killed has left; the directory is locked, so nobody uses it."""
        for pattern in (f"{SNAPSHOT_PREFIX}*", ".*.unfinished"):
            for path in self._state_dir.glob(pattern):
                path.unlink(missing_ok=True)
        self._checkpoints.clear_leftovers()
        self._recorder.metrics.checkpoints_take(self._checkpoints.used)

    async def _configure(self, question: Configure) -> Ready:
        self.ready = await self._session.ask(self._supervisor.with_micro_batches(question), Ready)
        for pid in self.ready.follower_pids:
            self._children.started(ChildKind.FOLLOWER, pid)
        self._is_built = True
        self._recorder.metrics.trainer_started(self._session.pid, self.ready.stream_sizes, self.ready.cuda)
        return self.ready

    async def _sync(
        self,
        *,
        is_first: bool,
        patience_s: float,
        is_unfit: bool,
        find_donors: Callable[[], Awaitable[tuple[Member, ...]]],
        client: StateClient,
    ) -> None:
        question, ready = self._question, self.ready
        if question is None or ready is None:
            raise TrainerError("the trainer is not configured")
        self._enter("syncing", "looking for a member that can give its state")
        sources = StateSources(
            run_id=question.run_id,
            checkpoints=self._checkpoints,
            is_first=is_first,
            patience_s=patience_s,
            is_unfit=is_unfit,
            away_steps=self._away_steps(),
            is_back_soon=self._released_at is not None and time.time() - self._released_at <= _BRIEFLY_S,
        )
        rules = DownloadRules(
            run_id=question.run_id,
            file=lambda _donor: self._state_dir / "download.safetensors",
            max_bytes=ready.snapshot_bytes_max,
            total_steps=question.manifest.training.total_steps,
            initial_sketch=ready.initial_sketch,
        )
        say = partial(self._enter, "syncing")
        donors = Donors(
            rules,
            find=find_donors,
            client=client,
            examine=lambda question: self._session.ask(question, FingerprintTaken),
            load=lambda _donor, question: self._load(question),
            say=say,
            recorder=self._recorder,
        )
        self.loaded = loaded = await obtain_state(sources, donors, load=self._load, say=say)
        if loaded is not None:
            self._recorder.metrics.trainer_resumed(loaded.steps, loaded.tokens)

    def _away_steps(self) -> int:
        """Own steps that a pause has cost, had they all been as long as the last ones."""
        if self._released_at is None or self.report is None or not self.report.step_seconds:
            return 0
        return int(max(0.0, time.time() - self._released_at) / self.report.step_seconds)

    async def _watched(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do something that asks the trainer questions, and end a trainer that answers none."""
        session = self._session
        watching = asyncio.create_task(self._supervisor.watch(session, lambda: not session.is_asked), name="watch")
        try:
            return await work
        finally:
            watching.cancel()
            await asyncio.wait({watching})

    async def _load(self, question: LoadState) -> StateLoaded:
        return await self._session.ask(question, StateLoaded)

    def _has_finished(self) -> bool:
        return self.report is not None and self.report.is_finished

    async def _restart(self, error: TrainerError, state: str) -> None:
        """Start another trainer after a while, or give up with a TrainerError; the node is in ``state`` meanwhile."""
        after_s = self._supervisor.fell(error, self._session.exit_status)
        self._on_lost()
        await self._session.end(0.0)
        self._forget_children()
        self._enter(state, f"the trainer ended ({error}); starting it again in {after_s:.0f} s")
        await asyncio.sleep(after_s)
        self.wake()

    def _forget_children(self) -> None:
        self._children.ended(*self.pids)

    def _said(self, message: FromTrainer) -> None:
        if isinstance(message, Report):
            self.report = message
            self.beat = None if message.is_finished else self._clock()
            if math.isnan(self.started_loss):
                self.started_loss = message.validation_loss
        self._supervisor.heard(message)
        self._on_message(message)
