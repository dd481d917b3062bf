"""A node's whole way into a run, again and again, among three donors and with faults; all in virtual time.

The node is the real thing from the run finder to the trainer's questions: ``RunFinder``, ``Training``, ``Donors``, the
download with its files, the shelf, the checkpoint store. Donors serve with the real ``StateService``. Played are: the bytes'
way between nodes, the DHT (whoever is up is listed) and the trainer's tensors (tiny, in real files).
"""

import asyncio
import base64
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from lowcomm_node import PROTOCOL_VERSION
from lowcomm_node.adapters.grpc_states import grpc_way
from lowcomm_node.adapters.snapshot_shelf import SnapshotShelf
from lowcomm_node.adapters.state_client import MemberStateClient
from lowcomm_node.core.events import Member
from lowcomm_node.daemon.children import Children
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.daemon.run_finder import RunFinder
from lowcomm_node.daemon.training import Training
from lowcomm_node.errors import LowcommError, NoPeerError
from lowcomm_node.ports import Welcome
from lowcomm_node.settings.canonical import canonical_bytes
from lowcomm_node.settings.node import CheckpointSettings, NodeSettings
from lowcomm_node.telemetry.metrics import Metrics
from lowcomm_node.train.messages import FromTrainer, LoadState
from lowcomm_node.units import PeerId
from lowcomm_node.wire.gen.lowcomm.v1 import state_pb2
from lowcomm_node.wire.state import Snapshot
from tests.daemon.faulty_disk import PROCESS, KilledError, Process
from tests.daemon.tiny_trainer import MANIFEST, RUN, TinyTrainer
from tests.daemon.virtual_donors import CHUNK_BYTES, LATENCY_S, Donor, Wire, as_nobody
from tests.daemon.virtual_time import run_virtually

__all__ = ["CALM_AT_S", "JoinWorld"]

CALM_AT_S = 40.0
"""From then on no new fault strikes, and old ones are over."""
_LONGEST_S = 5000.0
"""Virtual: a trainer that hangs before its first step is given half an hour, and that may happen twice."""
_MOST_STEPS = 3000
_KEEP = 2
_METRICS = Metrics()
_MANIFEST_BYTES = canonical_bytes(MANIFEST)


