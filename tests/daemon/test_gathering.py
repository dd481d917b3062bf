"""States of several members: whose are taken, in which order, and what is said of the others. In virtual time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from lowcomm_node.core.events import Member
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.daemon.gathering import gather, rules_of
from lowcomm_node.errors import LinkError, NoPeerError, StoreError
from lowcomm_node.train.messages import StateLoaded
from lowcomm_node.units import PeerId, RunId
from tests.daemon.virtual_time import run_virtually

_RUN = RunId("ab" * 32)
_HONEST = Fingerprint(progress_steps=500.0, sketch=(1.0, 1.0, 0.0), norms=(("params", 1.4),))
_FLIPPED = replace(_HONEST, sketch=(-1.0, -1.0, 0.0))


@dataclass
class Swarm:
    """Members with their states, their State service, a taker and a ledger in one."""

    folder: Path
    members: dict[str, Fingerprint]
    dead: set[str] = field(default_factory=set)
    torn: set[str] = field(default_factory=set)
    """Whose download ends in the middle."""
    unreadable: set[str] = field(default_factory=set)
    max_bytes: int = 1000
    initial_sketch: tuple[float, ...] = (1.0, 0.0, 0.0)
    taken: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def gather(self, num_wanted: int) -> int:
        rules = rules_of(_RUN, 1000, self, self.folder)
        return run_virtually(
            lambda: gather(
                rules,
                num_wanted=num_wanted,
                find=self.find,
                client=self,
                taker=self,
                say=self.said.append,
                ledger=self,
            )
        )

    async def find(self) -> tuple[Member, ...]:
        return tuple(
            Member(peer=PeerId(name), grpc_address=name, progress_steps=state.progress_steps, has_state=True, expires_at=1e9)
            for name, state in self.members.items()
        )  # fmt: skip

    async def fingerprint(self, peer: PeerId, run_id: RunId) -> Fingerprint:
        assert run_id == _RUN
        return self.members[peer]

    async def download(
        self, donors: Sequence[PeerId], run_id: RunId, destination: Path, max_bytes: int, on_progress: Callable[[int, int], None]
    ) -> None:  # fmt: skip
        assert (run_id, max_bytes) == (_RUN, self.max_bytes)
        on_progress(5, 10)
        if donors[0] in self.torn:
            _write(destination.with_name(destination.name + ".partial"), "half")
        if donors[0] in self.dead | self.torn:
            raise LinkError("disconnect", f"{donors[0]} is gone")
        _write(destination, donors[0])

    async def keep(self, path: Path, progress_steps: float) -> None:
        del path, progress_steps

    def discard(self, destination: Path) -> None:
        for path in destination.parent.glob(f"{destination.name}*"):
            path.unlink()

    def look(self, path: Path) -> Fingerprint:
        if path.read_text() in self.unreadable:
            raise StoreError("not finite")
        return self.members[path.read_text()]

    def take(self, path: Path, peer: PeerId) -> StateLoaded:
        assert path.read_text() == peer
        self.taken.append(peer)
        return StateLoaded(progress_steps=self.members[peer].progress_steps, steps=0, tokens=0)

    def donor_failed(self, donor: PeerId, detail: str) -> None:
        self.told.append(f"{donor} failed: {detail}")

    def state_refused(self, donor: PeerId, reason: str, detail: str, *, was_downloaded: bool) -> None:
        del detail
        self.told.append(f"{donor} refused for {reason} {'after' if was_downloaded else 'before'} the download")

    def state_downloaded(self, donor: PeerId, progress_steps: float, compared_with: int) -> None:
        self.told.append(f"{donor} at {progress_steps:g} compared with {compared_with}")


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def members(count: int, **special: Fingerprint) -> dict[str, Fingerprint]:
    return {**{f"m{number}": replace(_HONEST, progress_steps=500.0 - number) for number in range(count)}, **special}


def test_so_many_different_members_are_taken(tmp_path: Path) -> None:
    """Each once, the furthest first, each compared with others; nothing stays on the disk."""
    swarm = Swarm(tmp_path, members(5))

    assert swarm.gather(3) == 3

    assert swarm.taken == ["m0", "m1", "m2"]
    assert swarm.told == [f"m{n} at {500 - n} compared with 4" for n in range(3)]
    assert list(tmp_path.iterdir()) == []


def test_who_does_not_fit_or_gives_nothing_is_left_out(tmp_path: Path) -> None:
    """A flipped one that says so, one that cannot be read, one that is gone: as a joiner takes none of them."""
    swarm = Swarm(tmp_path, members(4, far=replace(_FLIPPED, progress_steps=600.0)), dead={"m0"}, unreadable={"m1"})

    assert swarm.gather(2) == 2

    assert swarm.taken == ["m2", "m3"]
    assert "far refused for distance before the download" in swarm.told
    assert "m0 failed: disconnect: m0 is gone" in swarm.told
    assert "m1 refused for unreadable after the download" in swarm.told


def test_with_fewer_than_wanted_it_ends_with_what_there_is(tmp_path: Path) -> None:
    """After a few rounds in which nobody is left, and not at the first: a directory may not know all at once."""
    swarm = Swarm(tmp_path, members(2))

    assert swarm.gather(4) == 2

    assert swarm.said.count("waiting for a member that can give its state") == 4


def test_none_is_an_error_that_says_why(tmp_path: Path) -> None:
    """Nobody is there; those who are there give nothing."""
    with pytest.raises(NoPeerError, match="no member of run abababababab gives its state: waiting for a member"):
        Swarm(tmp_path, {}).gather(2)
    with pytest.raises(NoPeerError, match=r"gives its state: no donor could give its state \(disconnect: m1 is gone\)"):
        Swarm(tmp_path, members(2), dead={"m0", "m1"}).gather(2)


def test_what_was_begun_is_fetched_first(tmp_path: Path) -> None:
    """A visit that was ended leaves a part of one member's state; the next one begins with that member."""
    with pytest.raises(NoPeerError):
        Swarm(tmp_path, {"m4": _HONEST}, torn={"m4"}).gather(1)
    assert [path.name for path in tmp_path.iterdir()] == ["m4.safetensors.partial"]

    swarm = Swarm(tmp_path, members(5))
    assert swarm.gather(2) == 2

    assert swarm.taken == ["m4", "m0"]
    assert list(tmp_path.iterdir()) == []
