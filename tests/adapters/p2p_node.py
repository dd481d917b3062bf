"""A node that meets over libp2p and over nothing else, for tests."""

import asyncio
from pathlib import Path

from lowcomm_node.adapters.dht_session import PeerHandlers
from lowcomm_node.adapters.hivemind_directory import HivemindDirectory
from lowcomm_node.adapters.hole_punch import HolePunch
from lowcomm_node.adapters.identity import load_or_create
from lowcomm_node.adapters.meeting_link import MeetingLink
from lowcomm_node.adapters.meeting_stream import FrameTransport
from lowcomm_node.adapters.p2p_link import p2p_dialler, p2p_handler
from lowcomm_node.adapters.state_streams import StateServer
from lowcomm_node.core.messages import Message
from lowcomm_node.core.versions import SPOKEN
from lowcomm_node.errors import RefusalReason
from lowcomm_node.settings.node import NetworkSettings
from lowcomm_node.units import LinkKind, MeetingId, PeerId
from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2
from lowcomm_node.wire.meeting import MeetingLimits
from tests.adapters.nodes import RUN


class P2pNode:
    """A directory, with a link over libp2p alone."""

    def __init__(self, folder: Path, peers: list[str], host: str = "127.0.0.1") -> None:
        identity = load_or_create(folder / "identity.key")
        self.peer = identity.peer_id
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.failures: asyncio.Queue[tuple[MeetingId, str]] = asyncio.Queue()
        self.kinds: list[LinkKind] = []
        self.unwelcome: set[PeerId] = set()
        self.refused: list[RefusalReason] = []
        self.dht = HivemindDirectory(
            identity=identity,
            settings=NetworkSettings(host=host),
            initial_peers=peers,
            socket_dir=folder / "p2p",
            versions=SPOKEN,
        )
        limits = MeetingLimits(
            run_id=RUN, peer_id=self.peer, protocol_version=1, max_payload_bytes=16 << 20, max_tensors=4
        )
        self.link = MeetingLink(
            sink=self,
            limits=limits,
            diallers={LinkKind.LIBP2P: p2p_dialler(lambda: self.dht.session)},
            on_refused=lambda _peer, error: self.refused.append(error.reason),
        )
        self.punch = HolePunch(lambda: self.dht.session, self.peer, self.is_welcome)
        self.states: StateServer | None = None
        """What gives this node's state, once it has one."""
        streams = p2p_handler(self.link, self.is_welcome, self.serve_states)
        self.dht.serve_peers(PeerHandlers(streams=streams, dial_back=self.dial_back, punch=self.punch.serve))

    def is_welcome(self, peer: PeerId) -> bool:
        return peer not in self.unwelcome

    async def serve_states(self, transport: FrameTransport, peer: PeerId) -> str:
        return await self.states(transport, peer) if self.states is not None else ""

    async def dial_back(
        self, peer: PeerId, host: str, request: records_pb2.DialBackRequest
    ) -> records_pb2.DialBackResponse:
        return records_pb2.DialBackResponse(is_reachable=request.port == 7, host=f"{host}, {peer}")

    def message_received(self, message: Message, kind: LinkKind) -> None:
        self.kinds.append(kind)
        self.messages.put_nowait(message)

    def message_progressed(self, meeting_id: MeetingId) -> None: ...

    def link_failed(self, meeting_id: MeetingId, reason: str) -> None:
        self.failures.put_nowait((meeting_id, reason))
