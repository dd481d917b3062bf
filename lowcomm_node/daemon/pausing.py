"""Leaves the machine to its owner and takes training up again: between two pauses lies one stretch of training.

A pause goes in this order: no new meetings, the one under way ends, the state is saved, the trainer ends. Only then is the memory
of the GPU really free. It ends where ``daemon.training`` begins.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol

from lowcomm_node.core.events import PauseChanged, TrainerLost
from lowcomm_node.core.owner import PauseReason
from lowcomm_node.daemon.owner_watch import OwnerWatch
from lowcomm_node.telemetry.logs import get_logger
from lowcomm_node.units import Stream

__all__ = ["Pausing", "Resting"]

_COUNT_S = 1.0


class Resting(Protocol):
    """What can be ended and started again; ``daemon.training`` is one."""

    async def release(self, due: Mapping[Stream, int]) -> None:
        """Save and end."""
        ...

    def wake(self) -> None:
        """Start again."""
        ...


class Pausing:
    """Carries out what ``watch`` says.

    Args:
        watch: says when to pause, and why.
        training: is put to rest.
        due: as the core has it, to be saved.
        tell: the core.
        settle: wait for the meetings under way, for some seconds at most.
        enter: where the node stands now, state and detail.
        count: seconds of a pause, as they go by, with their reason.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        watch: OwnerWatch,
        *,
        training: Resting,
        due: Callable[[], Mapping[Stream, int]],
        tell: Callable[[PauseChanged | TrainerLost], None],
        settle: Callable[[], Awaitable[None]],
        enter: Callable[[str, str], None],
        count: Callable[[PauseReason, float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watch = watch
        self._training = training
        self._due = due
        self._tell = tell
        self._settle = settle
        self._enter = enter
        self._count = count
        self._clock = clock
        self._log = get_logger("owner")
        self._is_at_rest = asyncio.Event()
        self._is_at_rest.set()
        self.is_wanted = False
        """From the first moment of a pause to its last: nobody should count on this node's state."""

    async def before_start(self) -> None:
        """Wait, without a trainer, for as long as there is a reason to: a pause holds over restarts."""
        if self._watch.reasons:
            self.is_wanted = True
            await self._training.release(self._due())
            await self._rest()

    async def live(self, stretch: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Train for ever, one ``stretch`` after the other. Raises what ends one of them."""
        while True:
            training = asyncio.create_task(stretch(), name="training")
            wanted = asyncio.create_task(self._until_wanted(), name="pausing")
            try:
                await asyncio.wait({training, wanted}, return_when=asyncio.FIRST_COMPLETED)
                if not training.done():
                    await self._pause(training)
                if not training.cancelled():
                    training.result()  # it ends by an error only
            finally:
                for task in (training, wanted):
                    task.cancel()
                await asyncio.wait({training, wanted})
            await self._rest()

    async def at_rest(self) -> None:
        """Wait for a pause that is under way to have saved what there is: who leaves meanwhile must not cut that short."""
        await self._is_at_rest.wait()

    async def _until_wanted(self) -> None:
        while not self._watch.reasons:
            await self._watch.news()

    async def _pause(self, training: asyncio.Task[None]) -> None:
        self._is_at_rest.clear()
        self.is_wanted = True
        try:
            self._enter("pausing", f"finishing the meeting under way: {self._watch.sentence()}")
            self._tell(PauseChanged(is_paused=True))
            await self._settle()
            training.cancel()
            await asyncio.wait({training})
            if training.cancelled():
                self._enter("pausing", "saving the state")
                await self._training.release(self._due())
                self._tell(TrainerLost())
        finally:
            self._is_at_rest.set()

    async def _rest(self) -> None:
        """Until there is no reason any more."""
        began_at = counted_at = self._clock()
        reason = PauseReason.COMMAND
        while self._watch.reasons:
            reason = self._watch.reasons[0]
            self._enter("paused", self._watch.sentence())
            try:
                async with asyncio.timeout(_COUNT_S):
                    await self._watch.news()
            except TimeoutError:
                pass
            now = self._clock()
            self._count(reason, now - counted_at)
            counted_at = now
        self._log.info("resumed", after_s=round(self._clock() - began_at), reason=reason.value)
        self.is_wanted = False
        self._training.wake()
        self._tell(PauseChanged(is_paused=False))
