"""Being seen and seeing: what is announced, and how soon news of the others is looked for. Virtual time."""

import asyncio
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

from lowcomm_node.core.events import FrozenNote, Member
from lowcomm_node.daemon.presence import Presence, Standing, standing_of
from lowcomm_node.settings.node import NetworkSettings
from lowcomm_node.units import Factor
from tests.daemon.virtual_time import run_virtually

NOTE = FrozenNote(epoch=1, digest="1" * 64, factor=Factor.A)


class Directory:
    """Writes down what is announced, and when it is looked into."""

    def __init__(self) -> None:
        self.standing = Standing(0.0, has_state=True, frozen=None, is_in_haste=False)
        self.announced: list[tuple[float, FrozenNote | None]] = []
        self.looks: list[float] = []
        settings = NetworkSettings(poll_every_s=10.0, record_ttl_s=60.0)
        self.presence = Presence(self, settings, lambda: self.standing)

    async def announce(self, *, progress_steps: float, has_state: bool, frozen: FrozenNote | None) -> None:
        assert (progress_steps, has_state) == (0.0, True)
        self.announced.append((asyncio.get_running_loop().time(), frozen))

    async def members(self) -> tuple[Member, ...]:
        self.looks.append(asyncio.get_running_loop().time())
        return ()

    async def withdraw(self) -> None: ...


async def _seen(_members: tuple[Member, ...]) -> None: ...


def test_frozen_factors_are_announced_at_once() -> None:
    """Not only with the next renewal: others look for somebody to meet in this role."""
    directory = Directory()

    async def scenario() -> None:
        async with asyncio.TaskGroup() as group:
            directory.presence.keep_announced(group)
            await asyncio.sleep(1.0)
            directory.standing = directory.standing._replace(frozen=NOTE)
            directory.presence.renew()
            await asyncio.sleep(30.0)
            await directory.presence.withdraw()

    run_virtually(scenario)
    start = directory.announced[0][0]
    assert [(round(at - start), note) for at, note in directory.announced] == [(0, None), (1, NOTE), (21, NOTE)]


def test_who_is_in_haste_looks_each_second() -> None:
    """Otherwise as often as the settings say, after a young node's first looks; haste does not have to wait for the next of those."""
    directory = Directory()

    async def scenario() -> None:
        looking = asyncio.create_task(directory.presence.look_around(_seen))
        await asyncio.sleep(100.5)
        directory.standing = directory.standing._replace(is_in_haste=True)
        await asyncio.sleep(10.0)
        looking.cancel()
        await asyncio.wait({looking})

    run_virtually(scenario)
    start = directory.looks[0]
    times = [round(at - start) for at in directory.looks]
    assert times[:20] == list(range(20))
    assert [after - before for before, after in pairwise(times[19:28])] == [10] * 8
    assert len([at for at in times if at > 100]) >= 9


def test_an_unfit_state_is_none_for_others() -> None:
    """Frozen factors are announced all the same: whoever asks gets them."""
    frozen = SimpleNamespace(note=NOTE, is_seeking=True)
    core: Any = SimpleNamespace(has_sound_state=False, frozen=frozen)
    assert standing_of(None, core, has_state=True) == Standing(0.0, has_state=False, frozen=NOTE, is_in_haste=True)
    core.has_sound_state = True
    assert standing_of(None, core, has_state=True).has_state
    assert standing_of(None, None, has_state=True) == Standing(0.0, has_state=False, frozen=None, is_in_haste=False)
