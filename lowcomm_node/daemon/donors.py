"""Getting the state from another member: who is asked, and whether what it gives is a state of this run at all."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lowcomm_node.core.chance import Chance
from lowcomm_node.core.donors import DonorChoice
from lowcomm_node.core.events import Member
from lowcomm_node.errors import LinkError, RemoteProtocolError, StoreError
from lowcomm_node.ports import StateClient
from lowcomm_node.telemetry.logs import get_logger
from lowcomm_node.train.messages import FingerprintTaken, LoadState, StateLoaded, TakeFingerprint
from lowcomm_node.units import PeerId, RunId

__all__ = ["DonorLedger", "Donors", "DownloadRules"]

_FINGERPRINTS_S = 10.0
"""Longest wait for them before a download begins."""
_MAX_TOLD = 200
"""Characters of what a donor gives as its reason."""
_LARGE_BYTES = 50_000_000
"""A download that takes long enough for people to want to see it move in the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadRules:
    """What a download must be like."""

    run_id: RunId
    file: Callable[[PeerId], Path]
    """Where a donor's is put. Who wants one state, whosesoever, has one place for all: what was begun with one is gone on with at
    others that hold the same snapshot. Who wants several has one for each, so that it is known whose it is."""
    max_bytes: int
    """Most bytes a state file of this manifest can have."""
    total_steps: int
    initial_sketch: tuple[float, ...]
    """Of the manifest's initial weights."""
    begun: frozenset[PeerId] = frozenset()
    """Of donors with places of their own, those whose download has been begun."""


class DonorLedger(Protocol):
    """Is told what comes of each attempt (``Recorder``)."""

    def donor_failed(self, donor: PeerId, detail: str) -> None: ...

    def state_refused(self, donor: PeerId, reason: str, detail: str, *, was_downloaded: bool) -> None: ...

    def state_downloaded(self, donor: PeerId, progress_steps: float, compared_with: int) -> None: ...


class Donors:
    """The members that have state, and what is known of them.

    Args:
        find: the members seen now to whom there is a way. Raises LinkError, with a reason for people, where nobody is to be asked now.
        client: downloads and asks.
        examine: what a downloaded state looks like.
        load: takes a donor's state, whatever that means to the caller; raises StoreError when it cannot be taken.
        say: a line for ``status``.
        recorder: told what comes of each attempt.
    """

    def __init__(
        self,
        rules: DownloadRules,
        *,
        find: Callable[[], Awaitable[tuple[Member, ...]]],
        client: StateClient,
        examine: Callable[[TakeFingerprint], Awaitable[FingerprintTaken]],
        load: Callable[[PeerId, LoadState], Awaitable[StateLoaded]],
        say: Callable[[str], None],
        recorder: DonorLedger,
    ) -> None:
        self._rules = rules
        self._find = find
        self._client = client
        self._examine = examine
        self._load = load
        self._say = say
        self._recorder = recorder
        self._choice = DonorChoice(
            initial_sketch=rules.initial_sketch,
            total_steps=rules.total_steps,
            chance=Chance(secrets.token_bytes(16)),
            begun=rules.begun,
        )
        self._log = get_logger("sync")
        self.complaint = ""
        """What to say of a round in vain."""

    async def look(self) -> tuple[Member, ...]:
        """Who is to be asked in the next round (``DonorChoice.look``)."""
        try:
            donors = self._choice.look(await self._find())
            told = (
                "no donor could give its state; retrying" if donors else "waiting for a member that can give its state"
            )
        except LinkError as error:  # our own line is closed, or nothing leads to any of them yet
            donors, told = self._choice.look(()), error.detail
        if not donors and told != self.complaint:
            self._log.info("no_donor", detail=told)  # for who looks at a terminal: it may be hours
        self.complaint = told
        return donors

    def has_failed(self, donor: Member) -> bool:
        """Has this one been asked in vain?"""
        return self._choice.has_failed(donor)

    async def get_state(self, donors: tuple[Member, ...]) -> StateLoaded | None:
        """Ask one after the other until a state is loaded; None when no one could give one."""
        references = self._choice.references(donors)
        asking = [asyncio.create_task(self._ask(member), name="fingerprint") for member in references]
        try:
            if asking:
                await asyncio.wait(asking, timeout=_FINGERPRINTS_S)  # late ones still count after the download
            for donor in donors:
                loaded = await self._try(donor)
                if loaded is not None:
                    self._choice.took(donor)
                    return loaded
                self._choice.failed(donor)
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        return None

    async def _ask(self, member: Member) -> None:
        try:
            self._choice.told(member.peer, await self._client.fingerprint(member.peer, self._rules.run_id))
        except (LinkError, RemoteProtocolError) as error:
            self._log.debug("no_fingerprint", peer=member.peer, detail=str(error))

    async def _try(self, donor: Member) -> StateLoaded | None:
        """Download, look, load. What a donor says of its state may already be enough to know that it will not do."""
        if (misfit := self._choice.misfit_as_claimed(donor)) is not None:
            self._recorder.state_refused(donor.peer, misfit.fault, misfit.detail, was_downloaded=False)
            return None
        rules, holders = self._rules, self._choice.holders(donor)
        file = rules.file(donor.peer)
        try:
            await self._client.download(holders, rules.run_id, file, rules.max_bytes, self._shown(donor))
        except (LinkError, RemoteProtocolError, StoreError) as error:
            self._recorder.donor_failed(donor.peer, str(error))
            # Our own disk: no donor can help. A donor: it may be that its owner's line is closed, and it says so.
            told = f"no donor could give its state ({str(error)[:_MAX_TOLD]}); retrying"
            self.complaint = str(error) if isinstance(error, StoreError) else told
            return None
        try:
            loaded = await self._take(donor, file)
        except StoreError as error:
            self._recorder.state_refused(donor.peer, "unreadable", str(error), was_downloaded=True)
            loaded = None
        self._client.discard(file)  # not when the trainer has died: then it is still to be looked at
        return loaded

    async def _take(self, donor: Member, file: Path) -> StateLoaded | None:
        path = str(file)
        examined = await self._examine(TakeFingerprint(path=path))
        if (misfit := self._choice.misfit(donor, examined.fingerprint)) is not None:
            self._recorder.state_refused(donor.peer, misfit.fault, misfit.detail, was_downloaded=True)
            return None
        num_compared = self._choice.num_compared(donor)
        loaded = await self._load(donor.peer, LoadState(path=path, is_own=False))
        self._recorder.state_downloaded(donor.peer, loaded.progress_steps, num_compared)
        await self._keep(file, loaded.progress_steps)
        return loaded

    async def _keep(self, file: Path, progress_steps: float) -> None:
        """Others may be downloading the same snapshot: we can give it too."""
        try:
            await self._client.keep(file, progress_steps)
        except StoreError as error:
            self._log.warning("snapshot_not_kept", detail=str(error))

    def _shown(self, donor: Member) -> Callable[[int, int], None]:
        told_tenth = 0

        def show(done: int, total: int) -> None:
            nonlocal told_tenth
            self._say(f"downloading state from {donor.peer[-6:]}: {done / 1e6:.1f} of {total / 1e6:.1f} MB")
            if total > _LARGE_BYTES and (tenth := 10 * done // total) > told_tenth:
                told_tenth = tenth
                self._log.info("downloading", donor=donor.peer, done_bytes=done, total_bytes=total)

        return show
