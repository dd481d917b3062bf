"""Joining, downloading and checkpoints in virtual time: each step hit by each fault, and many seeds of everything at once."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest

from lowcomm_node.core import supervision
from lowcomm_node.daemon import training as training_module
from tests.daemon.faulty_disk import PROCESS, disk_of_processes
from tests.daemon.join_world import CALM_AT_S, JoinWorld
from tests.daemon.tiny_trainer import TinyTrainer

_HITS: dict[str, Callable[[JoinWorld], None]] = {
    "crash": JoinWorld.crash,
    "crash, a file cut off": JoinWorld.crash_and_cut,
    "crash, a bit flipped": JoinWorld.crash_and_flip,
    "crash, the newest checkpoint spoilt": JoinWorld.crash_and_spoil_checkpoint,
    "crash, the run's memory spoilt": JoinWorld.crash_and_lose_run,
    "trainer killed": JoinWorld.kill_trainer,
    "trainer hangs": JoinWorld.hang_trainer,
    "heal": JoinWorld.heal,
    "donor dies and comes back": JoinWorld.kill_donor,
    "donor dies, another comes": lambda world: world.kill_donor(None),
    "donor silent": JoinWorld.silence_one,
    "all silent": JoinWorld.silence,
    "partition": JoinWorld.part,
    "chunk twice": lambda world: world.spoil_chunk("doubled"),
    "chunk damaged": lambda world: world.spoil_chunk("damaged"),
    "chunk that was not asked for": lambda world: world.spoil_chunk("wrong"),
    "chunk lost": lambda world: world.spoil_chunk("lost"),
    "description damaged": JoinWorld.spoil_description,
    "donor lies": JoinWorld.lie,
    "disk full": JoinWorld.fill_disk,
    "clock two hours ahead": lambda world: world.set_clock(2.0),
    "clock two hours behind": lambda world: world.set_clock(-2.0),
}

_STEPS = (
    ("connect", 1),
    ("hello", 1),
    ("Configure", 1),
    ("find donors", 1),
    ("Fingerprint asked", 1),
    ("Fingerprint answered", 2),
    ("Describe asked", 1),
    ("Describe answered", 1),
    ("Fetch asked", 1),
    ("chunk", 1),
    ("chunk", 7),
    ("chunk", 12),
    ("TakeFingerprint", 1),
    ("LoadState", 1),
    ("run", 1),
    ("WriteCheckpoint", 1),
    ("WriteCheckpoint", 3),
)
"""All that happens on the way into a run and after it, in its order, with how often."""

Build = Callable[..., JoinWorld]


_IN_MEMORY = Path("/dev/shm")
"""Linux has a file system without a disk there."""


@pytest.fixture
def place() -> Iterator[Path]:
    """For files of thousands of worlds: in memory, if possible, and gone afterwards. A seed makes them again."""
    with TemporaryDirectory(prefix="joins-", dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture
def build(place: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Makes worlds, one after the other, each in a folder of its own; the one before is removed."""
    worlds: list[JoinWorld] = []
    real_time = time.time
    disk_of_processes(monkeypatch)
    monkeypatch.setattr(supervision, "_UNKNOWN_S", 60.0)
    monkeypatch.setattr(supervision, "_ASKED_S", 30.0)
    monkeypatch.setattr(training_module, "TrainerSession", lambda on_message: TinyTrainer(worlds[-1], on_message))
    monkeypatch.setattr(time, "time", lambda: real_time() + (worlds[-1].wall_offset_s if PROCESS.get() else 0.0))

    def make(*, seed: int = 0, is_shared: bool = False, pace: float = 1.0) -> JoinWorld:
        if worlds:
            shutil.rmtree(worlds[-1].folder.parent)
        folder = place / str(len(worlds))
        folder.mkdir()
        worlds.append(JoinWorld(folder, seed=seed, is_shared=is_shared, pace=pace))
        return worlds[-1]

    return make


def test_nothing_strikes(build: Build) -> None:
    """The node joins at once, from one donor or from several."""
    for is_shared in (False, True):
        world = build(is_shared=is_shared)

        world.run()

        assert [what for _, what in world.history if what in ("starts", "trains", "left")] == [
            "starts",
            "trains",
            "left",
        ]
        assert world.fetched_again == 0


@pytest.mark.parametrize("hit", _HITS)
@pytest.mark.parametrize("step", _STEPS, ids=lambda step: f"{step[0]} {step[1]}")
def test_each_step_of_a_join_survives_each_fault(build: Build, step: tuple[str, int], hit: str) -> None:
    """Right before it is taken; afterwards the node trains what somebody has had, and has lost nothing of its own."""
    pace = 0.1 if step[0] == "WriteCheckpoint" else 1.0  # then what the node has of its own is further on
    world = build(seed=len(hit), is_shared=len(hit) % 2 == 0, pace=pace)
    left = step[1]

    def strike(name: str, _number: int) -> None:
        nonlocal left
        if name.startswith(step[0]):
            left -= 1
            if left == 0:
                _HITS[hit](world)

    world.on_step = strike
    world.run()

    assert left <= 0, "the step never came"


def _times(world: JoinWorld, what: str) -> list[float]:
    return [at for at, name in world.history if name == what]


def _on(world: JoinWorld, step: str, number: int, *acts: Callable[[JoinWorld], None]) -> None:
    """When the step comes for the ``number``th time, do this."""

    def strike(name: str, _number: int) -> None:
        if name == step and world.seen[name] == number:
            for act in acts:
                act(world)

    world.on_step = strike


