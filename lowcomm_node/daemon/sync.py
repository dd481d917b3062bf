"""Where does a node's state come from? A donor, its own newest checkpoint, or the manifest's initial weights."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from lowcomm_node.core.events import Member
from lowcomm_node.errors import LinkError, RemoteProtocolError, StoreError
from lowcomm_node.ports import Checkpoints, StateClient
from lowcomm_node.telemetry.logs import get_logger
from lowcomm_node.train.messages import LoadState, StateLoaded
from lowcomm_node.units import PeerId, RunId

__all__ = ["StateSources", "obtain_state"]

_RETRY_S = 1.0
_MAX_DONORS_PER_ROUND = 4
_LARGE_BYTES = 50_000_000
"""A download that takes long enough for people to want to see it move in the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSources:
    """What there is to choose from."""

    run_id: RunId
    checkpoints: Checkpoints
    download_file: Path
    is_first: bool
    """This node starts the run: with nobody else about it may begin from the initial weights."""
    patience_s: float
    """Seconds to look for a donor before an own, possibly older, checkpoint or the initial weights will do."""
    max_bytes: int
    """Most bytes a state file of this manifest can have."""


async def obtain_state(
    sources: StateSources,
    *,
    find_donors: Callable[[], Awaitable[tuple[Member, ...]]],
    client: StateClient,
    load: Callable[[LoadState], Awaitable[StateLoaded]],
    say: Callable[[str], None],
    on_download: Callable[[bool], None],
) -> StateLoaded | None:
    """Put the best state there is into the trainer; None means the initial weights are it.

    Donors are asked in the order of their progress, those that have failed after all others: what a member says of its
    progress must not bring it to the front for ever. The newest own checkpoint is preferred when no donor that has not failed is
    further on; one that cannot be loaded is set aside, and the one before it is the newest. Waits for ever while there is no source at all, saying so through ``say``.
    """
    own = list(await asyncio.to_thread(sources.checkpoints.candidates, sources.run_id))
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    failures: Counter[PeerId] = Counter()
    while True:
        donors = sorted(
            (member for member in await find_donors() if member.has_state),
            key=lambda member: (failures[member.peer], -member.progress_steps),
        )[:_MAX_DONORS_PER_ROUND]
        is_late = loop.time() - started_at >= sources.patience_s
        best = donors[0].progress_steps if donors and not failures[donors[0].peer] else None
        while own and (is_late if best is None else own[0].progress_steps >= best):
            try:
                say(f"loading the own checkpoint of step {own[0].steps}")
                return await load(LoadState(path=str(own[0].path), is_own=True))
            except StoreError as error:
                await asyncio.to_thread(sources.checkpoints.set_aside, own.pop(0).path, "refused", str(error))
        if not donors and sources.is_first and is_late:
            return None
        for donor in donors:
            loaded = await _try_donor(sources, donor, client, load, say)
            on_download(loaded is not None)
            if loaded is not None:
                return loaded
            failures[donor.peer] += 1
        say("waiting for a member that can give its state" if not donors else "no donor could give its state; retrying")
        await asyncio.sleep(_RETRY_S)


async def _try_donor(
    sources: StateSources,
    donor: Member,
    client: StateClient,
    load: Callable[[LoadState], Awaitable[StateLoaded]],
    say: Callable[[str], None],
) -> StateLoaded | None:
    log = get_logger("sync")

    told_tenth = 0

    def show(done: int, total: int) -> None:
        nonlocal told_tenth
        say(f"downloading state from {donor.peer[-6:]}: {done / 1e6:.1f} of {total / 1e6:.1f} MB")
        if total > _LARGE_BYTES and (tenth := 10 * done // total) > told_tenth:
            told_tenth = tenth
            log.info("downloading", donor=donor.peer, done_bytes=done, total_bytes=total)

    try:
        await client.download(donor.grpc_address, sources.run_id, sources.download_file, sources.max_bytes, show)
        loaded = await load(LoadState(path=str(sources.download_file), is_own=False))
    except (LinkError, RemoteProtocolError, StoreError) as error:
        log.warning("donor_failed", donor=donor.peer, detail=str(error))
        return None
    sources.download_file.unlink(missing_ok=True)
    log.info("state_downloaded", donor=donor.peer, progress_steps=round(loaded.progress_steps))
    return loaded
