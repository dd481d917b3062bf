"""Carries out what the core decides about frozen factors of AB-training: split, fetch, give to the trainer, clear away.

The core is told what comes of each command, whatever that is; nothing here is tried again of its own accord.
"""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

from lowcomm_node.core.commands import FetchFrozen, SplitTensors, UseFrozen
from lowcomm_node.core.events import FetchFailed, FrozenHeld, FrozenRefused, FrozenUsed, SplitFailed
from lowcomm_node.daemon.line_watch import LineWatch
from lowcomm_node.daemon.looks import Ask
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.errors import LinkError, LowcommError, RefusalReason, RemoteProtocolError, StoreError
from lowcomm_node.train.messages import FrozenTaken, FrozenWritten, Ready, SplitWeights, TakeFrozen
from lowcomm_node.units import PeerId

__all__ = ["Freezing", "FrozenTrainer"]

_LEAST_BYTES_PER_S = 100_000.0
_LONGEST_START_S = 60.0
"""A download may take this long, and as much longer as its largest size takes at the speed above; then others are asked."""
_LATER = frozenset({"busy", "line"})
"""What is said by who will give it later, or by our own line: nobody is to be blamed."""

_Outcome = FrozenHeld | FrozenUsed | FrozenRefused | FetchFailed | SplitFailed


class FrozenTrainer(Protocol):
    """``daemon.training`` is one."""

    ready: Ready | None

    @property
    def is_up(self) -> bool: ...

    @property
    def ask(self) -> Ask: ...


class FrozenStates(Protocol):
    """Where files with frozen factors lie, and come from; ``daemon.states`` is one. Digests are in hexadecimal."""

    def frozen_path(self, digest: str) -> Path | None:
        """The file, if it is here."""
        ...

    def frozen_beside(self) -> Path:
        """Where one is to be written before it is kept."""
        ...

    async def keep_frozen(self, path: Path) -> str:
        """Move it to the shelf; returns its digest. Raises StoreError."""
        ...

    async def fetch_frozen(self, digest: str, holders: tuple[PeerId, ...], max_bytes: int) -> None:
        """Get it to the shelf. Raises LinkError, RemoteProtocolError, StoreError, TimeoutError."""
        ...

    def clear_frozen(self, kept: frozenset[str]) -> None:
        """Remove all others."""
        ...


class Freezing:
    """Of one life of a node.

    Args:
        trainer: writes and takes frozen factors.
        states: as far as there is a network; raises DirectoryError before.
        recorder: told what comes of it.
        tell: the core.
        line: of the owner, who may keep it closed.
    """

    def __init__(
        self,
        trainer: FrozenTrainer,
        states: Callable[[], FrozenStates],
        recorder: Recorder,
        *,
        tell: Callable[[_Outcome], None],
        line: LineWatch,
    ) -> None:
        self._trainer = trainer
        self._states = states
        self._recorder = recorder
        self._tell = tell
        self._line = line
        self._tasks: dict[type, asyncio.Task[None]] = {}
        self._taken: dict[int, str] = {}
        """Digest of the newest taken in each of the newest two epochs."""

    def carry_out(self, command: SplitTensors | FetchFrozen | UseFrozen) -> None:
        """Begin; the core hears of the end."""
        match command:
            case SplitTensors():
                self._begin(command, self._split(command))
            case FetchFrozen():
                self._begin(command, self._fetch(command))
            case UseFrozen():
                self._begin(command, self._use(command))

    async def stop(self) -> None:
        """End what is under way."""
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, command: object, work: Coroutine[Any, Any, None]) -> None:
        """One of each kind at a time: a new download takes the place of the one before it, which nobody wants any more."""
        earlier = self._tasks.get(type(command))
        if earlier is not None:
            earlier.cancel()
        self._tasks[type(command)] = asyncio.create_task(work, name=type(command).__name__)

    async def _split(self, command: SplitTensors) -> None:
        try:
            states = self._states()
            path = states.frozen_beside()
            await self._trainer.ask(SplitWeights(epoch=command.epoch, path=str(path)), FrozenWritten)
            digest = await states.keep_frozen(path)
        except LowcommError as error:
            self._recorder.split_failed(command.epoch, str(error))
            self._tell(SplitFailed(epoch=command.epoch))
            return
        self._recorder.split(command.epoch, digest)
        self._tell(FrozenHeld(epoch=command.epoch, digest=digest, is_own=True))

    async def _fetch(self, command: FetchFrozen) -> None:
        epoch, digest = command.epoch, command.digest
        try:
            states = self._states()
            if states.frozen_path(digest) is None:
                await self._download(states, command)
        except (LowcommError, TimeoutError) as error:
            is_busy = isinstance(error, LinkError) and error.reason in _LATER
            self._recorder.fetch_failed(epoch, digest, str(error) or "it took too long", is_busy=is_busy)
            self._tell(FetchFailed(epoch=epoch, digest=digest, is_busy=is_busy))
            return
        self._tell(FrozenHeld(epoch=epoch, digest=digest, is_own=False))

    async def _download(self, states: FrozenStates, command: FetchFrozen) -> None:
        self._line.check_open("frozen factors are fetched")
        max_bytes = self._trainer.ready.frozen_bytes_max if self._trainer.ready is not None else 0
        async with asyncio.timeout(_LONGEST_START_S + max_bytes / _LEAST_BYTES_PER_S):
            await states.fetch_frozen(command.digest, command.holders, max_bytes)
        # Cut into other chunks than ours it would have another name here.
        if states.frozen_path(command.digest) is None:
            raise RemoteProtocolError(RefusalReason.CHECKSUM, "what was fetched is not what its digest says")
        self._recorder.frozen_fetched(command.epoch, command.digest)

    async def _use(self, command: UseFrozen) -> None:
        epoch, digest = command.epoch, command.digest
        try:
            states = self._states()
            path = states.frozen_path(digest)
            if path is None:
                raise StoreError("the file is gone")
            question = TakeFrozen(epoch=epoch, path=str(path), digest=digest, factor=command.factor)
            taken = await self._trainer.ask(question, FrozenTaken)
        except LowcommError as error:
            if self._trainer.is_up:  # else the core hears of that, and the next trainer is given the same
                self._recorder.frozen_refused(epoch, digest, str(error))
                self._tell(FrozenRefused(epoch=epoch, digest=digest))
            return
        self._recorder.frozen_taken(epoch, digest, taken.factor)
        self._tell(FrozenUsed(epoch=epoch, digest=digest, factor=taken.factor))
        self._taken[epoch] = digest
        while len(self._taken) > 2:
            del self._taken[min(self._taken)]
        states.clear_frozen(frozenset(self._taken.values()))
