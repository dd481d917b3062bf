"""Being seen and seeing: keeps this node's record alive in the directory, and looks who else is there."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple, NoReturn, Protocol

from lowcomm_node.core.events import FrozenNote, Member
from lowcomm_node.core.node import NodeCore
from lowcomm_node.settings.node import NetworkSettings
from lowcomm_node.train.messages import Report

__all__ = ["Presence", "Standing", "standing_of"]

_QUICK_POLLS = 20
"""Looks into the directory once a second at first: in a young swarm members appear by the second."""
_QUICK_S = 1.0


class Standing(NamedTuple):
    """What a node says of itself, and how much it wants to hear of others."""

    progress_steps: float
    has_state: bool
    """It can meet others and give its state to joiners."""
    frozen: FrozenNote | None
    """Of AB-training: its frozen factors."""
    is_in_haste: bool
    """News of the others is wanted by the second."""


def standing_of(report: Report | None, core: NodeCore | None, *, has_state: bool) -> Standing:
    """What trainer and core say; a state that is unfit is none for others."""
    return Standing(
        progress_steps=report.progress_steps if report is not None else 0.0,
        has_state=has_state and core is not None and core.has_sound_state,
        frozen=core.frozen.note if core is not None else None,
        is_in_haste=core is not None and core.frozen.is_seeking,
    )


class _Network(Protocol):
    async def announce(self, *, progress_steps: float, has_state: bool, frozen: FrozenNote | None) -> None: ...

    async def members(self) -> tuple[Member, ...]: ...

    async def withdraw(self) -> None: ...


class Presence:
    """Of one life of a node; ``standing`` is asked whenever it is told."""

    def __init__(self, network: _Network, settings: NetworkSettings, standing: Callable[[], Standing]) -> None:
        self._network = network
        self._settings = settings
        self._standing = standing
        self._now = asyncio.Event()
        self._announcing: asyncio.Task[None] | None = None

    def renew(self) -> None:
        """Something has changed that others should know at once."""
        self._now.set()

    def keep_announced(self, group: asyncio.TaskGroup) -> None:
        """From now on, until ``withdraw``."""
        self._announcing = group.create_task(self._announce(), name="announce")

    async def look_around(self, seen: Callable[[tuple[Member, ...]], Awaitable[None]]) -> NoReturn:
        """Refresh the sample of live members, for ever."""
        num_polls = 0
        while True:
            await seen(await self._network.members())
            num_polls += 1
            await self._until_next_look(num_polls)

    async def withdraw(self) -> None:
        """Say good-bye."""
        if self._announcing is not None:
            self._announcing.cancel()  # or the good-bye might not be our last word
            await asyncio.wait({self._announcing})
        await self._network.withdraw()

    async def _until_next_look(self, num_polls: int) -> None:
        waited_s = 0.0
        while waited_s < self._settings.poll_every_s:
            rest_s = min(_QUICK_S, self._settings.poll_every_s - waited_s)
            await asyncio.sleep(rest_s)
            waited_s += rest_s
            if num_polls < _QUICK_POLLS or self._standing().is_in_haste:
                return

    async def _announce(self) -> None:
        while True:
            self._now.clear()
            own = self._standing()
            await self._network.announce(progress_steps=own.progress_steps, has_state=own.has_state, frozen=own.frozen)
            try:
                async with asyncio.timeout(self._settings.record_ttl_s / 3):
                    await self._now.wait()
            except TimeoutError:
                continue
