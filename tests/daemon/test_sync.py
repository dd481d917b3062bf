"""Where a node's state comes from, with donors that are far on, behind, broken or not there."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lowcomm_node.core.events import Member
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.daemon import sync
from lowcomm_node.daemon.donors import Donors, DownloadRules
from lowcomm_node.daemon.sync import StateSources, obtain_state
from lowcomm_node.errors import LinkError, StoreError
from lowcomm_node.train.messages import FingerprintTaken, LoadState, StateLoaded, TakeFingerprint
from lowcomm_node.units import PeerId, RunId

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

    async def fingerprint(self, address: str, run_id: RunId) -> Fingerprint:
        raise LinkError("timeout", f"{address} {run_id}")

    async def keep(self, path: Path, progress_steps: float) -> None: ...

    def discard(self, destination: Path) -> None: ...


def obtain(
    folder: Path,
    donors: Mapping[str, float],
    client: Client,
    *,
    is_first: bool = False,
    patience_s: float = 0.0,
    find: Callable[[], Awaitable[tuple[Member, ...]]] | None = None,
    refuses_own: bool = False,
) -> tuple[StateLoaded | None, list[LoadState]]:
    """Look for state for ten seconds at most; returns what was found and what was asked of the trainer."""
    loads: list[LoadState] = []

    async def load(question: LoadState) -> StateLoaded:
        loads.append(question)
        if question.is_own and refuses_own:
            raise StoreError("not finite")
        return StateLoaded(progress_steps=1.0, steps=0, tokens=0)

    async def examine(_: TakeFingerprint) -> FingerprintTaken:
        return FingerprintTaken(fingerprint=Fingerprint(progress_steps=1.0, sketch=(1.0,), norms=()))

    async def listed() -> tuple[Member, ...]:
        return tuple(donor(name, progress) for name, progress in donors.items())

    async def bounded() -> StateLoaded | None:
        sources = StateSources(run_id=_RUN, own_file=folder / "own", is_first=is_first, patience_s=patience_s)
        rules = DownloadRules(
            run_id=_RUN, file=folder / "download", max_bytes=1000, total_steps=1000, initial_sketch=(0.0,)
        )
        members = Donors(
            rules,
            find=find or listed,
            client=client,
            examine=examine,
            load=load,
            say=lambda _: None,
            on_download=lambda _: None,
            on_refused=lambda _: None,
        )
        async with asyncio.timeout(10):
            return await obtain_state(sources, members, load=load, say=lambda _: None)

    return asyncio.run(bounded()), loads


def own_file(folder: Path, progress_steps: float, run_id: str = _RUN) -> None:
    save_file({"x": torch.zeros(1)}, folder / "own", {"run_id": run_id, "progress_steps": repr(progress_steps)})


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
    """A donor ahead comes first; one behind, or one that is ahead in words only, leaves the own file the best there is."""
    own_file(tmp_path, 50.0)

    ahead, behind, broken = (
        obtain(tmp_path, donors, Client(broken={"bad"}))[1] for donors in ({"a": 90.0}, {"a": 10.0}, {"bad": 1e11})
    )

    assert [[question.is_own for question in loads] for loads in (ahead, behind, broken)] == [[False], [True], [True]]


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


def test_a_state_file_that_is_not_used_is_not_lost(tmp_path: Path) -> None:
    """Leaving writes a new file under the same name: one of another run, or one that is damaged, is moved aside before."""
    other_run = "cd" * 32
    own_file(tmp_path, 50.0, other_run)
    obtain(tmp_path, {}, Client(broken=set()), is_first=True)
    (tmp_path / "own").write_bytes(b"half a fi")
    obtain(tmp_path, {}, Client(broken=set()), is_first=True)
    own_file(tmp_path, 50.0)
    obtain(tmp_path, {}, Client(broken=set()), is_first=True, refuses_own=True)

    assert {path.name for path in tmp_path.iterdir()} == {f"own.run-{other_run[:12]}", "own.unreadable", "own.refused"}
    assert (tmp_path / "own.unreadable").read_bytes() == b"half a fi"
