"""Where does a node's state come from? A donor, its own last state file, or the manifest's initial weights."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from lowcomm_node.daemon.donors import Donors
from lowcomm_node.errors import StoreError
from lowcomm_node.telemetry.logs import get_logger
from lowcomm_node.train.messages import LoadState, StateLoaded
from lowcomm_node.units import RunId

__all__ = ["StateSources", "obtain_state"]

_RETRY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSources:
    """What there is to choose from."""

    run_id: RunId
    own_file: Path
    is_first: bool
    """This node starts the run: with nobody else about it may begin from the initial weights."""
    patience_s: float
    """Seconds to look for a donor before an own, possibly older, state file or the initial weights will do."""


async def obtain_state(
    sources: StateSources,
    donors: Donors,
    *,
    load: Callable[[LoadState], Awaitable[StateLoaded]],
    say: Callable[[str], None],
) -> StateLoaded | None:
    """Put the best state there is into the trainer; None means the initial weights are it.

    An own file is preferred when no donor that has not failed is further on. Waits for ever while there is no source at
    all, saying so through ``say``.
    """
    own_progress = await asyncio.to_thread(_progress_of, sources.own_file, sources.run_id)
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    while True:
        found = await donors.look()
        is_late = loop.time() - started_at >= sources.patience_s
        best = found[0].progress_steps if found and not donors.has_failed(found[0]) else None
        if own_progress is not None and (is_late if best is None else own_progress >= best):
            try:
                say("loading the own state file")
                return await load(LoadState(path=str(sources.own_file), is_own=True))
            except StoreError as error:
                _keep_aside(sources.own_file, "refused", str(error))
                own_progress = None
        if not found and sources.is_first and is_late:
            return None
        loaded = await donors.get_state(found)
        if loaded is not None:
            return loaded
        say("waiting for a member that can give its state" if not found else donors.complaint)
        await asyncio.sleep(_RETRY_S)


def _progress_of(path: Path, run_id: RunId) -> float | None:
    """Progress that the own state file claims; None when there is none of this run that can be read.

    Such a file is moved aside: the name is needed for this run's state, and what is in it may be all that is left.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        other_run = str(metadata["run_id"])
        progress = float(metadata["progress_steps"])
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        _keep_aside(path, "unreadable", str(error))
        return None
    if other_run == run_id:
        return progress
    _keep_aside(path, f"run-{other_run[:12]}" if other_run.isalnum() else "unreadable", "it is of another run")
    return None


def _keep_aside(path: Path, why: str, detail: str) -> None:
    kept = path.with_name(f"{path.stem}.{why}{path.suffix}")
    path.replace(kept)
    get_logger("sync").warning("own_state_kept_aside", path=str(path), kept=str(kept), detail=detail)
