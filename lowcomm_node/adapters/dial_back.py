"""Can others dial this node? It asks members, who try; and it tries for those who ask.

Only the address that the asker's libp2p connection comes from is dialled, so nobody can have a stranger's machine knocked at, and
only the asker's own proof counts: behind a shared router another node may answer at that port.
"""

import asyncio
import ipaddress

from lowcomm_node.adapters.dht_session import DhtSession
from lowcomm_node.adapters.grpc_endpoints import ChannelCache
from lowcomm_node.adapters.newest import Newest
from lowcomm_node.core.events import Member
from lowcomm_node.core.places import Fullness
from lowcomm_node.core.reach import DialledBack
from lowcomm_node.errors import DirectoryError, LinkError, RemoteProtocolError
from lowcomm_node.units import PeerId, RunId
from lowcomm_node.wire.certificate import CERTIFICATE_BYTES
from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2

__all__ = ["DIAL_S", "DialBack", "ask_to_dial"]

DIAL_S = 6.0
"""A router that drops what it does not know answers nothing: after so long the answer is no. Who asks waits a little longer."""
_MAX_AT_A_TIME = 4
_PEER_GAP_S = 10.0
_MAX_ASKERS = 256
_MAX_HOST = 64


class DialBack:
    """Tries for those who ask; so many at a time, and each asker now and then only."""

    def __init__(self, run_id: RunId, channels: ChannelCache) -> None:
        self._run_id = run_id
        self._channels = channels
        self._num_busy = 0
        self.askers: Newest[PeerId, float] = Newest(_MAX_ASKERS)
        """When each has asked last."""

    @property
    def fullness(self) -> Fullness:
        """Of attempts under way."""
        return Fullness(self._num_busy, _MAX_AT_A_TIME)

    async def serve(
        self, peer: PeerId, host: str, request: records_pb2.DialBackRequest
    ) -> records_pb2.DialBackResponse:
        """``host``: where the asker's connection comes from. Raises DirectoryError where no attempt is made."""
        now = asyncio.get_running_loop().time()
        if request.run_id.hex() != self._run_id:
            raise DirectoryError(f"this node is in run {self._run_id}")
        if not 0 < request.port < 65536 or len(request.certificate) not in (0, CERTIFICATE_BYTES):
            raise DirectoryError("no port, or no certificate")
        if self._num_busy >= _MAX_AT_A_TIME or now < self.askers.get(peer, -_PEER_GAP_S) + _PEER_GAP_S:
            raise DirectoryError("ask again in a moment")
        self.askers[peer] = now
        self._num_busy += 1
        try:
            is_reachable = await self._can_dial(peer, host, request)
        finally:
            self._num_busy -= 1
        return records_pb2.DialBackResponse(is_reachable=is_reachable, host=host)

    async def _can_dial(self, peer: PeerId, host: str, request: records_pb2.DialBackRequest) -> bool:
        member = Member(
            peer=peer,
            grpc_address=f"[{host}]:{request.port}" if ":" in host else f"{host}:{request.port}",
            progress_steps=0.0,
            has_state=False,
            expires_at=0.0,
            certificate=request.certificate,
        )
        try:
            await self._channels.probe(member, DIAL_S)
        except (LinkError, RemoteProtocolError):
            return False
        return True


async def ask_to_dial(session: DhtSession, peer: PeerId, request: records_pb2.DialBackRequest) -> DialledBack | None:
    """Have ``peer`` try; None when it does not, or talks nonsense."""
    try:
        response = await session.dial_back(peer, request)
        host = ipaddress.ip_address(response.host[:_MAX_HOST])
    except (DirectoryError, ValueError):
        return None
    return DialledBack(host=str(host), is_global=host.is_global, is_reachable=response.is_reachable)
