"""What a node shows of its state to joiners: snapshots in files, and fingerprints; each is taken once for all who ask within seconds."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.train.messages import (
    FingerprintTaken,
    FrozenTaken,
    FrozenWritten,
    SnapshotWritten,
    TakeFingerprint,
    ToTrainer,
    WriteSnapshot,
)

__all__ = ["SNAPSHOT_PREFIX", "Answer", "Ask", "Looks"]

SNAPSHOT_PREFIX = "snapshot-"
_SNAPSHOT_FRESH_S = 10.0
_FINGERPRINT_FRESH_S = 10.0
_FINGERPRINT_REST = 20.0
"""Between two looks at the state the trainer trains at least this many times as long as the last look took."""

Answer = TypeVar("Answer", SnapshotWritten, FingerprintTaken, FrozenWritten, FrozenTaken)


class Ask(Protocol):
    """Asks the trainer that there is now. Raises LowcommError."""

    async def __call__(self, question: ToTrainer, answer: type[Answer], /) -> Answer: ...


class Looks:
    """Of one node's life. ``clock`` is monotonic seconds."""

    def __init__(self, state_dir: Path, ask: Ask, clock: Callable[[], float]) -> None:
        self._state_dir = state_dir
        self._ask = ask
        self._clock = clock
        self._snapshot: tuple[Path, float, float] | None = None
        self._writing: asyncio.Task[tuple[Path, float]] | None = None
        self._fingerprint: tuple[Fingerprint, float] | None = None
        self._looking: asyncio.Task[Fingerprint] | None = None

    async def snapshot(self) -> tuple[Path, float]:
        """A state file for joiners and its progress: a fresh one, or one of the last few seconds.

        Who asks may go away: the file is written and kept all the same, so that nobody can have one written after the
        other by asking and going away.
        """
        if self._snapshot is not None and self._clock() - self._snapshot[2] < _SNAPSHOT_FRESH_S:
            return self._snapshot[:2]
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_snapshot(), name="snapshot")
        return await asyncio.shield(self._writing)

    async def fingerprint(self) -> Fingerprint:
        """What the live state looks like, or looked like within the last seconds; for joiners to compare with. Raises LowcommError."""
        if self._fingerprint is not None and self._clock() < self._fingerprint[1]:
            return self._fingerprint[0]
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_at_state(), name="fingerprint")
        return await asyncio.shield(self._looking)

    def forget(self) -> None:
        """Nothing of the state that was in place is given to anybody any more."""
        self.drop_snapshot()
        self._fingerprint = None

    def drop_snapshot(self) -> None:
        """Remove its file."""
        if self._snapshot is not None:
            self._snapshot[0].unlink(missing_ok=True)
            self._snapshot = None

    async def _write_snapshot(self) -> tuple[Path, float]:
        path = self._state_dir / f"{SNAPSHOT_PREFIX}{time.time_ns()}.safetensors"
        written = await self._ask(WriteSnapshot(path=str(path)), SnapshotWritten)
        self.drop_snapshot()  # who is downloading the older one holds it open
        self._snapshot = (path, written.progress_steps, self._clock())
        return path, written.progress_steps

    async def _look_at_state(self) -> Fingerprint:
        started_at = self._clock()
        taken = await self._ask(TakeFingerprint(), FingerprintTaken)
        now = self._clock()
        self._fingerprint = (taken.fingerprint, now + max(_FINGERPRINT_FRESH_S, _FINGERPRINT_REST * (now - started_at)))
        return taken.fingerprint
