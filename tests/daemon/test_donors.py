"""Which donor's state is taken, with donors that are honest, poisoned, fresh or dead."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from lowcomm_node.core.events import Member
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.daemon.donors import Donors, DownloadRules
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.errors import LinkError, StoreError, TrainerError
from lowcomm_node.telemetry.metrics import Metrics
from lowcomm_node.train.messages import FingerprintTaken, LoadState, StateLoaded, TakeFingerprint
from lowcomm_node.units import PeerId, RunId

_RUN = RunId("ab" * 32)
_INITIAL = (1.0, 0.0, 0.0)
_HONEST = Fingerprint(progress_steps=500.0, sketch=(1.0, 1.0, 0.0), norms=(("params", 1.4),))
_FLIPPED = replace(_HONEST, sketch=(-1.0, -1.0, 0.0))
_FRESH = replace(_HONEST, sketch=_INITIAL)


class Told(Recorder):
    """What came of each attempt, as it was recorded; counters and log have it too."""

    def __init__(self) -> None:
        super().__init__(Metrics())
        self.outcomes: list[bool] = []
        self.refusals: list[str] = []

    def donor_failed(self, donor: PeerId, detail: str) -> None:
        self.outcomes.append(False)
        super().donor_failed(donor, detail)

    def state_refused(self, donor: PeerId, reason: str, detail: str, *, was_downloaded: bool) -> None:
        self.refusals.append(reason)
        self.outcomes += [False] * was_downloaded
        super().state_refused(donor, reason, detail, was_downloaded=was_downloaded)

    def state_downloaded(self, donor: PeerId, progress_steps: float, compared_with: int) -> None:
        self.outcomes.append(True)
        super().state_downloaded(donor, progress_steps, compared_with)


@dataclass
class World:
    """Members by name with the state they give, and what has happened."""

    folder: Path
    gives: dict[str, Fingerprint]
    claims: dict[str, Fingerprint]
    """What they say of their live state; who is not here does not answer."""
    dead: set[str] = field(default_factory=set)
    undialable: set[str] = field(default_factory=set)
    unreadable: set[str] = field(default_factory=set)
    trainer_dies: bool = False
    full_disk: str = ""
    one_each: bool = False
    downloads: list[tuple[str, ...]] = field(default_factory=list)
    recorder: Told = field(default_factory=Told)
    kept: list[float] = field(default_factory=list)

    def donors(self) -> Donors:
        rules = DownloadRules(run_id=_RUN, file=self.place, max_bytes=1000, total_steps=1000, initial_sketch=_INITIAL)
        return Donors(
            rules,
            find=self.find,
            client=self,
            examine=self.examine,
            load=self.load,
            say=lambda _: None,
            recorder=self.recorder,
        )

    async def find(self) -> tuple[Member, ...]:
        return tuple(
            Member(
                peer=PeerId(name), grpc_address="" if name in self.undialable else name, progress_steps=fingerprint.progress_steps, has_state=True, expires_at=1e9
            )
            for name, fingerprint in self.gives.items()
        )  # fmt: skip

    async def download(
        self, donors: Sequence[str], run_id: RunId, destination: Path, max_bytes: int, on_progress: Callable[[int, int], None]
    ) -> None:  # fmt: skip
        del run_id, max_bytes, on_progress
        self.downloads.append(tuple(donors))
        if self.full_disk:
            raise StoreError(self.full_disk)
        if donors[0] in self.dead:
            raise LinkError("unreachable", donors[0])
        _write(destination, donors[0])

    async def fingerprint(self, peer: PeerId, run_id: RunId) -> Fingerprint:
        del run_id
        if peer not in self.claims:
            raise LinkError("timeout", peer)
        return self.claims[peer]

    async def keep(self, path: Path, progress_steps: float) -> None:
        assert _read(str(path))
        self.kept.append(progress_steps)

    def discard(self, destination: Path) -> None:
        destination.unlink(missing_ok=True)

    async def examine(self, question: TakeFingerprint) -> FingerprintTaken:
        donor = _read(question.path)
        if self.trainer_dies:
            raise TrainerError("out of memory")
        if donor in self.unreadable:
            raise StoreError("not finite")
        return FingerprintTaken(fingerprint=self.gives[donor])

    def place(self, donor: PeerId) -> Path:
        return self.folder / (f"{donor}.state" if self.one_each else "download")

    async def load(self, donor: PeerId, question: LoadState) -> StateLoaded:
        assert _read(question.path) == donor
        return StateLoaded(progress_steps=self.gives[donor].progress_steps, steps=0, tokens=0)


def _write(path: Path, donor: str) -> None:
    path.write_text(donor)


def _read(path: str) -> str:
    """The donor whose state this is."""
    return Path(path).read_text()


def get_state(world: World) -> StateLoaded | None:
    """One round."""

    async def bounded() -> StateLoaded | None:
        donors = world.donors()
        async with asyncio.timeout(10):
            return await donors.get_state(await donors.look())

    return asyncio.run(bounded())


def members(count: int, **special: Fingerprint) -> dict[str, Fingerprint]:
    """So many honest ones, and others before them in the order of progress."""
    ahead = {name: replace(state, progress_steps=501.0) for name, state in special.items()}
    return {**ahead, **{f"honest{number}": _HONEST for number in range(count)}}


@pytest.mark.parametrize(("poison", "reason"), [(_FLIPPED, "distance"), (_FRESH, "initial")])
def test_a_poisoned_donor_is_refused_by_what_it_gives(tmp_path: Path, poison: Fingerprint, reason: str) -> None:
    """It says of itself what the others say; its file tells the truth. The next donor is asked, nothing is left."""
    world = World(tmp_path, gives=members(3, bad=poison), claims=members(3, bad=_HONEST))

    assert get_state(world) is not None
    assert [holders[0] for holders in world.downloads] == ["bad", "honest0"]
    assert world.recorder.refusals == [reason]
    assert world.recorder.outcomes == [False, True]
    assert world.kept == [500.0]
    assert list(tmp_path.iterdir()) == []


def test_a_donor_that_says_itself_that_it_has_gone_astray_costs_no_download(tmp_path: Path) -> None:
    """An honest node whose weights have diverged."""
    world = World(tmp_path, gives=members(3, bad=_FLIPPED), claims=members(3, bad=_FLIPPED))

    assert get_state(world) is not None
    assert [holders[0] for holders in world.downloads] == ["honest0"]
    assert world.recorder.refusals == ["distance"]
    assert world.recorder.outcomes == [True]


def test_with_a_single_other_member_a_finite_state_will_do(tmp_path: Path) -> None:
    """One cannot say which of two is right."""
    world = World(tmp_path, gives=members(1, bad=_FLIPPED), claims=members(1, bad=_HONEST))

    loaded = get_state(world)

    assert loaded is not None
    assert loaded.progress_steps == 501.0
    assert world.recorder.refusals == []


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """The trainer's own checks: run, names, shapes, finite."""
    world = World(tmp_path, gives=members(1, bad=_HONEST), claims={}, unreadable={"bad"})

    assert get_state(world) is not None
    assert world.recorder.refusals == ["unreadable"]
    assert world.recorder.outcomes == [False, True]


