"""Where does a node's state come from? A donor, its own newest checkpoint, or the manifest's initial weights."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from lowcomm_node.daemon.donors import Donors
from lowcomm_node.errors import StoreError
from lowcomm_node.ports import Checkpoints
from lowcomm_node.train.messages import LoadState, StateLoaded
from lowcomm_node.units import RunId

__all__ = ["StateSources", "obtain_state"]

_RETRY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSources:
    """What there is to choose from."""

    run_id: RunId
    checkpoints: Checkpoints
    is_first: bool
    """This node starts the run: with nobody else about it may begin from the initial weights."""
    patience_s: float
    """Seconds to look for a donor before an own, possibly older, checkpoint or the initial weights will do."""
    is_unfit: bool = False
    """What this node had was unfit: however far an own checkpoint is, any donor's state is better."""
    away_steps: int = 0
    """Own steps that this node has not taken since its newest checkpoint, because it was paused."""
    is_back_soon: bool = False
    """It was paused so briefly that the newest own checkpoint, written then, will do however far others are."""


async def obtain_state(
    sources: StateSources,
    donors: Donors,
    *,
    load: Callable[[LoadState], Awaitable[StateLoaded]],
    say: Callable[[str], None],
) -> StateLoaded | None:
    """Put the best state there is into the trainer; None means the initial weights are it.

    The newest own checkpoint is preferred when no donor that has not failed is further on; one that cannot be loaded is
    set aside, and the one before it is the newest. Waits for ever while there is no source at all, saying so through
    ``say``.
    """
    own = list(await asyncio.to_thread(sources.checkpoints.candidates, sources.run_id))

    async def load_own() -> StateLoaded | None:
        try:
            say(f"loading the own checkpoint of step {own[0].steps}")
            return await load(LoadState(path=str(own[0].path), is_own=True, away_steps=sources.away_steps))
        except StoreError as error:
            await asyncio.to_thread(sources.checkpoints.set_aside, own.pop(0).path, "refused", str(error))
        return None

    if sources.is_back_soon and not sources.is_unfit and own and (loaded := await load_own()) is not None:
        return loaded
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    while True:
        found = await donors.look()
        is_late = loop.time() - started_at >= sources.patience_s
        best = found[0].progress_steps if found and not donors.has_failed(found[0]) else None
        if best is not None and sources.is_unfit:
            best = math.inf
        while own and (is_late if best is None else own[0].progress_steps >= best):
            if (loaded := await load_own()) is not None:
                return loaded
        if not found and sources.is_first and is_late:
            return None
        loaded = await donors.get_state(found)
        if loaded is not None:
            return loaded
        say(donors.complaint)
        await asyncio.sleep(_RETRY_S)
