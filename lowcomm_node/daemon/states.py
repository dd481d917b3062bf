"""What this node gives of its state, and how it asks other members for theirs."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import grpc

from lowcomm_node.adapters.bells import Caller, HeldBells
from lowcomm_node.adapters.dht_session import StreamTopic
from lowcomm_node.adapters.grpc_endpoints import ChannelCache
from lowcomm_node.adapters.grpc_states import grpc_way, state_handler
from lowcomm_node.adapters.hivemind_directory import HivemindDirectory
from lowcomm_node.adapters.line import Line
from lowcomm_node.adapters.p2p_link import opened
from lowcomm_node.adapters.snapshot_shelf import SnapshotShelf
from lowcomm_node.adapters.state_client import MemberStateClient
from lowcomm_node.adapters.state_donor import StateDonor
from lowcomm_node.adapters.state_streams import framed_way, serve_states
from lowcomm_node.core.events import Member
from lowcomm_node.core.pacing import Pacer
from lowcomm_node.core.places import Fullness
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.errors import DirectoryError, LinkError, RemoteProtocolError, StoreError
from lowcomm_node.ports import FingerprintSource, SnapshotSource
from lowcomm_node.units import PeerId
from lowcomm_node.wire.admission import Membership

__all__ = ["States"]

_MOST_FROZEN = 4
"""Of this epoch, of the one before it that somebody may still be in, and what has been given up for others."""
_FROZEN_KEEP_S = 60 * 86400.0
"""Frozen factors are worth something as long as their epoch lasts, and go with it; this is for a node that stays away."""


class States:
    """Both sides. What is asked for is said by the classes that get it.

    A member is asked by its port, by its bell at this node, or over a direct libp2p connection, whichever there is. Nothing is
    done here to get one: for members with neither port nor bell the core looks for direct connections anyway.
    """

    def __init__(
        self,
        *,
        membership: Membership,
        state_dir: Path,
        channels: ChannelCache,
        dht: HivemindDirectory,
        bells: HeldBells,
        line: Line,
        rate_bytes_per_s: float,
        recorder: Recorder,
        snapshots: SnapshotSource,
        fingerprints: FingerprintSource,
        is_meeting: Callable[[], bool],
        on_refused: Callable[[PeerId, RemoteProtocolError], None],
    ) -> None:
        self._run_id = membership.run_id
        self._dht = dht
        self._bells = bells
        self.shelf = SnapshotShelf(state_dir / "snapshots")
        self.frozen = SnapshotShelf(state_dir / "frozen", most=_MOST_FROZEN, keep_s=_FROZEN_KEEP_S)
        """Frozen factors of AB-training: on a shelf of their own, so that joiners' snapshots do not push them out."""
        self._donor = StateDonor(
            run_id=membership.run_id,
            protocol_version=membership.protocol_version,
            source=snapshots,
            fingerprint=fingerprints,
            shelf=self.shelf,
            frozen=self.frozen,
            pacer=Pacer(rate_bytes_per_s),
            line=line,
            is_meeting=is_meeting,
            on_sent=lambda num_bytes: recorder.metrics.state_moved("sent", num_bytes),
        )
        self.serve = serve_states(self._donor)
        """For who has been called back, and for libp2p."""
        self.client = MemberStateClient(
            ways=(
                grpc_way(channels),
                framed_way(bells.ring_for_state, on_refused),
                framed_way(lambda peer: opened(lambda: dht.session, peer, StreamTopic.STATE), on_refused),
            ),
            protocol_version=membership.protocol_version,
            shelf=self.shelf,
            on_received=lambda num_bytes: recorder.metrics.state_moved("received", num_bytes),
            line=line,
            on_refused=on_refused,
        )

    async def take_up(self) -> None:
        """Hold again what an earlier life of this node has left."""
        for shelf in (self.shelf, self.frozen):
            await shelf.take_up()

    def close(self) -> None:
        """Close the files; they stay for the next life."""
        for shelf in (self.shelf, self.frozen):
            shelf.close()

    def handler(self, caller: Caller) -> grpc.GenericRpcHandler:
        """For the ``GrpcServer``."""
        return state_handler(self._donor, caller)

    @property
    def fullness(self) -> Fullness:
        return self._donor.fullness

    async def askable(self, members: Sequence[Member]) -> tuple[Member, ...]:
        """Those to whom there is a way now. Raises LinkError, for people, where there is none to any that has a state."""
        direct: list[PeerId] = []
        with suppress(DirectoryError):
            direct = await self._dht.session.direct_peers()
        ways = self._bells.peers.union(direct)
        found = tuple(member for member in members if member.grpc_address or member.peer in ways)
        num_able = sum(member.has_state for member in members)
        if num_able and not any(member.has_state for member in found):
            raise LinkError(
                "unreachable",
                f"looking for a way to a member that can give its state: of {num_able} that have one, none can be dialled, "
                "has its bell here or is directly connected",
            )
        return found

    def frozen_path(self, digest: str) -> Path | None:
        """The file with these frozen factors, if it is here."""
        held = self.frozen.get(bytes.fromhex(digest))
        path = self.frozen.path(bytes.fromhex(digest))
        return path if held is not None and path.exists() else None

    def frozen_beside(self) -> Path:
        """Where frozen factors are to be written before they are kept."""
        return self.frozen.beside("written")

    async def keep_frozen(self, path: Path) -> str:
        """Move a file to the shelf; returns its digest in hexadecimal. Raises StoreError."""
        try:
            held = await self.frozen.put(path, 0.0)
            named = self.frozen.path(held.snapshot.snapshot_id)
            await asyncio.to_thread(_named, path, named)
        except OSError as error:
            raise StoreError(f"{path}: frozen factors cannot be kept: {error.strerror}") from error
        return held.snapshot.snapshot_id.hex()

    async def fetch_frozen(self, digest: str, holders: tuple[PeerId, ...], max_bytes: int) -> None:
        """Get frozen factors to the shelf. Raises LinkError, RemoteProtocolError, StoreError."""
        path = self.frozen.beside("fetched")
        try:
            await self.client.download_frozen(holders, self._run_id, digest, path, max_bytes)
            await self.keep_frozen(path)
        finally:
            self.client.discard(path)

    def clear_frozen(self, kept: frozenset[str]) -> None:
        """Remove all frozen factors but these."""
        self.frozen.keep_only({bytes.fromhex(digest) for digest in kept})


def _named(path: Path, name: Path) -> None:
    """A file that may have this name already; on a file system without links it has not."""
    path.replace(name)
    path.unlink(missing_ok=True)  # of two names of one file the first stays
