"""Stretches of training and pauses between them, in virtual time: in order, whole, and whatever comes between."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest

from lowcomm_node.core.events import PauseChanged, TrainerLost
from lowcomm_node.core.owner import PauseReason, Seen
from lowcomm_node.daemon.owner_watch import OwnerWatch
from lowcomm_node.daemon.pausing import Pausing
from lowcomm_node.errors import TrainerError
from lowcomm_node.settings.node import OwnerSettings
from lowcomm_node.units import Stream
from tests.daemon.virtual_time import run_virtually

_DUE = {Stream.PARAMS: 7}


class World:
    """A node whose meeting takes two seconds to end and whose state takes three to save; it writes down what happens."""

    def __init__(self, folder: Path) -> None:
        self.story: list[str] = []
        self.paused_s: dict[PauseReason, float] = {}
        self.fails = asyncio.Event()
        self.seen = Seen(minute_of_day=720)
        self.stretches = 0
        now: Callable[[], float] = lambda: asyncio.get_running_loop().time()  # noqa: E731
        self.watch = OwnerWatch(OwnerSettings(), folder, look=lambda: self.seen, clock=now, wall=now)
        self.pausing = Pausing(
            self.watch,
            training=self,
            due=lambda: _DUE,
            tell=self.tell,
            settle=self.settle,
            enter=lambda state, _: self.say(state),
            count=self.count,
            clock=now,
        )

    def is_wanted(self) -> bool:
        return self.pausing.is_wanted

    def say(self, what: str) -> None:
        if self.story[-1:] != [what]:
            self.story.append(what)

    def tell(self, event: PauseChanged | TrainerLost) -> None:
        self.say("lost" if isinstance(event, TrainerLost) else "closed" if event.is_paused else "open")

    async def settle(self) -> None:
        await asyncio.sleep(2.0)
        self.say("settled")

    async def release(self, due: Mapping[Stream, int]) -> None:
        assert due == _DUE
        await asyncio.sleep(3.0)
        self.say("released")

    def wake(self) -> None:
        self.say("woken")

    def count(self, reason: PauseReason, seconds: float) -> None:
        self.paused_s[reason] = self.paused_s.get(reason, 0.0) + seconds

    async def train(self) -> None:
        self.stretches += 1
        self.say("trains")
        try:
            await self.fails.wait()
        except asyncio.CancelledError:
            self.say("cut off")
            raise
        raise TrainerError("it keeps dying")


_PAUSE = ["pausing", "closed", "settled", "cut off", "pausing", "released", "lost", "paused"]
_RESUME = ["woken", "open", "trains"]


def play(folder: Path, scenario: Callable[[World], Coroutine[Any, Any, None]]) -> World:
    """Run it beside the training, which is ended with it."""
    worlds: list[World] = []

    async def life() -> None:
        world = World(folder)
        worlds.append(world)
        await world.watch.open()
        looking = asyncio.create_task(world.watch.run())
        living = asyncio.create_task(world.pausing.live(world.train))
        await asyncio.sleep(1.0)
        try:
            await scenario(world)
        finally:
            for task in (looking, living):
                task.cancel()
            await asyncio.gather(looking, living, return_exceptions=True)

    run_virtually(life)
    return worlds[0]


def test_a_pause_ends_the_meeting_then_saves_then_ends_the_trainer(tmp_path: Path) -> None:
    """In this order, and training begins again when the owner says so; the pause is counted by its reason."""

    async def scenario(world: World) -> None:
        world.watch.pause(0.0)
        assert not world.is_wanted()
        await asyncio.sleep(65.0)
        assert world.is_wanted()
        assert world.story == ["trains", *_PAUSE]
        world.watch.resume()
        await asyncio.sleep(1.0)
        assert not world.is_wanted()

    world = play(tmp_path, scenario)

    assert world.story == ["trains", *_PAUSE, *_RESUME, "cut off"]
    assert world.paused_s == {PauseReason.COMMAND: pytest.approx(60.0)}


def test_a_pause_of_a_while_ends_by_itself(tmp_path: Path) -> None:
    """Nobody has to come back for it."""

    async def scenario(world: World) -> None:
        world.watch.pause(100.0)
        await asyncio.sleep(110.0)

    assert play(tmp_path, scenario).story == ["trains", *_PAUSE, *_RESUME, "cut off"]


def test_a_word_taken_back_while_it_is_carried_out(tmp_path: Path) -> None:
    """What has begun is finished, so that nothing is half, and training begins again at once."""

    async def scenario(world: World) -> None:
        world.watch.pause(0.0)
        await asyncio.sleep(1.0)
        world.watch.pause(50.0)
        world.watch.resume()
        await asyncio.sleep(10.0)

    assert play(tmp_path, scenario).story == ["trains", *_PAUSE[:-1], *_RESUME, "cut off"]


def test_another_reason_takes_over(tmp_path: Path) -> None:
    """The word is taken back while the machine is on its battery: one pause, counted by what holds it."""

    async def scenario(world: World) -> None:
        world.watch.pause(0.0)
        world.seen = Seen(minute_of_day=720, on_battery=True)
        await asyncio.sleep(20.0)
        world.watch.resume()
        await asyncio.sleep(60.0)
        assert world.stretches == 1
        world.seen = Seen(minute_of_day=720)
        await asyncio.sleep(40.0)

    world = play(tmp_path, scenario)

    assert world.story == ["trains", *_PAUSE, *_RESUME, "cut off"]
    assert set(world.paused_s) == {PauseReason.COMMAND, PauseReason.BATTERY}
    assert world.paused_s[PauseReason.BATTERY] > 60.0


def test_what_ends_training_for_good_ends_it_while_it_is_to_pause(tmp_path: Path) -> None:
    """A trainer that is given up in the middle of a pause is no pause."""

    async def life() -> World:
        world = World(tmp_path)
        await world.watch.open()
        living = asyncio.create_task(world.pausing.live(world.train))
        await asyncio.sleep(1.0)
        world.watch.pause(0.0)
        await asyncio.sleep(1.0)
        world.fails.set()
        with pytest.raises(TrainerError, match="keeps dying"):
            await living
        await world.pausing.at_rest()
        return world

    assert "released" not in run_virtually(life).story


def test_who_leaves_waits_until_the_state_is_saved(tmp_path: Path) -> None:
    """``at_rest`` returns at once while nothing is under way, and with the end of a pause's beginning otherwise."""

    async def scenario(world: World) -> None:
        await world.pausing.at_rest()
        world.watch.pause(0.0)
        await asyncio.sleep(0.1)
        await world.pausing.at_rest()
        assert "released" in world.story

    play(tmp_path, scenario)


def test_a_start_waits_for_the_end_of_a_pause(tmp_path: Path) -> None:
    """The trainer that is on its way is ended, and another one is started when there is something to do."""

    async def life() -> World:
        world = World(tmp_path)
        world.watch.pause(60.0)
        await world.watch.open()
        looking = asyncio.create_task(world.watch.run())
        await world.pausing.before_start()
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        return world

    assert run_virtually(life).story == ["released", "paused", "woken", "open"]


def test_a_start_without_a_reason_does_not_wait(tmp_path: Path) -> None:
    """And leaves the trainer that is on its way alone."""

    async def life() -> World:
        world = World(tmp_path)
        await world.watch.open()
        await world.pausing.before_start()
        return world

    assert run_virtually(life).story == []