class _Life:
    """One process of the node, from its start to its end."""

    def __init__(self, world: "JoinWorld") -> None:
        self.world = world
        self.process = Process(world.on_disk)
        self.crashed = asyncio.Event()
        self.trainer: TinyTrainer | None = None
        self.training: Training | None = None
        self.is_training = False
        self.known_addresses: tuple[str, ...] = ()
        self.given: tuple[str, ...] = ("donor0:1", "donor1:1", "donor2:1")

    def crash(self) -> None:
        self.process.is_dead = True
        self.crashed.set()

    async def run(self) -> None:
        """Like ``daemon.lifecycle``: connect, sync, train, checkpoint."""
        PROCESS.set(self.process)
        world, folder = self.world, self.world.folder
        network: Any = self
        finder = RunFinder(manifest=None, peers=self.given, wanted="", network=network, state_dir=folder)
        shelf = SnapshotShelf(folder / "snapshots", CHUNK_BYTES)
        wire: Any = Wire(world)
        client = MemberStateClient(
            ways=(grpc_way(wire),), protocol_version=PROTOCOL_VERSION, shelf=shelf, on_received=lambda _: None
        )
        self.training = training = Training(
            settings=NodeSettings(checkpoint=CheckpointSettings(every_s=8.0, keep=_KEEP)),
            state_dir=folder,
            recorder=Recorder(_METRICS),
            children=Children(folder),
            on_message=self._said,
            on_lost=self._lost,
            enter=lambda state, _: world.note(f"is {state}"),
            clock=lambda: world.now,
        )
        try:
            async with asyncio.TaskGroup() as group:
                training.attach()
                found = await finder.find(training.has_checkpoint, lambda _: None)
                await training.configure(found.manifest, found.run_id, PeerId("me"))
                await shelf.take_up()
                live = training.live(
                    is_first=False,
                    knows_nobody=finder.knows_nobody,
                    find_donors=self._donors,
                    client=client,
                    on_training=self._began,
                )
                group.create_task(live, name="live")
                group.create_task(training.keep_checkpoints(dict), name="checkpoints")
                group.create_task(self._look_around(finder, found), name="look around")
                group.create_task(self._leave(training), name="leave")
        except* _LeftError:
            pass
        except* LowcommError as errors:
            raise errors.exceptions[0] from None
        finally:
            shelf.close()
            await training.end(0.0)

    async def _look_around(self, finder: RunFinder, found: Any) -> None:
        while True:
            self.known_addresses = tuple(donor.member().grpc_address for donor in self.world.reachable())
            await finder.remember(found)
            await asyncio.sleep(5.0)

    async def _leave(self, training: Training) -> None:
        """When everything has been seen: in order."""
        while not self.world.has_seen_enough():  # noqa: ASYNC110 - the time is up, nobody says so
            await asyncio.sleep(2.0)
        await training.save({})
        self.world.note("left")
        raise _LeftError

    async def _donors(self) -> tuple[Member, ...]:
        self.world.step("find donors")
        await asyncio.sleep(LATENCY_S)
        return tuple(donor.member() for donor in self.world.reachable())

    def _said(self, message: FromTrainer) -> None:
        del message

    def _lost(self) -> None:
        self.is_training = False

    def _began(self) -> None:
        self.is_training = True
        self.world.note("trains")
        self.world.trains_since = self.world.now

    async def start(self, remembered: Sequence[str] = (), *, may_be_alone: bool = False) -> bool:
        """As ``daemon.network.Network``."""
        self.world.step("connect")
        for _ in range(4):
            if self.world.reachable():
                return True
            await asyncio.sleep(5.0)
        if not may_be_alone:
            raise NoPeerError(f"nobody at {[*self.given, *remembered]}")
        return False

    async def enter(self, run: object, canonical: bytes, manifest: object) -> None:
        """As ``daemon.network.Network``."""

    async def hello(self) -> Welcome:
        self.world.step("hello")
        await asyncio.sleep(LATENCY_S)
        if not self.world.reachable():
            raise NoPeerError("they are gone")
        member = self.world.reachable()[0].member()
        return Welcome(run_id=RUN, manifest=_MANIFEST_BYTES, member=member, record=b"", clock_offset_s=0.0)


class _LeftError(Exception):
    """The life is over, in order."""


