"""States of several members of a run, one after the other, for somebody who takes no part in it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lowcomm_node.adapters.line import Line
from lowcomm_node.core.events import Member
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.daemon.donors import DonorLedger, Donors, DownloadRules
from lowcomm_node.daemon.observer import Observer
from lowcomm_node.daemon.run_finder import FoundRun, RunFinder
from lowcomm_node.errors import LowcommError, NoPeerError
from lowcomm_node.ports import StateClient
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.train.messages import FingerprintTaken, LoadState, StateLoaded, TakeFingerprint
from lowcomm_node.units import PeerId, RunId

__all__ = ["Taker", "Visit", "gather", "visit"]

_ROUNDS_IN_VAIN = 4
"""So often everybody who can be asked is asked, or nobody is there to be asked, until what there is has to do."""
_RETRY_S = 1.0
_BYTES_PER_MBIT = 125_000.0
_STATE = ".safetensors"


class Taker(Protocol):
    """Makes something of states. Its methods block, and are called from threads, one at a time."""

    max_bytes: int
    """Most that a state file of the run can have."""
    initial_sketch: tuple[float, ...]
    """Of the run's initial weights."""

    def look(self, path: Path) -> Fingerprint:
        """Read and check a state file. Raises StoreError."""
        ...

    def take(self, path: Path, peer: PeerId) -> StateLoaded:
        """Take in the state of this member. Raises StoreError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """Which run, and how many of its members are asked for their state."""

    peers: tuple[str, ...]
    """Addresses of members."""
    wanted_run: str
    """Run id or its beginning; empty accepts whatever run the peers are in."""
    invite: str
    """As for a joiner."""
    num_members: int
    settings: NodeSettings
    state_dir: Path
    scratch: Path
    """An empty folder, removed afterwards by who made it."""
    downloads: Path
    """Where states are put while they are fetched. What a visit that was ended has left there is gone on with by the next one."""


async def visit(
    told: Visit, open_taker: Callable[[FoundRun], Taker], say: Callable[[str], None], ledger: DonorLedger
) -> FoundRun:
    """Find the run and have states of ``num_members`` different members taken, or of as many as give one within a few rounds.

    Raises ConfigError where run and peers do not go together or the run does not let us in, NoPeerError when nobody is there or nobody
    gives a state, DirectoryError, StoreError, and what ``open_taker`` raises.
    """
    bandwidth = told.settings.bandwidth
    observer = Observer(
        settings=told.settings.network,
        line=Line(down_bytes_per_s=bandwidth.down_mbit_per_s * _BYTES_PER_MBIT),
        peers=told.peers,
        invite=told.invite,
        state_dir=told.state_dir,
        scratch=told.scratch,
        num_wanted=told.num_members,
    )
    finder = RunFinder(
        manifest=None, peers=told.peers, wanted=told.wanted_run, network=observer, state_dir=told.state_dir
    )
    try:
        say("looking for the run")
        found = await finder.find(lambda _run: False, say)
        say(f"run {found.run_id[:12]}: building its model")
        taker = await asyncio.to_thread(open_taker, found)
        await gather(
            rules_of(found.run_id, found.manifest.training.total_steps, taker, told.downloads),
            num_wanted=told.num_members,
            find=observer.donors,
            client=observer.client,
            taker=taker,
            say=say,
            ledger=ledger,
        )
        return found
    finally:
        with suppress(LowcommError):
            await observer.stop()


def rules_of(run: RunId, total_steps: int, taker: Taker, downloads: Path) -> DownloadRules:
    """Each donor's state in a file of its own; those begun before are asked for first."""
    names = [path.name.partition(_STATE)[0] for path in downloads.glob(f"*{_STATE}*")]
    return DownloadRules(
        run_id=run,
        file=lambda peer: downloads / f"{peer}{_STATE}",
        max_bytes=taker.max_bytes,
        total_steps=total_steps,
        initial_sketch=taker.initial_sketch,
        begun=frozenset(map(PeerId, names)),
    )


async def gather(
    rules: DownloadRules,
    *,
    num_wanted: int,
    find: Callable[[], Awaitable[tuple[Member, ...]]],
    client: StateClient,
    taker: Taker,
    say: Callable[[str], None],
    ledger: DonorLedger,
) -> int:
    """Have states of ``num_wanted`` different members taken, and return how many there were. Raises NoPeerError when it is none."""

    async def examine(question: TakeFingerprint) -> FingerprintTaken:
        return FingerprintTaken(fingerprint=await asyncio.to_thread(taker.look, Path(question.path)))

    async def load(donor: PeerId, question: LoadState) -> StateLoaded:
        return await asyncio.to_thread(taker.take, Path(question.path), donor)

    donors = Donors(rules, find=find, client=client, examine=examine, load=load, say=say, recorder=ledger)
    num_taken = num_in_vain = 0
    while num_taken < num_wanted and num_in_vain < _ROUNDS_IN_VAIN:
        asked = await donors.look()
        if await donors.get_state(asked) is not None:
            num_taken, num_in_vain = num_taken + 1, 0
            continue
        num_in_vain += 1
        say(donors.complaint)
        await asyncio.sleep(_RETRY_S)
    if not num_taken:
        raise NoPeerError(f"no member of run {rules.run_id[:12]} gives its state: {donors.complaint}")
    return num_taken
