"""A direct libp2p connection between two nodes that nobody can dial, whose routers keep a port for everybody (cones).

libp2p makes one by itself once four others have seen a node's address. Most swarms have fewer members that can be dialled, so
the nodes do it themselves where it does not. Each asks those it is connected with where they see it. The one that wants the
connection asks the other, by a relay, to let it in: that one sends a single packet to where the first one is seen, which its own
router takes for the begin of a connection, and is dialled then as any node that can be.
"""

import asyncio
import ipaddress
import random
from collections.abc import Callable
from contextlib import suppress

from lowcomm_node.adapters.dht_session import DhtSession
from lowcomm_node.adapters.newest import Newest
from lowcomm_node.core.reach import lasting_address
from lowcomm_node.errors import DirectoryError
from lowcomm_node.units import PeerId
from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2

__all__ = ["HolePunch", "read_address", "seen_addresses"]

_LIBP2P_S = 2.5
"""A relayed connection becomes a direct one by libp2p's own means in about a second, measured, or not at all."""
_PUNCHED_S = 5.0
_LOOK_EVERY_S = 0.25
_MAX_ASKED = 3
_SEEN_S = 3.0
_GAP_S = 1.0
_PEER_GAP_S = 10.0
"""From one hole to the next, for whomever they are, and for the same peer."""
_MAX_ASKERS = 256
_MAX_ADDRESS = 64


class HolePunch:
    """Makes direct connections, and lets in who asks for one.

    Args:
        session: the DHT's present life; raises DirectoryError where there is none.
        own: this node.
        is_welcome: may this peer, who has proven itself to libp2p, have a meeting with us?
    """

    def __init__(self, session: Callable[[], DhtSession], own: PeerId, is_welcome: Callable[[PeerId], bool]) -> None:
        self._session = session
        self._own = own
        self._is_welcome = is_welcome
        self._punching: set[PeerId] = set()
        self.askers: Newest[PeerId, float] = Newest(_MAX_ASKERS)
        """When each was served last."""
        self._served_at = -_GAP_S

    async def seek(self, peer: PeerId) -> bool:
        """Is there a direct connection to ``peer``, or can one be made? Takes ten seconds, or three times as many. Raises DirectoryError."""
        session = self._session()
        await session.reach(peer)
        if await _is_direct_within(_LIBP2P_S, session, peer):
            return True
        self._punching.add(peer)
        try:
            await self._punch(session, peer)
        finally:
            self._punching.discard(peer)
        return await _is_direct_within(_PUNCHED_S, session, peer)

    async def serve(self, peer: PeerId, request: records_pb2.PunchRequest) -> records_pb2.PunchResponse:
        """Let ``peer`` in, or say by an empty address that it cannot come to us. Raises DirectoryError where it is not served."""
        now = asyncio.get_running_loop().time()
        host, port = read_address(request.address)
        if not self._is_welcome(peer):
            raise DirectoryError("you are not welcome")
        if peer in self._punching and self._own < peer:
            raise DirectoryError("I am about to dial you")  # of two that try at once one dials, and not both
        if now < max(self.askers.get(peer, -_PEER_GAP_S) + _PEER_GAP_S, self._served_at + _GAP_S):
            raise DirectoryError("ask again in a moment")
        self.askers[peer] = self._served_at = now
        session = self._session()
        address = await _own_address(session)
        if address:
            session.process.open_hole(host, port)
        return records_pb2.PunchResponse(address=address)

    async def _punch(self, session: DhtSession, peer: PeerId) -> None:
        """Raises DirectoryError where it is of no use."""
        address = await _own_address(session)
        if not address:
            raise DirectoryError("our router gives each connection a port of its own, or nobody can tell")
        try:
            response = await session.ask_punch(peer, records_pb2.PunchRequest(address=address))
        except DirectoryError:
            return  # it may be about to dial us
        if not response.address:
            raise DirectoryError("its router gives each connection a port of its own, or it cannot tell")
        host, port = read_address(response.address)
        if not await session.is_direct(peer):
            await session.dial_anew(peer, host, port)


def read_address(text: str) -> tuple[str, int]:
    """Host and port of the whole internet: nobody has a node send anything into a home network. Raises DirectoryError."""
    host, _, port = text[:_MAX_ADDRESS].rpartition(":")
    with suppress(ValueError):
        ip = ipaddress.ip_address(host.strip("[]"))
        if ip.is_global and not ip.is_multicast and port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16:
            return str(ip), int(port)
    raise DirectoryError("this is no address of the whole internet")


async def seen_addresses(session: DhtSession) -> list[str]:
    """Where up to three others see our libp2p port, each of them that tells and is not in our own network. Raises DirectoryError."""
    peers = await session.direct_peers()
    asked = random.sample(peers, min(_MAX_ASKED, len(peers)))
    return [address for address in await asyncio.gather(*(_seen_by(session, peer) for peer in asked)) if address]


async def _own_address(session: DhtSession) -> str:
    """Where others see our libp2p port; empty where that is of no use to anybody else. Raises DirectoryError."""
    return lasting_address(await seen_addresses(session))


async def _seen_by(session: DhtSession, peer: PeerId) -> str:
    """Empty when it does not say, or sees us in a network at home."""
    with suppress(DirectoryError, TimeoutError):
        async with asyncio.timeout(_SEEN_S):
            address = await session.ask_seen(peer)
        read_address(address)
        return address
    return ""


async def _is_direct_within(patience_s: float, session: DhtSession, peer: PeerId) -> bool:
    for _ in range(max(1, round(patience_s / _LOOK_EVERY_S))):
        if await session.is_direct(peer):
            return True
        await asyncio.sleep(_LOOK_EVERY_S)
    return False
