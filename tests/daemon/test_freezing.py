"""What is done about frozen factors: every command ends with one event, whatever trainer, network and line do. Virtual time."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lowcomm_node.core.commands import FetchFrozen, SplitTensors, UseFrozen
from lowcomm_node.core.events import FetchFailed, FrozenHeld, FrozenRefused, FrozenUsed, SplitFailed
from lowcomm_node.daemon.freezing import Freezing
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.errors import DirectoryError, LinkError, RefusalReason, RemoteProtocolError, StoreError, TrainerError
from lowcomm_node.telemetry.metrics import Metrics
from lowcomm_node.train.messages import FrozenTaken, FrozenWritten, SplitWeights, TakeFrozen
from lowcomm_node.units import Factor, PeerId
from tests.daemon.virtual_time import run_virtually

ONE, TWO, THREE = "1" * 64, "2" * 64, "3" * 64
ANN = PeerId("ann")


class World:
    """Trainer, shelf, network and line in one."""

    def __init__(self) -> None:
        self.shelf: set[str] = set()
        self.asked: list[object] = []
        self.told: list[object] = []
        self.error: Exception | None = None
        """Of what is asked next."""
        self.is_up = True
        self.ready = SimpleNamespace(frozen_bytes_max=1000)
        self.gives = ONE
        self.is_open = True
        self.slowness_s = 0.0
        anything: Any = self
        self.freezing = Freezing(anything, lambda: anything, Recorder(Metrics()), tell=self.told.append, line=anything)

    def check_open(self, what: str) -> None:
        if not self.is_open:
            raise LinkError("line", f"quiet hours; {what} later")

    async def ask(self, question: object, _answer: type) -> Any:
        self.asked.append(question)
        await asyncio.sleep(self.slowness_s)
        if self.error is not None:
            raise self.error
        match question:
            case SplitWeights():
                return FrozenWritten(epoch=question.epoch, path=question.path)
            case TakeFrozen():
                return FrozenTaken(epoch=question.epoch, digest=question.digest, factor=question.factor)

    def frozen_path(self, digest: str) -> Path | None:
        return Path(digest) if digest in self.shelf else None

    def frozen_beside(self) -> Path:
        return Path("written")

    async def keep_frozen(self, _path: Path) -> str:
        self.shelf.add(self.gives)
        return self.gives

    async def fetch_frozen(self, digest: str, holders: tuple[PeerId, ...], max_bytes: int) -> None:
        self.asked.append((digest, holders, max_bytes))
        await asyncio.sleep(self.slowness_s)
        if self.error is not None:
            raise self.error
        self.shelf.add(self.gives)

    def clear_frozen(self, kept: frozenset[str]) -> None:
        self.shelf &= kept


def carried_out(world: World, *commands: SplitTensors | FetchFrozen | UseFrozen) -> list[object]:
    """What the core is told of these, one after the other."""

    async def scenario() -> None:
        for command in commands:
            world.freezing.carry_out(command)
            await asyncio.sleep(1000.0)

    run_virtually(scenario)
    return world.told


def test_a_split_is_kept_and_told() -> None:
    """Under the digest that it has on the shelf."""
    assert carried_out(World(), SplitTensors(epoch=3)) == [FrozenHeld(epoch=3, digest=ONE, is_own=True)]


@pytest.mark.parametrize("error", [StoreError("no room"), TrainerError("it died")])
def test_a_split_that_fails_is_told(error: Exception) -> None:
    """Somebody else, or another try, has to do it."""
    world = World()
    world.error = error
    assert carried_out(world, SplitTensors(epoch=3)) == [SplitFailed(epoch=3)]


def test_what_lies_on_the_shelf_is_not_fetched() -> None:
    """A node that is started again has it still."""
    world = World()
    world.shelf.add(TWO)
    fetch = FetchFrozen(epoch=1, digest=TWO, holders=(ANN,))
    assert carried_out(world, fetch) == [FrozenHeld(epoch=1, digest=TWO, is_own=False)]
    assert world.asked == []


def test_a_download_is_bounded_and_told() -> None:
    """By the largest file that this model can have."""
    world = World()
    fetch = FetchFrozen(epoch=1, digest=ONE, holders=(ANN,))
    assert carried_out(world, fetch) == [FrozenHeld(epoch=1, digest=ONE, is_own=False)]
    assert world.asked == [(ONE, (ANN,), 1000)]


@pytest.mark.parametrize(
    ("error", "is_busy"),
    [
        (LinkError("busy", "later"), True),
        (LinkError("unreachable", "no way"), False),
        (RemoteProtocolError(RefusalReason.EXPIRED, "not here"), False),
        (StoreError("no room"), False),
        (DirectoryError("no network yet"), False),
    ],
)
def test_a_download_in_vain_is_told(error: Exception, *, is_busy: bool) -> None:
    """Who would give it later is not blamed for it."""
    world = World()
    world.error = error
    fetch = FetchFrozen(epoch=1, digest=ONE, holders=(ANN,))
    assert carried_out(world, fetch) == [FetchFailed(epoch=1, digest=ONE, is_busy=is_busy)]


def test_what_is_not_what_its_digest_says_is_not_taken() -> None:
    """Cut into other chunks, a file can have the digest that was asked for and another one here."""
    world = World()
    world.gives = TWO
    fetch = FetchFrozen(epoch=1, digest=ONE, holders=(ANN,))
    assert carried_out(world, fetch) == [FetchFailed(epoch=1, digest=ONE, is_busy=False)]


def test_a_closed_line_is_nobodys_fault() -> None:
    """Nothing is asked, and later it is tried again."""
    world = World()
    world.is_open = False
    fetch = FetchFrozen(epoch=1, digest=ONE, holders=(ANN,))
    assert carried_out(world, fetch) == [FetchFailed(epoch=1, digest=ONE, is_busy=True)]
    assert world.asked == []


def test_a_trickle_is_given_up() -> None:
    """A holder that sends a byte a minute does not keep others from being asked."""
    world = World()
    world.slowness_s = 100.0
    fetch = FetchFrozen(epoch=1, digest=ONE, holders=(ANN,))
    assert carried_out(world, fetch) == [FetchFailed(epoch=1, digest=ONE, is_busy=False)]


def test_a_new_download_takes_the_place_of_the_one_before() -> None:
    """Which then answers nothing more."""
    world = World()
    world.slowness_s = 5.0

    async def scenario() -> None:
        world.freezing.carry_out(FetchFrozen(epoch=1, digest=TWO, holders=(ANN,)))
        await asyncio.sleep(1.0)
        world.freezing.carry_out(FetchFrozen(epoch=2, digest=ONE, holders=(ANN,)))
        await asyncio.sleep(50.0)

    run_virtually(scenario)
    assert world.told == [FrozenHeld(epoch=2, digest=ONE, is_own=False)]


def test_the_trainer_gets_the_file_and_old_epochs_go() -> None:
    """Kept are those of the newest two epochs: meetings under way, and members that are a little behind."""
    world = World()
    world.shelf = {ONE, TWO, THREE}
    use = [UseFrozen(epoch=e, digest=d, factor=Factor.B) for e, d in enumerate((ONE, TWO, THREE), 1)]
    assert carried_out(world, use[0]) == [FrozenUsed(epoch=1, digest=ONE, factor=Factor.B)]
    assert world.asked == [TakeFrozen(epoch=1, path=ONE, digest=ONE, factor=Factor.B)]
    assert world.shelf == {ONE}
    world.shelf |= {TWO, THREE}
    carried_out(world, use[1])
    world.shelf.add(THREE)
    carried_out(world, use[2])
    assert world.shelf == {TWO, THREE}


def test_what_the_trainer_refuses_is_told() -> None:
    """And so is a file that is gone; but not what a trainer that has died would have said: the next one is given the same."""
    use = UseFrozen(epoch=1, digest=ONE, factor=Factor.A)
    assert carried_out(World(), use) == [FrozenRefused(epoch=1, digest=ONE)]
    world = World()
    world.shelf.add(ONE)
    world.error = StoreError("no orthonormal columns")
    assert carried_out(world, use) == [FrozenRefused(epoch=1, digest=ONE)]
    world.told.clear()
    world.is_up, world.error = False, TrainerError("it died")
    assert carried_out(world, use) == []


def test_what_is_under_way_ends_with_the_node() -> None:
    """Nothing is told any more."""
    world = World()
    world.slowness_s = 50.0

    async def scenario() -> None:
        world.freezing.carry_out(SplitTensors(epoch=1))
        await asyncio.sleep(1.0)
        await world.freezing.stop()
        await asyncio.sleep(100.0)

    run_virtually(scenario)
    assert world.told == []