def test_a_heal_with_nobody_to_help_ends_with_an_own_checkpoint(build: Build) -> None:
    """Nodes that became unfit together have no state to give: each waits for its patience, not for the others."""
    world = build()
    _on(world, "WriteCheckpoint", 2, JoinWorld.heal, lambda world: world.part(1e6))

    world.run()

    [healed] = _times(world, "is syncing")[-1:]
    [_, again] = _times(world, "trains")
    assert [what for _, what in world.history if what.startswith("loads")] == ["loads a donor's", "loads its own"]
    assert again < CALM_AT_S
    assert again - healed < 20.0


def test_an_unfit_state_does_not_come_back_when_the_trainer_falls_again(build: Build) -> None:
    """While it heals a trainer is killed: the next one, too, takes a donor's state, though the own is further on."""
    world = build()

    def strike(name: str, _number: int) -> None:
        if name == "WriteCheckpoint" and world.seen[name] == 3:
            world.fall_behind()
            world.heal()
        if name == "LoadState" and world.seen[name] == 2:
            world.kill_trainer()

    world.on_step = strike
    world.run()

    assert [what for _, what in world.history if what.startswith("loads")] == ["loads a donor's"] * 2
    assert world.seen["LoadState"] == 3


@pytest.mark.parametrize("step", ["Configure", "TakeFingerprint", "LoadState"])
def test_a_trainer_that_hangs_before_it_trains_is_started_again(build: Build, step: str) -> None:
    """There is no step yet whose time one could go by, but for ever is too long."""
    world = build()
    _on(world, step, 1, JoinWorld.hang_trainer)

    world.run()

    assert world.seen["Configure"] == 2
    assert len(_times(world, "trains")) == 1


def test_a_spoilt_checkpoint_is_never_trained_on(build: Build) -> None:
    """Wherever the bit flips, or whichever file is missing: the one before it is used."""
    for seed in range(12):
        world = build(seed=seed, pace=0.1)
        _on(world, "WriteCheckpoint", 3, JoinWorld.crash_and_spoil_checkpoint)

        world.run()

        assert len(_times(world, "loads its own")) == 1


def test_what_is_given_to_others_is_never_written_to(build: Build) -> None:
    """A node dies with a download that is whole and shared already, and nobody has that snapshot any more: another takes its name."""
    world = build()
    operations: list[str] = []

    def strike(name: str, _number: int) -> None:
        operations.append(name)
        if operations.count("link") == 1 and name == "unlink" and not _times(world, "crashed"):
            for _ in range(3):
                world.kill_donor(None)
            world.crash()

    world.on_operation = strike
    world.run()

    assert _times(world, "crashed")
    assert len(list((world.folder / "snapshots").iterdir())) == 2


def _strike_operation(world: JoinWorld, number: int, act: Callable[[JoinWorld], None]) -> None:
    def strike(_name: str, current: int) -> None:
        if current == number:
            act(world)

    world.on_operation = strike


@pytest.mark.parametrize("first", range(1, 9))
@pytest.mark.parametrize(
    ("act", "every"), [(JoinWorld.crash, 8), (JoinWorld.kill_trainer, 16), (JoinWorld.fill_disk, 16)]
)
def test_each_operation_on_the_disk_may_be_the_last(
    build: Build, act: Callable[[JoinWorld], None], every: int, first: int
) -> None:
    """Of the node, of its trainer, or for a while for want of room: from the first file to the second checkpoint."""
    for number in range(first, 100, every):
        world = build(seed=number)
        _strike_operation(world, number, act)
        try:
            world.run()
        except Exception as error:
            raise AssertionError(f"operation {number}: {error!r}") from error


def _troubled(world: JoinWorld, seed: int) -> JoinWorld:
    """Some faults at any steps, times and operations on the disk."""
    chance = Random(f"joins {seed}")
    hits = list(_HITS)
    steps = {chance.randrange(1, 90): chance.choice(hits) for _ in range(chance.randrange(1, 6))}
    operations = {chance.randrange(1, 300): chance.choice([*hits[:6], "disk full"]) for _ in range(chance.randrange(3))}

    def strike_step(_name: str, number: int) -> None:
        if number in steps:
            world.note(steps[number])
            _HITS[steps[number]](world)

    def strike_operation(_name: str, number: int) -> None:
        if number in operations:
            world.note(operations[number])
            _HITS[operations[number]](world)

    world.on_step, world.on_operation = strike_step, strike_operation
    return world


@pytest.mark.parametrize("block", range(20))
def test_a_thousand_seeds_of_everything(build: Build, block: int) -> None:
    """Whatever comes together: the node ends up training an honest state, and keeps its newest checkpoint."""
    for seed in range(50 * block, 50 * (block + 1)):
        world = _troubled(build(seed=seed, is_shared=seed % 2 == 0, pace=0.1 if seed % 3 else 1.0), seed)
        try:
            world.run()
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error


def test_a_seed_replays_bit_for_bit(build: Build) -> None:
    """Every step at the same time: a failure can be looked at as often as it takes."""
    for seed in (2, 17, 101, 256, 999):
        histories = []
        for _ in range(2):
            world = _troubled(build(seed=seed, is_shared=seed % 2 == 0, pace=0.1 if seed % 3 else 1.0), seed)
            world.run()
            histories.append(world.history)
        assert len(histories[0]) > 30
        assert histories[0] == histories[1]


def test_the_calm_is_long_after_a_join(build: Build) -> None:
    """Or the steps above would be over before they are struck."""
    world = build()

    world.run()

    assert world.trains_since is not None
    assert world.trains_since < CALM_AT_S / 10
