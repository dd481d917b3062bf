"""What this node gives of its state, and how it asks other members for theirs."""

from collections.abc import Callable, Sequence
from contextlib import suppress

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
from lowcomm_node.errors import DirectoryError, LinkError, RemoteProtocolError
from lowcomm_node.ports import FingerprintSource, SnapshotSource
from lowcomm_node.units import PeerId
from lowcomm_node.wire.admission import Membership

__all__ = ["States"]


class States:
    """Both sides. What is asked for is said by the classes that get it.

    A member is asked by its port, by its bell at this node, or over a direct libp2p connection, whichever there is. Nothing is
    done here to get one: for members with neither port nor bell the core looks for direct connections anyway.
    """

    def __init__(
        self,
        *,
        membership: Membership,
        shelf: SnapshotShelf,
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
        self._dht = dht
        self._bells = bells
        self._donor = StateDonor(
            run_id=membership.run_id,
            protocol_version=membership.protocol_version,
            source=snapshots,
            fingerprint=fingerprints,
            shelf=shelf,
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
            shelf=shelf,
            on_received=lambda num_bytes: recorder.metrics.state_moved("received", num_bytes),
            line=line,
            on_refused=on_refused,
        )

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
