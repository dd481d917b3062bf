"""Finding the run, with peers that answer, are elsewhere, or are gone."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lowcomm_node.adapters.run_memory import RunMemory
from lowcomm_node.core.events import Member
from lowcomm_node.daemon.run_finder import FoundRun, RunFinder
from lowcomm_node.errors import ConfigError, NoPeerError
from lowcomm_node.ports import Welcome
from lowcomm_node.settings.canonical import canonical_bytes, run_id
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.units import PeerId

OURS, OTHERS = Manifest(name="ours"), Manifest(name="others")
MEMBER = Member(peer=PeerId("m"), grpc_address="m:1", progress_steps=1.0, has_state=True, expires_at=1e9)


class Swarm:
    """In place of the network: which addresses answer, and with what run."""

    def __init__(self, given: Sequence[str] = (), **answers: Manifest) -> None:
        self.given = given
        self.answers = answers
        self.reached: list[str] = []
        self.known_addresses: tuple[str, ...] = ()

    async def start(self, remembered: Sequence[str] = (), *, may_be_alone: bool = False) -> bool:
        for addresses in (self.given, remembered):
            self.reached = self.reached or [address for address in addresses if address in self.answers]
        if self.given and not self.reached and not may_be_alone:
            raise NoPeerError("nobody answers")
        return bool(self.reached)

    async def enter(self, run: object, canonical: bytes, manifest: Manifest) -> None: ...

    async def hello(self) -> Welcome:
        manifest = self.answers[self.reached[0]]
        return Welcome(
            run_id=run_id(manifest), manifest=canonical_bytes(manifest), member=MEMBER, record=b"", clock_offset_s=0.0
        )


def find(
    folder: Path,
    swarm: Swarm,
    manifest: Manifest | None = None,
    wanted: str = "",
    *,
    has_checkpoint: bool = False,
) -> tuple[RunFinder, FoundRun]:
    network: Any = swarm
    finder = RunFinder(manifest=manifest, peers=tuple(swarm.given), wanted=wanted, network=network, state_dir=folder)
    found = asyncio.run(finder.find(lambda run: has_checkpoint and run == run_id(OURS), lambda _: None))
    assert found.run_id == run_id(found.manifest)
    assert found.canonical == canonical_bytes(found.manifest)
    return finder, found


def remember(folder: Path, *peers: str, manifest: Manifest = OURS) -> None:
    RunMemory(folder).save(canonical_bytes(manifest), peers)


def test_the_peers_say_which_run_it_is(tmp_path: Path) -> None:
    """Or confirm what we have been told of it, or the node does not join."""
    swarm = Swarm(["a"], a=OURS)

    for manifest, wanted in ((None, ""), (None, run_id(OURS)[:8]), (OURS, "")):
        finder, found = find(tmp_path, swarm, manifest, wanted)
        assert found.manifest == OURS
        assert not finder.knows_nobody
    for manifest, wanted in ((None, "0123"), (OTHERS, "")):
        with pytest.raises(ConfigError, match="not in"):
            find(tmp_path, swarm, manifest, wanted)


def test_who_starts_a_run_knows_nobody_the_first_time(tmp_path: Path) -> None:
    """Later it remembers whom it met, and looks for them before it begins."""
    finder, found = find(tmp_path, Swarm(), OURS)
    assert finder.knows_nobody
    network: Any = finder._network
    network.known_addresses = ("b",)
    asyncio.run(finder.remember(found))

    swarm = Swarm(b=OURS)
    again, found = find(tmp_path, swarm, OURS)

    assert not again.knows_nobody
    assert swarm.reached == ["b"]
    assert found.manifest == OURS
    with pytest.raises(ConfigError, match="as --run says"):
        find(tmp_path, Swarm(), OURS, "0123")
    with pytest.raises(ConfigError, match="nothing to join"):
        find(tmp_path, Swarm())


def test_remembered_peers_stand_in_for_a_bootstrap_that_is_gone(tmp_path: Path) -> None:
    """Only in the run the node was in: an address it has never had, or another run, is not that one."""
    remember(tmp_path, "a", "b")

    _, found = find(tmp_path, Swarm(["a"], b=OURS))

    assert found.manifest == OURS
    for given, wanted in (("new", ""), ("a", run_id(OTHERS))):
        with pytest.raises(NoPeerError):
            find(tmp_path, Swarm([given], b=OURS), wanted=wanted)
    with pytest.raises(NoPeerError):
        find(tmp_path, Swarm(["a"], b=OURS), OTHERS)


def test_an_address_of_the_first_life_still_tells_the_run_in_the_third(tmp_path: Path) -> None:
    """The incident: killed, back through live members, killed again, and started as the first time: with the dead bootstrap's address."""
    remember(tmp_path, "bootstrap", "a")
    second = Swarm(["b"], b=OURS)
    finder, found = find(tmp_path, second)
    second.known_addresses = ("b", "c")
    asyncio.run(finder.remember(found))

    third = Swarm(["bootstrap"], c=OURS)
    _, found = find(tmp_path, third)

    assert found.manifest == OURS
    assert third.reached == ["c"]


def test_addresses_of_another_run_are_forgotten(tmp_path: Path) -> None:
    """Who joins another run with the same directory is not led back to the old one."""
    remember(tmp_path, "a", manifest=OTHERS)
    swarm = Swarm(["b"], b=OURS)
    finder, found = find(tmp_path, swarm)
    swarm.known_addresses = ("b",)
    asyncio.run(finder.remember(found))

    remembered = RunMemory(tmp_path).load()

    assert remembered is not None
    assert remembered.peers == ("b",)


def test_a_node_with_a_checkpoint_goes_on_alone(tmp_path: Path) -> None:
    """With nobody there at all, an own checkpoint is enough; without one there is nothing to go on with."""
    remember(tmp_path, "a", "b")

    _, found = find(tmp_path, Swarm(["a"]), has_checkpoint=True)

    assert found.manifest == OURS
    with pytest.raises(NoPeerError):
        find(tmp_path, Swarm(["a"]), has_checkpoint=False)


def test_a_damaged_memory_is_none(tmp_path: Path) -> None:
    """The node joins as if for the first time."""
    (tmp_path / "run.json").write_text("{")

    assert find(tmp_path, Swarm(["a"], a=OURS))[1].manifest == OURS
    with pytest.raises(NoPeerError):
        find(tmp_path, Swarm(["a"]), has_checkpoint=True)


def test_only_news_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks into the directory come every few seconds; an unchanged file is not written again, an unwritable one is when it can be."""
    finder, found = find(tmp_path, Swarm(), OURS)
    network: Any = finder._network
    saved: list[Sequence[str]] = []
    monkeypatch.setattr(finder._memory, "save", lambda _, peers: saved.append(peers))

    for peers in ((), (), ("a", "b"), ("b", "a"), ("b",)):
        network.known_addresses = peers
        asyncio.run(finder.remember(found))
    assert saved == [(), ("a", "b"), ("b",)]

    monkeypatch.setattr(finder, "_memory", RunMemory(tmp_path / "absent"))
    network.known_addresses = ("c",)
    asyncio.run(finder.remember(found))

    (tmp_path / "absent").mkdir()
    asyncio.run(finder.remember(found))
    assert (tmp_path / "absent" / "run.json").exists()
