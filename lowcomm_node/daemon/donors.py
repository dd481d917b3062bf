"""Getting the state from another member: who is asked, and whether what it gives is a state of this run at all."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from lowcomm_node.core.events import Member
from lowcomm_node.core.fingerprint import MIN_REFERENCES, Fingerprint, Misfit, find_misfit
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.errors import LinkError, RemoteProtocolError, StoreError
from lowcomm_node.ports import StateClient
from lowcomm_node.telemetry.logs import get_logger
from lowcomm_node.train.messages import FingerprintTaken, LoadState, StateLoaded, TakeFingerprint
from lowcomm_node.units import PeerId, RunId

__all__ = ["Donors", "DownloadRules"]

_MAX_DONORS_PER_ROUND = 4
_MAX_REFERENCES = 6
"""Members asked for their fingerprint in a round; more than needed, since the donor's own does not count for it."""
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
    file: Path
    """Where it is put."""
    max_bytes: int
    """Most bytes a state file of this manifest can have."""
    total_steps: int
    initial_sketch: tuple[float, ...]
    """Of the manifest's initial weights."""


class Donors:
    """The members that have state, and what is known of them.

    Args:
        find: the members seen now. Raises LinkError, with a reason for people, where nobody is to be asked now.
        client: downloads and asks.
        examine, load: questions to the trainer.
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
        load: Callable[[LoadState], Awaitable[StateLoaded]],
        say: Callable[[str], None],
        recorder: Recorder,
    ) -> None:
        self._rules = rules
        self._find = find
        self._client = client
        self._examine = examine
        self._load = load
        self._say = say
        self._recorder = recorder
        self._failures: Counter[PeerId] = Counter()
        self._members: tuple[Member, ...] = ()
        self._fingerprints: dict[PeerId, Fingerprint] = {}
        """What members say of their live state, this round."""
        self._log = get_logger("sync")
        self.complaint = ""
        """What to say of a round in vain."""

    async def look(self) -> tuple[Member, ...]:
        """Who is to be asked in the next round: in the order of progress, those that have failed after all others.

        What a member says of its progress must not bring it to the front for ever.
        """
        self._members, self.complaint = (), "no donor could give its state; retrying"
        try:
            able = [member for member in await self._find() if member.has_state]
        except LinkError as error:  # our own line is closed
            self.complaint = error.detail
            return ()
        self._members = tuple(member for member in able if member.grpc_address)
        if not self._members:
            told = f"; of {len(able)} that have one, none can be dialled, and a state comes from those that can"
            self.complaint = f"waiting for a member that can give its state{told if able else ''}"
        order = sorted(self._members, key=lambda member: (self._failures[member.peer], -member.progress_steps))
        return tuple(order[:_MAX_DONORS_PER_ROUND])

    def has_failed(self, donor: Member) -> bool:
        """Has this one been asked in vain?"""
        return self._failures[donor.peer] > 0

    async def get_state(self, donors: tuple[Member, ...]) -> StateLoaded | None:
        """Ask one after the other until a state is in the trainer; None when no one could give one."""
        self._fingerprints.clear()
        asking = [asyncio.create_task(self._ask(member), name="fingerprint") for member in self._references(donors)]
        try:
            if asking:
                await asyncio.wait(asking, timeout=_FINGERPRINTS_S)  # late ones still count after the download
            for donor in donors:
                loaded = await self._try(donor)
                if loaded is not None:
                    return loaded
                self._failures[donor.peer] += 1
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        return None

    def _references(self, donors: tuple[Member, ...]) -> list[Member]:
        """Whose fingerprint is asked for: the donors', and those of some others, drawn by chance."""
        rest = [member for member in self._members if member not in donors]
        return [*donors, *random.sample(rest, min(len(rest), max(0, _MAX_REFERENCES - len(donors))))]

    async def _ask(self, member: Member) -> None:
        try:
            self._fingerprints[member.peer] = await self._client.fingerprint(member.peer, self._rules.run_id)
        except (LinkError, RemoteProtocolError) as error:
            self._log.debug("no_fingerprint", peer=member.peer, detail=str(error))

    async def _try(self, donor: Member) -> StateLoaded | None:
        """Download, look, load. What a donor says of its state may already be enough to know that it will not do."""
        claimed = self._fingerprints.get(donor.peer)
        if claimed is not None and (misfit := self._misfit(donor, claimed)) is not None:
            self._recorder.state_refused(donor.peer, misfit.fault, misfit.detail, was_downloaded=False)
            return None
        rules = self._rules
        holders = [donor.peer, *(member.peer for member in self._members if member.peer != donor.peer)]
        try:
            await self._client.download(holders, rules.run_id, rules.file, rules.max_bytes, self._shown(donor))
        except (LinkError, RemoteProtocolError, StoreError) as error:
            self._recorder.donor_failed(donor.peer, str(error))
            # Our own disk: no donor can help. A donor: it may be that its owner's line is closed, and it says so.
            told = f"no donor could give its state ({str(error)[:_MAX_TOLD]}); retrying"
            self.complaint = str(error) if isinstance(error, StoreError) else told
            return None
        try:
            loaded = await self._take(donor)
        except StoreError as error:
            self._recorder.state_refused(donor.peer, "unreadable", str(error), was_downloaded=True)
            loaded = None
        self._client.discard(rules.file)  # not when the trainer has died: then it is still to be looked at
        return loaded

    async def _take(self, donor: Member) -> StateLoaded | None:
        path = str(self._rules.file)
        examined = await self._examine(TakeFingerprint(path=path))
        if (misfit := self._misfit(donor, examined.fingerprint)) is not None:
            self._recorder.state_refused(donor.peer, misfit.fault, misfit.detail, was_downloaded=True)
            return None
        num_others = len(self._others(donor))
        loaded = await self._load(LoadState(path=path, is_own=False))
        compared_with = num_others if num_others >= MIN_REFERENCES else 0
        self._recorder.state_downloaded(donor.peer, loaded.progress_steps, compared_with)
        await self._keep(loaded.progress_steps)
        return loaded

    async def _keep(self, progress_steps: float) -> None:
        """Others may be downloading the same snapshot: we can give it too."""
        try:
            await self._client.keep(self._rules.file, progress_steps)
        except StoreError as error:
            self._log.warning("snapshot_not_kept", detail=str(error))

    def _misfit(self, donor: Member, state: Fingerprint) -> Misfit | None:
        return find_misfit(state, self._others(donor), self._rules.initial_sketch, self._rules.total_steps)

    def _others(self, donor: Member) -> list[Fingerprint]:
        return [fingerprint for peer, fingerprint in self._fingerprints.items() if peer != donor.peer]

    def _shown(self, donor: Member) -> Callable[[int, int], None]:
        told_tenth = 0

        def show(done: int, total: int) -> None:
            nonlocal told_tenth
            self._say(f"downloading state from {donor.peer[-6:]}: {done / 1e6:.1f} of {total / 1e6:.1f} MB")
            if total > _LARGE_BYTES and (tenth := 10 * done // total) > told_tenth:
                told_tenth = tenth
                self._log.info("downloading", donor=donor.peer, done_bytes=done, total_bytes=total)

        return show
