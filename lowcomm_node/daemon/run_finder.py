"""Which run is this node in? Its own manifest's, its peers', or, with nobody there, the one it was in last."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lowcomm_node.adapters.run_memory import RememberedRun, RunMemory
from lowcomm_node.core.versions import SPOKEN
from lowcomm_node.errors import ConfigError, StoreError
from lowcomm_node.ports import Welcome
from lowcomm_node.settings.canonical import canonical_bytes, manifest_from_canonical, run_id
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.telemetry.logs import get_logger
from lowcomm_node.units import RunId
from lowcomm_node.wire.limits import MAX_MANIFEST_BYTES

__all__ = ["FoundRun", "RunFinder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRun:
    """The run to take part in."""

    run_id: RunId
    manifest: Manifest
    canonical: bytes


class _Network(Protocol):
    """What a node (``Network``) and an observer have in common."""

    @property
    def known_addresses(self) -> tuple[str, ...]: ...

    async def start(self, remembered: Sequence[str] = (), *, may_be_alone: bool = False) -> bool: ...

    async def hello(self) -> Welcome: ...

    async def enter(self, run: RunId, canonical: bytes, manifest: Manifest) -> None: ...


class RunFinder:
    """Brings the directory up and finds the run; remembers both for the next start."""

    def __init__(
        self, *, manifest: Manifest | None, peers: tuple[str, ...], wanted: str, network: _Network, state_dir: Path
    ) -> None:
        """What the node was told: a manifest, peers, a run id or its beginning (``wanted``); each may be missing."""
        self._manifest = manifest
        self._peers = peers
        self._wanted = wanted
        self._network = network
        self._memory = RunMemory(state_dir)
        self._log = get_logger("run")
        self._memorised = self._load()
        self._remembered = self._recall()
        self._written: set[str] | None = None

    @property
    def knows_nobody(self) -> bool:
        """No other member was given, or met in an earlier life: there is nobody to wait for."""
        return not self._peers and not (self._remembered and self._remembered.peers)

    async def find(self, has_checkpoint: Callable[[RunId], bool], say: Callable[[str], None]) -> FoundRun:
        """Start the network and find the run.

        Where none of the peers given answers, those remembered are asked; where they do not either, the node goes on alone if
        ``has_checkpoint`` of that run. Raises ConfigError when manifest, peers and run id do not go together, the run speaks
        another protocol or does not let this node in, NoPeerError, DirectoryError.
        """
        found = await self._find(has_checkpoint, say)
        if found.manifest.protocol_version not in SPOKEN:
            raise ConfigError(SPOKEN.advice(found.manifest.protocol_version))
        await self._network.enter(found.run_id, found.canonical, found.manifest)
        return found

    async def _find(self, has_checkpoint: Callable[[RunId], bool], say: Callable[[str], None]) -> FoundRun:
        manifest, remembered = self._manifest, self._remembered
        own_id = run_id(manifest) if manifest is not None else None
        if own_id is not None and not own_id.startswith(self._wanted):
            raise ConfigError(f"the manifest's run id is {own_id}, not {self._wanted} as --run says")
        if manifest is None and not self._peers:
            raise ConfigError("nothing to join: give --peers ADDRESS of a run, or --manifest FILE to start one")
        may_be_alone = remembered is not None and await asyncio.to_thread(has_checkpoint, remembered.run_id)
        has_company = await self._network.start(remembered.peers if remembered else (), may_be_alone=may_be_alone)
        if manifest is not None and own_id is not None and not self._peers:
            return FoundRun(run_id=own_id, manifest=manifest, canonical=canonical_bytes(manifest))
        if remembered is not None and not has_company:
            self._log.warning("going_on_alone", run=remembered.run_id, detail="none of the known peers answers")
            return _found(remembered.manifest, remembered.run_id, "manifest of this node's last run")
        say("asking the given peers for their run")
        welcome = await self._network.hello()
        expected = own_id or self._wanted
        if not welcome.run_id.startswith(expected):
            raise ConfigError(
                f"the peer {welcome.member.peer} is in run {welcome.run_id[:12]}, not in {expected[:12]}; "
                "check the address, or leave --manifest and --run out to join that run"
            )
        return _found(welcome.manifest, welcome.run_id, "manifest from the swarm")

    async def remember(self, run: FoundRun) -> None:
        """Keep what the next start needs if nobody answers then; writes only what has changed, again when it could not.

        What earlier lives knew of this run is kept, too. The next start may be told an address that only the first life was: of a
        member that is gone for good, it still tells which run is meant.
        """
        earlier = self._memorised.peers if self._memorised is not None and self._memorised.run_id == run.run_id else ()
        peers = tuple(dict.fromkeys((*self._network.known_addresses, *earlier)))
        if set(peers) == self._written:
            return
        try:
            await asyncio.to_thread(self._memory.save, run.canonical, peers)
        except StoreError as error:
            self._log.warning("run_not_remembered", detail=str(error))
        else:
            self._written = set(peers)

    def _load(self) -> RememberedRun | None:
        try:
            return self._memory.load()
        except StoreError as error:
            self._log.warning("run_not_remembered", detail=str(error))
            return None

    def _recall(self) -> RememberedRun | None:
        """The run this node was in last, if it is told to join that one again: by its manifest, its id, or a peer of it."""
        remembered = self._memorised
        wanted = run_id(self._manifest) if self._manifest is not None else self._wanted
        if remembered is None or not remembered.run_id.startswith(wanted):
            return None
        return remembered if wanted or set(self._peers) & set(remembered.peers) else None


def _found(canonical: bytes, run: RunId, source: str) -> FoundRun:
    return FoundRun(
        run_id=run, manifest=manifest_from_canonical(canonical, MAX_MANIFEST_BYTES, source), canonical=canonical
    )
