"""The trainer over the node's whole life: build, sync, train, snapshot, save, and start again when the process dies."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from lowcomm_node.core.events import Member
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.daemon.donors import Donors, DownloadRules
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.daemon.sync import StateSources, obtain_state
from lowcomm_node.daemon.trainer_session import TrainerSession
from lowcomm_node.errors import LowcommError, StoreError, TrainerError
from lowcomm_node.ports import StateClient
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.train.messages import (
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
    WriteSnapshot,
)
from lowcomm_node.units import PeerId, RunId

__all__ = ["Training"]

_MAX_FAILURES = 5
_FORGIVEN_AFTER_S = 600.0
_BACKOFF_S = 1.0
_SNAPSHOT_FRESH_S = 10.0
_FINGERPRINT_FRESH_S = 10.0
_FINGERPRINT_REST = 20.0
"""Between two looks at the state the trainer trains at least this many times as long as the last look took."""
_SNAPSHOT_PREFIX = "snapshot-"
_SAVE_GRACE_S = 60.0
_PATIENCE_S = 15.0
"""Seconds to look for a donor before an older state will do. Only who starts a run for the first time need not look."""


class Training:
    """Owns the trainer process. ``enter(state, detail)`` is told where this part of the node's life stands."""

    def __init__(
        self,
        *,
        settings: NodeSettings,
        state_dir: Path,
        recorder: Recorder,
        on_message: Callable[[FromTrainer], None],
        on_lost: Callable[[], None],
        enter: Callable[[str, str], None],
    ) -> None:
        self._settings = settings
        self._state_dir = state_dir
        self._recorder = recorder
        self._on_message = on_message
        self._on_lost = on_lost
        self._enter = enter
        self._session = TrainerSession(self._said)
        self._question: Configure | None = None
        self._snapshot: tuple[Path, float, float] | None = None
        self._writing: asyncio.Task[tuple[Path, float]] | None = None
        self._fingerprint: tuple[Fingerprint, float] | None = None
        self._looking: asyncio.Task[Fingerprint] | None = None
        self.ready: Ready | None = None
        self.report: Report | None = None
        """The trainer's newest report."""
        self.started_loss = math.nan
        """Validation loss before the first step of this life."""
        self.beat: float | None = None
        """Monotonic time of the trainer's last sign of life while it trains."""
        self.has_state = False
        """Weights are in place: this node can meet, and give its state to joiners."""

    def attach(self) -> None:
        """Listen to the trainer from now on, in the running loop."""
        self._session.attach()

    def send(self, message: ToTrainer) -> None:
        """Pass a request on."""
        self._session.send(message)

    def kill(self) -> None:
        self._session.kill()

    async def configure(self, manifest: Manifest, run: RunId, peer: PeerId) -> Ready:
        """Build model and data. Raises ConfigError, DataError, TrainerError."""
        await asyncio.to_thread(self._clear_leftovers)
        self._question = Configure(manifest=manifest, settings=self._settings, run_id=run, peer_id=peer)
        return await self._configure(self._question)

    async def live(
        self,
        *,
        is_first: bool,
        find_donors: Callable[[], Awaitable[tuple[Member, ...]]],
        client: StateClient,
        on_training: Callable[[], None],
    ) -> None:
        """Sync and train, again whenever the trainer dies; gives up when it keeps dying. Raises LowcommError."""
        failures = 0
        patience_s = 0.0 if is_first else _PATIENCE_S
        while True:
            started_at = time.monotonic()
            try:
                if failures and self._question is not None:
                    await self._configure(self._question)  # here, so that failing at it counts as failing again
                await self._sync(is_first=is_first, patience_s=patience_s, find_donors=find_donors, client=client)
                self._session.send(Run())
                self.has_state = True
                self._enter("training", "")
                on_training()
                await self._session.lost.wait()
                raise self._session.error()
            except TrainerError as error:
                failures = 1 if time.monotonic() - started_at > _FORGIVEN_AFTER_S else failures + 1
                self.has_state, self.beat = False, None
                if failures >= _MAX_FAILURES:
                    raise
                await self._restart(error, failures)
                patience_s = _PATIENCE_S

    async def take_snapshot(self) -> tuple[Path, float]:
        """A state file for joiners and its progress: a fresh one, or one of the last few seconds.

        Who asks may go away: the file is written and kept all the same, so that nobody can have one written after the
        other by asking and going away.
        """
        if self._snapshot is not None and time.monotonic() - self._snapshot[2] < _SNAPSHOT_FRESH_S:
            return self._snapshot[:2]
        if not self.has_state:
            raise StoreError("this node has no state to give yet")
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_snapshot(), name="snapshot")
        return await asyncio.shield(self._writing)

    async def take_fingerprint(self) -> Fingerprint:
        """What the live state looks like, or looked like within the last seconds; for joiners to compare with. Raises LowcommError."""
        if self._fingerprint is not None and time.monotonic() < self._fingerprint[1]:
            return self._fingerprint[0]
        if not self.has_state:
            raise StoreError("this node has no state yet")
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_at_state(), name="fingerprint")
        return await asyncio.shield(self._looking)

    async def save(self) -> None:
        """Write the last state file; the trainer ends. Raises StoreError."""
        try:
            async with asyncio.timeout(_SAVE_GRACE_S):
                await self._session.ask(Stop(path=str(self._own_file)), Stopped)
        except (LowcommError, TimeoutError) as error:
            self._recorder.metrics.checkpoint_written(has_succeeded=False)
            raise StoreError(f"the state could not be saved before leaving: {error}") from error
        self._recorder.metrics.checkpoint_written(has_succeeded=True)

    async def end(self, grace_s: float) -> None:
        """Make sure the process is gone and nothing but the saved state is left."""
        await self._session.end(grace_s)
        self._drop_snapshot()

    @property
    def _own_file(self) -> Path:
        return self._state_dir / "final.safetensors"

    async def _write_snapshot(self) -> tuple[Path, float]:
        path = self._state_dir / f"{_SNAPSHOT_PREFIX}{time.time_ns()}.safetensors"
        written = await self._session.ask(WriteSnapshot(path=str(path)), SnapshotWritten)
        self._drop_snapshot()  # who is downloading the older one holds it open
        self._snapshot = (path, written.progress_steps, time.monotonic())
        return path, written.progress_steps

    async def _look_at_state(self) -> Fingerprint:
        started_at = time.monotonic()
        taken = await self._session.ask(TakeFingerprint(), FingerprintTaken)
        now = time.monotonic()
        self._fingerprint = (taken.fingerprint, now + max(_FINGERPRINT_FRESH_S, _FINGERPRINT_REST * (now - started_at)))
        return taken.fingerprint

    def _clear_leftovers(self) -> None:
        """Remove what a life of this node that was killed has left; the directory is locked, so nobody uses it."""
        for pattern in (f"{_SNAPSHOT_PREFIX}*", ".*.unfinished"):
            for path in self._state_dir.glob(pattern):
                path.unlink(missing_ok=True)

    async def _configure(self, question: Configure) -> Ready:
        self.ready = await self._session.ask(question, Ready)
        self._recorder.metrics.trainer_started(self._session.pid, self.ready.stream_sizes)
        return self.ready

    async def _sync(
        self,
        *,
        is_first: bool,
        patience_s: float,
        find_donors: Callable[[], Awaitable[tuple[Member, ...]]],
        client: StateClient,
    ) -> None:
        question, ready = self._question, self.ready
        if question is None or ready is None:
            raise TrainerError("the trainer is not configured")
        self._enter("syncing", "looking for a member that can give its state")
        sources = StateSources(
            run_id=question.run_id, own_file=self._own_file, is_first=is_first, patience_s=patience_s
        )
        rules = DownloadRules(
            run_id=question.run_id,
            file=self._state_dir / "download.safetensors",
            max_bytes=ready.snapshot_bytes_max,
            total_steps=question.manifest.training.total_steps,
            initial_sketch=ready.initial_sketch,
        )

        def say(detail: str) -> None:
            self._enter("syncing", detail)

        metrics = self._recorder.metrics
        donors = Donors(
            rules,
            find=find_donors,
            client=client,
            examine=lambda question: self._session.ask(question, FingerprintTaken),
            load=self._load,
            say=say,
            on_download=lambda ok: metrics.state_downloaded(has_succeeded=ok),
            on_refused=metrics.state_refused,
        )
        loaded = await obtain_state(sources, donors, load=self._load, say=say)
        if loaded is not None:
            self._recorder.metrics.trainer_resumed(loaded.steps, loaded.tokens)

    async def _load(self, question: LoadState) -> StateLoaded:
        return await self._session.ask(question, StateLoaded)

    async def _restart(self, error: LowcommError, failures: int) -> None:
        self._recorder.trainer_lost(self._session.exit_status, str(error))
        self._on_lost()
        await self._session.end(0.0)
        delay_s = _BACKOFF_S * 2**failures
        self._enter("syncing", f"the trainer ended ({error}); starting it again in {delay_s:.0f} s")
        await asyncio.sleep(delay_s)
        self._session = TrainerSession(self._said)
        self._session.attach()

    def _said(self, message: FromTrainer) -> None:
        if isinstance(message, Report):
            self.report = message
            self.beat = None if message.is_finished else time.monotonic()
            if math.isnan(self.started_loss):
                self.started_loss = message.validation_loss
        self._on_message(message)

    def _drop_snapshot(self) -> None:
        if self._snapshot is not None:
            self._snapshot[0].unlink(missing_ok=True)
            self._snapshot = None