def test_all_who_may_hold_the_snapshot_are_named(tmp_path: Path) -> None:
    """So that a download survives its donor; the donor comes first."""
    world = World(tmp_path, gives=members(3), claims={}, dead={"honest0"})

    assert get_state(world) is not None
    assert world.downloads[0] == ("honest0", "honest1", "honest2")
    assert world.downloads[1] == ("honest1", "honest0", "honest2")
    assert world.recorder.refusals == []


def test_a_trainer_that_dies_while_it_looks_does_not_cost_the_download(tmp_path: Path) -> None:
    """The file is still there for its next life."""
    world = World(tmp_path, gives=members(2), claims={}, trainer_dies=True)

    with pytest.raises(TrainerError):
        get_state(world)

    assert (tmp_path / "download").read_text() == "honest0"
    assert world.recorder.outcomes == []


def test_a_full_disk_is_told_to_who_looks_at_the_node(tmp_path: Path) -> None:
    """It is not the donors' fault, and nothing they could do would help."""
    world = World(tmp_path, gives=members(2), claims={}, full_disk="state.partial: the download needs 20 MB more")
    donors = world.donors()

    async def rounds() -> None:
        assert await donors.get_state(await donors.look()) is None

    asyncio.run(rounds())
    assert "needs 20 MB more" in donors.complaint

    world.full_disk, world.dead = "", {"honest0", "honest1"}
    asyncio.run(rounds())
    assert donors.complaint == "no donor could give its state (unreachable: honest1); retrying"


def test_why_nobody_is_asked_is_told(tmp_path: Path) -> None:
    """The own line is closed; nobody is there. Each in its own words."""
    world = World(tmp_path, gives=members(2), claims={})
    donors = world.donors()
    find = world.find

    async def told(found: Callable[[], Awaitable[tuple[Member, ...]]]) -> str:
        donors._find = found
        assert await donors.look() == ()
        return donors.complaint

    async def closed() -> tuple[Member, ...]:
        raise LinkError("line", "quiet hours; the state is fetched from 07:00 on")

    async def nobody() -> tuple[Member, ...]:
        return ()

    async def rounds() -> None:
        assert await told(closed) == "quiet hours; the state is fetched from 07:00 on"
        assert await told(nobody) == "waiting for a member that can give its state"
        donors._find = find
        assert len(await donors.look()) == 2

    asyncio.run(rounds())


def test_those_that_nobody_can_dial_are_asked_after_those_that_can_be(tmp_path: Path) -> None:
    """However far they are: what leads to them is slower, or a connection that somebody has made by chance."""
    world = World(tmp_path, gives=members(3, hidden=_HONEST), claims={}, undialable={"hidden", "honest0"})

    assert get_state(world) is not None
    assert world.downloads == [("honest1", "hidden", "honest0", "honest2")]

    world.dead = {"honest1", "honest2"}
    assert get_state(world) is not None
    assert [holders[0] for holders in world.downloads[1:]] == ["honest1", "honest2", "hidden"]
