"""Where a node's state comes from, with donors that are far on, behind, broken or not there."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import pytest

from lowcomm_node.adapters.checkpoint_store import CheckpointStore
from lowcomm_node.core.events import Member
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.daemon import sync
from lowcomm_node.daemon.donors import Donors, DownloadRules
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.daemon.sync import StateSources, obtain_state
from lowcomm_node.errors import LinkError, StoreError
from lowcomm_node.settings.node import CheckpointSettings
from lowcomm_node.telemetry.metrics import Metrics
from lowcomm_node.train.messages import FingerprintTaken, LoadState, StateLoaded, TakeFingerprint
from lowcomm_node.units import PeerId, RunId
from lowcomm_node.wire.checkpoint import CheckpointFacts, encode_facts

_RUN = RunId("ab" * 32)


def donor(name: str, progress_steps: float) -> Member:
    return Member(peer=PeerId(name), grpc_address=name, progress_steps=progress_steps, has_state=True, expires_at=1e9)


class Client:
    """Downloads from whoever is not broken; remembers who was asked. Nobody tells its fingerprint."""

    def __init__(self, broken: set[str]) -> None:
        self.broken = broken
        self.asked: list[str] = []

    async def download(
        self,
        donors: Sequence[str],
        run_id: RunId,
        destination: Path,
        max_bytes: int,
        on_progress: Callable[[int, int], None],
    ) -> None:
        del run_id, destination, max_bytes, on_progress
        self.asked.append(donors[0])
        if donors[0] in self.broken:
            raise LinkError("unreachable", donors[0])

    async def fingerprint(self, peer: PeerId, run_id: RunId) -> Fingerprint:
        raise LinkError("timeout", f"{peer} {run_id}")

    async def keep(self, path: Path, progress_steps: float) -> None: ...

    def discard(self, destination: Path) -> None: ...


def obtain(
    folder: Path,
    donors: Mapping[str, float],
    client: Client,
    *,
    is_first: bool = False,
    patience_s: float = 0.0,
    is_unfit: bool = False,
    away_steps: int = 0,
    is_back_soon: bool = False,
    find: Callable[[], Awaitable[tuple[Member, ...]]] | None = None,
    refused: frozenset[str] = frozenset(),
) -> tuple[StateLoaded | None, list[LoadState]]:
    """Look for state for ten seconds at most; returns what was found and what was asked of the trainer."""
    loads: list[LoadState] = []

    async def load(question: LoadState) -> StateLoaded:
        loads.append(question)
        if question.is_own and Path(question.path).name in refused:
            raise StoreError("not finite")
        return StateLoaded(progress_steps=1.0, steps=0, tokens=0)

    async def examine(_: TakeFingerprint) -> FingerprintTaken:
        return FingerprintTaken(fingerprint=Fingerprint(progress_steps=1.0, sketch=(1.0,), norms=()))

    async def listed() -> tuple[Member, ...]:
        return tuple(donor(name, progress) for name, progress in donors.items())

    async def bounded() -> StateLoaded | None:
        sources = StateSources(
            run_id=_RUN,
            checkpoints=CheckpointStore(folder, CheckpointSettings(), lambda *_: None),
            is_first=is_first,
            patience_s=patience_s,
            is_unfit=is_unfit,
            away_steps=away_steps,
            is_back_soon=is_back_soon,
        )
        rules = DownloadRules(
            run_id=_RUN,
            file=lambda _donor: folder / "download",
            max_bytes=1000,
            total_steps=1000,
            initial_sketch=(0.0,),
        )
        members = Donors(
            rules,
            find=find or listed,
            client=client,
            examine=examine,
            load=lambda _donor, question: load(question),
            say=lambda _: None,
            recorder=Recorder(Metrics()),
        )
        async with asyncio.timeout(10):
            return await obtain_state(sources, members, load=load, say=lambda _: None)

    return asyncio.run(bounded()), loads


def checkpoint(folder: Path, number: int, progress_steps: float, run_id: RunId = _RUN) -> Path:
    """One whose tensors nobody reads."""
    path = folder / "checkpoints" / f"{number:08d}"
    path.mkdir(parents=True)
    facts = CheckpointFacts(run_id=run_id, progress_steps=progress_steps, steps=1, state_bytes=0, state_sha256="0" * 64)
    (path / "state.json").write_bytes(encode_facts(facts))
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "_RETRY_S", 0.0)


def test_broken_members_that_claim_to_be_ahead_do_not_keep_a_joiner_out(tmp_path: Path) -> None:
    """More of them than are asked in one round: the next round begins with those who have not failed."""
    boasters = {f"bad{number}": 1e11 for number in range(6)}
    client = Client(broken=set(boasters))

    loaded, loads = obtain(tmp_path, {**boasters, "good": 50.0}, client)

    assert loaded is not None
    assert [question.is_own for question in loads] == [False]
    assert client.asked[-1] == "good"
    assert len(client.asked) == 7


def test_the_donor_that_is_furthest_on_is_asked_first(tmp_path: Path) -> None:
    """As long as nobody has failed, progress decides."""
    client = Client(broken=set())

    obtain(tmp_path, {"behind": 10.0, "ahead": 90.0}, client)

    assert client.asked == ["ahead"]


def test_own_state_is_taken_when_nobody_that_works_is_further_on(tmp_path: Path) -> None:
    """A donor ahead comes first; one behind, or one that is ahead in words only, leaves the own checkpoint the best there is."""
    checkpoint(tmp_path, 1, 50.0)

    ahead, behind, broken = (
        obtain(tmp_path, donors, Client(broken={"bad"}))[1] for donors in ({"a": 90.0}, {"a": 10.0}, {"bad": 1e11})
    )

    assert [[question.is_own for question in loads] for loads in (ahead, behind, broken)] == [[False], [True], [True]]


def test_an_unfit_node_takes_any_donors_state_before_its_own(tmp_path: Path) -> None:
    """Its own progress says nothing of its state; with nobody to ask, a checkpoint from before is still better than none."""
    checkpoint(tmp_path, 1, 50.0)

    behind, nobody = (obtain(tmp_path, donors, Client(set()), is_unfit=True)[1] for donors in ({"a": 10.0}, {}))

    assert [question.is_own for question in behind] == [False]
    assert [question.is_own for question in nobody] == [True]


def test_nodes_that_are_unfit_together_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """The directory may still list them, but none has anything to give: after its patience each goes back to its own."""
    checkpoint(tmp_path, 1, 50.0)

    loaded, loads = obtain(tmp_path, {"a": 60.0, "b": 40.0}, Client(broken={"a", "b"}), is_unfit=True, patience_s=0.05)

    assert loaded is not None
    assert [question.is_own for question in loads] == [True]


def test_who_starts_the_run_may_begin_at_once_but_not_after_a_crash(tmp_path: Path) -> None:
    """Without members the initial weights will do; within its patience a node that was in a run looks for others first."""
    looks = 0

    async def appear() -> tuple[Member, ...]:
        nonlocal looks
        looks += 1
        return (donor("late", 90.0),) if looks > 3 else ()

    client = Client(broken=set())
    assert obtain(tmp_path, {}, client, is_first=True) == (None, [])
    loaded, _ = obtain(tmp_path, {}, client, is_first=True, patience_s=5.0, find=appear)
    assert loaded is not None
    assert client.asked == ["late"]


def test_a_node_with_nobody_to_ask_resumes_by_itself_after_its_patience(tmp_path: Path) -> None:
    """Its own work, instead of waiting for ever, or of beginning a run anew that it has started."""
    path = checkpoint(tmp_path, 3, 50.0)

    for is_first in (False, True):
        loaded, loads = obtain(tmp_path, {}, Client(broken=set()), is_first=is_first, patience_s=0.01)
        assert loaded is not None
        assert loads == [LoadState(path=str(path), is_own=True)]


def test_of_damaged_checkpoints_the_one_before_is_used(tmp_path: Path) -> None:
    """One that the trainer refuses, one without its JSON: moved aside, one by one, until one is good."""
    for number in range(1, 5):
        checkpoint(tmp_path, number, 10.0 * number)
    (tmp_path / "checkpoints" / "00000003" / "state.json").unlink()

    _, loads = obtain(tmp_path, {}, Client(broken=set()), refused=frozenset({"00000004"}))

    assert [Path(question.path).name for question in loads] == ["00000004", "00000002"]
    assert names(tmp_path) == ["00000001", "00000002", "00000003.unreadable", "00000004.refused"]


def test_a_donor_further_on_than_the_checkpoint_before_is_preferred(tmp_path: Path) -> None:
    """The newest is damaged: what is left is judged by its own progress."""
    checkpoint(tmp_path, 1, 10.0)
    checkpoint(tmp_path, 2, 50.0)

    _, loads = obtain(tmp_path, {"a": 30.0}, Client(broken=set()), refused=frozenset({"00000002"}))

    assert [question.is_own for question in loads] == [True, False]


def test_checkpoints_of_another_run_are_not_lost(tmp_path: Path) -> None:
    """They are moved aside, where a person can find them."""
    checkpoint(tmp_path, 1, 50.0, RunId("cd" * 32))

    assert obtain(tmp_path, {}, Client(broken=set()), is_first=True) == (None, [])
    assert names(tmp_path) == [f"00000001.run-{'cd' * 6}"]


def test_who_was_paused_briefly_goes_on_from_where_it_was(tmp_path: Path) -> None:
    """Others have come further meanwhile: catching up by meetings costs less than a download, and its steps are not lost."""
    checkpoint(tmp_path, 1, 100.0)
    client = Client(set())

    _, loads = obtain(tmp_path, {"ahead": 120.0}, client, patience_s=5.0, is_back_soon=True, away_steps=20)

    assert [(load.is_own, load.away_steps) for load in loads] == [(True, 20)]
    assert client.asked == []


def test_who_was_paused_for_long_takes_a_donors_state(tmp_path: Path) -> None:
    """As after any other restart; where there is no donor its own has to do, and it says how long it was away."""
    checkpoint(tmp_path, 1, 100.0)

    _, loads = obtain(tmp_path, {"ahead": 900.0}, Client(set()), away_steps=800)
    assert [(load.is_own, load.away_steps) for load in loads] == [(False, 0)]

    _, loads = obtain(tmp_path, {}, Client(set()), away_steps=800)
    assert [(load.is_own, load.away_steps) for load in loads] == [(True, 800)]


def test_a_checkpoint_of_a_brief_pause_that_cannot_be_loaded_is_no_dead_end(tmp_path: Path) -> None:
    """It is set aside, and all goes on as after any other restart: the one before is older, so a donor is better."""
    checkpoint(tmp_path, 1, 50.0)
    refused = checkpoint(tmp_path, 2, 100.0)

    _, loads = obtain(tmp_path, {"ahead": 120.0}, Client(set()), is_back_soon=True, refused=frozenset({refused.name}))

    assert [load.is_own for load in loads] == [True, False]