class JoinWorld:
    """Runs lives until one trains on through the calm. Faults are methods."""

    def __init__(self, folder: Path, *, seed: int = 0, is_shared: bool = False, pace: float = 1.0) -> None:
        """``is_shared``: all donors hold a snapshot as soon as one has it. ``pace``: their steps a second; the node makes half a step."""
        self.folder = folder / "node"
        self.folder.mkdir()
        self._donor_folder = folder
        self._chance = Random(f"world {seed}")
        self.is_shared = is_shared
        self.pace = pace
        self.donors: list[Donor] = []
        self.life: _Life | None = None
        self.history: list[tuple[float, str]] = []
        self.seen: Counter[str] = Counter()
        self.on_step: Callable[[str, int], None] = lambda _name, _number: None
        self.on_operation: Callable[[str, int], None] = lambda _name, _number: None
        self.chunk_fate = ""
        self.trains_since: float | None = None
        self.is_parted = False
        self.wall_offset_s = 0.0
        self.num_steps = self.num_operations = 0
        self.num_deaths = 0
        """Ends of a call, a trainer or a node; each may cost one chunk again."""
        self.fetched_again = 0
        self._does_damage = False
        self._honest: set[str] = set()
        self._checkpoints: dict[str, str] = {}
        """What was in each checkpoint that was complete, by name."""
        self._spoilt: set[str] = set()
        self._writing: dict[str, str] = {}
        self._problems: list[str] = []

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def run(self) -> None:
        """To the end; then everything that must hold holds."""
        random.seed(1)
        run_virtually(self._main)
        assert not self._problems, self._problems

    async def _main(self) -> None:
        async with asyncio.timeout(_LONGEST_S):
            for number in range(3):
                self.donors.append(Donor(self, number, self._donor_folder / f"donor{number}"))
                await self.donors[-1].start()
            while not await self._live():  # noqa: ASYNC110 - for whoever starts it again
                await asyncio.sleep(2.0)
            for donor in self.donors:
                donor.die()
        self._check_folder()

    async def _live(self) -> bool:
        """One life; true when it was the last."""
        self.life = life = _Life(self)
        self.note("starts")
        task = asyncio.create_task(life.run(), name="node")
        crashed = asyncio.create_task(life.crashed.wait(), name="crash")
        try:
            await asyncio.wait({task, crashed}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # it has taken too long
            task.cancel()
            crashed.cancel()
            await asyncio.gather(task, crashed, return_exceptions=True)
            raise
        has_crashed = life.process.is_dead
        life.process.is_dead = life.process.is_dead or not task.done()
        task.cancel()
        crashed.cancel()
        (outcome, _) = await asyncio.gather(_outcome(task), _outcome(crashed))
        life.is_training = False
        self._look_at_checkpoints()
        if has_crashed:
            self.note("crashed")
            return False
        if isinstance(outcome, LowcommError):
            self.note(f"gave up: {outcome.code}")
            return False
        if outcome is not None:
            raise outcome
        return True

    def has_seen_enough(self) -> bool:
        """It trains, long enough for a checkpoint, and nothing strikes any more."""
        begun = self.life is not None and self.life.is_training and self.trains_since is not None
        return begun and self.now > max(CALM_AT_S, self.trains_since or 0.0) + 12.0

    def step(self, name: str) -> None:
        """Something is about to happen, and may be struck."""
        if self.life is not None and self.life.process.is_dead:
            return
        self.note(name)
        self.seen[name] += 1
        self.num_steps += 1
        assert self.num_steps < _MOST_STEPS, "it goes round in circles"
        if self.is_stormy():
            self.on_step(name, self.num_steps)

    def on_disk(self, name: str) -> None:
        self.num_operations += 1
        if self.is_stormy():
            self.on_operation(name, self.num_operations)

    def is_stormy(self) -> bool:
        return self.now < CALM_AT_S

    def note(self, what: str) -> None:
        self.history.append((round(self.now, 6), what))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """``act`` later, but before the calm."""
        asyncio.get_running_loop().call_at(min(CALM_AT_S, self.now + seconds), act)

    # What the parts ask.

    def reachable(self) -> list[Donor]:
        return [] if self.is_parted else [donor for donor in self.donors if donor.is_up]

    def at(self, peer: PeerId) -> Donor | None:
        return next((donor for donor in self.reachable() if donor.peer == peer), None)

    def damaged(self, answer: bytes) -> bytes:
        """The next description, if it is to be damaged."""
        if not self._does_damage:
            return answer
        self._does_damage = False
        position = self._chance.randrange(len(answer))
        return answer[:position] + bytes([answer[position] ^ (1 << self._chance.randrange(8))]) + answer[position + 1 :]

    def began(self, trainer: TinyTrainer) -> None:
        assert self.life is not None
        self.life.trainer = trainer

    def wrote(self, content: str, checkpoint: Path | None = None) -> None:
        self._honest.add(content)
        if checkpoint is not None:
            self._look_at_checkpoints()
            self._writing[checkpoint.name] = content

    def loaded(self, question: LoadState, content: str) -> None:
        self._look_at_checkpoints()
        self.note("loads its own" if question.is_own else "loads a donor's")
        if content not in self._honest:
            self._problems.append(f"{self.now}: a state that nobody has had is loaded")
        name = Path(question.path).name
        if question.is_own and self._checkpoints.get(name) != content:
            self._problems.append(f"{self.now}: checkpoint {name} is not what was written")

    def fetches(self, request: state_pb2.FetchRequest) -> None:
        """Chunks that are asked for although they are on disk, as described."""
        begun = self.folder / "download.safetensors.partial.json"
        partial = self.folder / "download.safetensors.partial"
        token = PROCESS.set(None)
        try:
            description = json.loads(begun.read_text())["description"]
            snapshot = Snapshot.decode(base64.b64decode(description), run_id=RUN, max_bytes=1 << 20)
            data = partial.read_bytes()
        except OSError:
            return
        finally:
            PROCESS.reset(token)
        if snapshot.snapshot_id != request.snapshot_id:
            return
        for index in request.chunks:
            piece = data[index * CHUNK_BYTES : index * CHUNK_BYTES + snapshot.length_of(index)]
            self.fetched_again += sha256(piece).digest() == snapshot.digests[index]

    # Faults.

    def crash(self) -> None:
        """The node's process and its trainer are gone, with nothing but the disk left."""
        if self.life is not None:
            self.num_deaths += 1
            self.life.crash()

    def kill_trainer(self) -> None:
        if self.life is not None and self.life.trainer is not None:
            self.life.trainer.kill()

    def hang_trainer(self) -> None:
        if self.life is not None and self.life.trainer is not None:
            self.life.trainer.hangs = True

    def heal(self) -> None:
        if self.life is not None and self.life.training is not None and self.life.is_training:
            self.life.training.heal("told to")

    def kill_donor(self, seconds: float | None = 15.0) -> None:
        """The one that is furthest on; it comes back with what it has on disk, or another comes in its place."""
        up = [donor for donor in self.donors if donor.is_up]
        if not up:
            return
        donor = up[-1]
        donor.die()
        self.num_deaths += 1
        if seconds is None:
            new = Donor(self, len(self.donors), self._donor_folder / f"donor{len(self.donors)}")
            self.donors.append(new)
            self.after(5.0, lambda: self._begin(new))
        else:
            self.after(seconds, lambda: self._begin(donor))

    def silence(self) -> None:
        """All donors accept everything and answer nothing."""
        for donor in self.donors:
            donor.is_silent = True
        self.num_deaths += len(self.donors)
        self.after(self._chance.uniform(20.0, 60.0), self._speak)

    def silence_one(self) -> None:
        self.donors[-1].is_silent = True
        self.num_deaths += 1
        self.after(40.0, self._speak)

    def part(self, seconds: float | None = None) -> None:
        """Nobody is there, for a while."""
        self.is_parted = True
        self.num_deaths += len(self.donors)
        self.after(seconds or self._chance.uniform(5.0, 40.0), lambda: setattr(self, "is_parted", False))

    def spoil_chunk(self, fate: str) -> None:
        self.chunk_fate = fate
        self.num_deaths += 1

    def spoil_description(self) -> None:
        self._does_damage = True

    def fall_behind(self) -> None:
        """All donors are less far on than the node."""
        for donor in self.donors:
            donor._started_at -= 60.0

    def lie(self) -> None:
        """The donor that is furthest on gives values that are no numbers."""
        donor = self.donors[-1]
        donor.is_lying, donor._newest = True, None
        self.after(60.0, lambda: setattr(donor, "is_lying", False))

    def fill_disk(self) -> None:
        if self.life is not None:
            process = self.life.process
            process.has_full_disk = True
            self.after(self._chance.uniform(1.0, 40.0), lambda: setattr(process, "has_full_disk", False))

    def set_clock(self, hours: float) -> None:
        self.wall_offset_s += 3600.0 * hours

    def crash_and_cut(self) -> None:
        """A power cut: the end of the file that was being written is missing."""
        self._damage_files("download.safetensors*", lambda path: _cut(path, self._chance))

    def crash_and_flip(self) -> None:
        self._damage_files("download.safetensors*", lambda path: _flip(path, self._chance))
        self._damage_files("snapshots/*", lambda path: _flip(path, self._chance))

    def crash_and_spoil_checkpoint(self) -> None:
        """The newest checkpoint has a flipped bit, or lacks a file."""
        self.crash()
        token = PROCESS.set(None)
        whole = self._whole()
        if whole:
            self._spoilt.add(whole[-1].name)
            victim = self._chance.choice(sorted(whole[-1].iterdir()))
            self._chance.choice((lambda: _flip(victim, self._chance), victim.unlink))()
        PROCESS.reset(token)

    def crash_and_lose_run(self) -> None:
        self._damage_files("run.json", lambda path: _flip(path, self._chance))

    def _damage_files(self, pattern: str, damage: Callable[[Path], None]) -> None:
        self.crash()
        token = PROCESS.set(None)
        for path in sorted(self.folder.glob(pattern)):
            damage(path)
        PROCESS.reset(token)

    def _begin(self, donor: Donor) -> None:
        if not donor.is_up:
            as_nobody(donor.start(), "donor starts")

    def _speak(self) -> None:
        for donor in self.donors:
            donor.is_silent = False

    # What must hold.

    def _whole(self) -> list[Path]:
        folder = self.folder / "checkpoints"
        return sorted(path for path in folder.glob("[0-9]*") if "." not in path.name) if folder.is_dir() else []

    def _look_at_checkpoints(self) -> None:
        """Remember which are complete; the newest that was is there still, as it was."""
        token = PROCESS.set(None)
        try:
            names = [path.name for path in self._whole()]
            for name in names:
                if name in self._writing:
                    self._checkpoints[name] = self._writing.pop(name)
            good = [name for name in self._checkpoints if name not in self._spoilt]
            if good and max(good) not in names:
                self._problems.append(f"{self.now}: checkpoint {max(good)} is lost, there are {names}")
            unknown = [name for name in names if name not in self._checkpoints]
            if unknown:
                self._problems.append(f"{self.now}: nobody has written {unknown}")
        finally:
            PROCESS.reset(token)

    def _check_folder(self) -> None:
        self._look_at_checkpoints()
        whole, entries = self._whole(), sorted((self.folder / "checkpoints").iterdir())
        aside = [path for path in entries if path.name[0] != "." and path not in whole]
        assert 1 <= len(whole) <= _KEEP, whole
        assert len(aside) <= 2, aside
        assert len(whole) + len(aside) == len(entries), entries
        assert {path.name[:8] for path in aside} <= self._spoilt, aside
        names = {path.name for path in self.folder.iterdir()}
        left = {name for name in names if "unfinished" in name or name.startswith("snapshot-")}
        assert not left, left
        held = sorted((self.folder / "snapshots").glob("*"))
        assert len(held) <= 2, held
        assert [path.stem for path in held] == [_id_of(path.read_bytes()) for path in held], "a snapshot was written to"
        assert self.fetched_again <= self.num_deaths, (
            f"{self.fetched_again} chunks fetched again, {self.num_deaths} deaths"
        )


async def _outcome(task: "asyncio.Task[Any]") -> BaseException | None:
    await asyncio.wait({task})
    error = None if task.cancelled() else task.exception()
    return None if isinstance(error, KilledError) else error


def _id_of(data: bytes) -> str:
    """By which a snapshot of this content is known."""
    pieces = (data[offset : offset + CHUNK_BYTES] for offset in range(0, len(data), CHUNK_BYTES))
    digests = tuple(sha256(piece).digest() for piece in pieces)
    snapshot = Snapshot(total_bytes=len(data), chunk_bytes=CHUNK_BYTES, digests=digests, progress_steps=0.0)
    return snapshot.snapshot_id.hex()


def _flip(path: Path, chance: Random) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)


def _cut(path: Path, chance: Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data) + 1)])
