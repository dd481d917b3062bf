"""One life of p2pd and the DHT node on it: what is lost when p2pd dies, and made anew by the directory's watchdog.

Every call has a deadline. A dead p2pd answers nothing, and hivemind would wait for it for ever.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError, Message

from lowcomm_node.adapters.dht_validator import member_validator
from lowcomm_node.adapters.p2p_process import P2pOptions, P2pProcess, split_address
from lowcomm_node.errors import DirectoryError, DirectoryTimeoutError
from lowcomm_node.units import PeerId
from lowcomm_node.wire.admission import AdmissionRule
from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2

if TYPE_CHECKING:
    from hivemind.dht.node import DHTNode
    from hivemind.p2p import P2PContext, PeerID
    from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo
    from hivemind.utils.multiaddr import Multiaddr

__all__ = ["DhtSession", "IncomingStream", "PeerHandlers", "StreamHandler", "StreamTopic"]

_CALL_TIMEOUT_S = 15.0
_CONNECT_TIMEOUT_S = 10.0
_RPC_TIMEOUT_S = 3.0
_HELLO = "lowcomm.v1.Hello"
_DIAL_BACK = "lowcomm.v1.DialBack"
_SEEN = "lowcomm.v1.Seen"
_PUNCH = "lowcomm.v1.Punch"
_RELAYED = "/p2p-circuit"
_PEER = "/p2p/"
_PEER_CODE = b"\xa5\x03"
"""421, the number of ``/p2p`` in a binary multiaddress."""
_LOOK_EVERY_S = 0.25
_MAX_WAYS = 8

_T = TypeVar("_T")
_Response = TypeVar("_Response", bound=Message)


class StreamTopic(StrEnum):
    """What a stream of ours is for, as libp2p names it."""

    MEETING = "lowcomm/v1/meet"
    STATE = "lowcomm/v1/state"


@dataclass(frozen=True, slots=True)
class IncomingStream:
    """A stream that another node has opened over libp2p."""

    peer: PeerId
    """Who it is; libp2p vouches for it."""
    is_direct: bool
    """No relay carries it."""
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    topic: StreamTopic = StreamTopic.MEETING


StreamHandler = Callable[[IncomingStream], Awaitable[None]]
DialBackHandler = Callable[[PeerId, str, records_pb2.DialBackRequest], Awaitable[records_pb2.DialBackResponse]]
"""Who asks, the host its connection comes from, and what it asks."""
PunchHandler = Callable[[PeerId, records_pb2.PunchRequest], Awaitable[records_pb2.PunchResponse]]
HelloHandler = Callable[[records_pb2.HelloRequest], Awaitable[records_pb2.HelloResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerHandlers:
    """What answers other members over libp2p."""

    streams: StreamHandler
    dial_back: DialBackHandler
    punch: PunchHandler


class DhtSession:
    """A p2pd with a DHT node. Nothing in it survives ``stop``."""

    def __init__(self, process: P2pProcess) -> None:
        self.process = process
        self.outcomes: dict[str, str] = {}
        """What happened at each address that was dialled at start; empty text when it answered."""
        self._node: DHTNode | None = None
        self._death = asyncio.create_task(process.wait())

    @classmethod
    async def start(
        cls,
        options: P2pOptions,
        addresses: Sequence[str],
        hello: HelloHandler,
        peers: Callable[[], PeerHandlers | None],
        rule: Callable[[], AdmissionRule | None],
    ) -> "DhtSession":
        """Start p2pd, dial ``addresses``, and join the DHT of those that answer, or begin one. ``peers``: None while in no run.

        Raises:
            DirectoryError: p2pd or the DHT does not start, or an address is none.
        """
        self = cls(await P2pProcess.start(options))
        try:
            async with asyncio.timeout(options.start_timeout_s):
                await asyncio.gather(*map(self._dial, addresses))
                await self._join(rule, is_public=options.is_public)
                await self._serve(hello, peers)
        except TimeoutError:
            await self.stop()
            raise DirectoryError(f"the DHT does not start within {options.start_timeout_s:g} s") from None
        except BaseException:
            await self.stop()
            raise
        return self

    async def stop(self) -> None:
        """End the DHT node and p2pd. The node says no good-bye: peers notice, and p2pd may be dead already."""
        if self._node is not None:
            self._node.is_alive = False  # ends its background loops
            if self._node.cache_refresh_task is not None:
                self._node.cache_refresh_task.cancel()
        await self.process.stop()
        await self._death

    async def visible_addresses(self) -> list[str]:
        """Multiaddresses under which others can reach this node, as p2pd sees them."""
        return [str(address) for address in await self._bounded(self.process.p2p.get_visible_maddrs(latest=True))]

    async def connected_addresses(self) -> list[str]:
        """Multiaddresses of the peers that p2pd is directly connected to."""
        peers = await self._bounded(self.process.p2p.list_peers())
        found = (f"{address}/p2p/{peer.peer_id.to_base58()}" for peer in peers for address in peer.addrs)
        return [address for address in found if _RELAYED not in address]

    async def direct_peers(self) -> list[PeerId]:
        """Those that p2pd is directly connected to. Raises DirectoryError."""
        return [PeerId(address.rpartition("/")[2]) for address in await self.connected_addresses()]

    async def is_direct(self, peer: PeerId) -> bool:
        """Is there a connection to ``peer`` that no relay carries? Raises DirectoryError."""
        return peer in await self.direct_peers()

    async def reach(self, peer: PeerId) -> None:
        """Get some connection to ``peer``, wherever libp2p finds it; else by a place at one of our neighbours. Raises DirectoryError."""
        try:
            await self._connect(peer, [])
        except DirectoryError:
            neighbours = [address for address in await self.connected_addresses() if not address.endswith(f"/{peer}")]
            await self._connect(peer, [_by_a_place_at(address) for address in neighbours[:_MAX_WAYS]])

    async def dial_anew(self, peer: PeerId, host: str, port: int) -> None:
        """End what connections to ``peer`` there are, relayed ones, and dial it there. Raises DirectoryError."""
        await self._bounded(self.process.p2p._client.disconnect(_peer_id(peer)))  # noqa: SLF001 - no public name for it
        await self._connect(peer, [_multiaddress(f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}")])

    async def open_stream(self, peer: PeerId, topic: StreamTopic) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a stream over a direct connection. Raises DirectoryError when there is none."""
        if not await self.is_direct(peer):
            raise DirectoryError(f"there is no direct connection to {peer}")
        info, reader, writer = await self._bounded(self.process.p2p.call_binary_stream_handler(_peer_id(peer), topic))
        if _RELAYED in str(info.addr):
            writer.close()
            raise DirectoryError(f"only a relay leads to {peer}")
        return reader, writer

    async def reconnect(self, addresses: Sequence[str]) -> None:
        """Dial again and get to know those who answer: the cure for a DHT that has split or lost everybody."""
        await asyncio.gather(*map(self._dial, addresses))
        for address in addresses:
            if not self.outcomes.get(address, "unknown"):
                await self._bounded(self._live.protocol.call_ping(split_address(address)[0]))

    @property
    def num_neighbours(self) -> int:
        """Peers in the DHT's routing table."""
        return len(self._live.protocol.routing_table.uid_to_peer_id)

    async def hello(self, address: str, request: records_pb2.HelloRequest) -> records_pb2.HelloResponse:
        """Ask the peer at ``address``. Raises DirectoryError."""
        peer, _ = split_address(address)
        if self.outcomes.get(address, "not dialled"):
            await self._dial(address)
            if outcome := self.outcomes[address]:
                raise DirectoryError(outcome)
        return await self._ask(PeerId(str(peer)), _HELLO, request, records_pb2.HelloResponse)

    async def dial_back(self, peer: PeerId, request: records_pb2.DialBackRequest) -> records_pb2.DialBackResponse:
        """Have ``peer`` try to dial this node. Raises DirectoryError."""
        return await self._ask(peer, _DIAL_BACK, request, records_pb2.DialBackResponse)

    async def ask_seen(self, peer: PeerId) -> str:
        """Where ``peer`` sees our libp2p port: host:port, whatever it says. Raises DirectoryError."""
        return (await self._ask(peer, _SEEN, records_pb2.SeenRequest(), records_pb2.SeenResponse)).address

    async def ask_punch(self, peer: PeerId, request: records_pb2.PunchRequest) -> records_pb2.PunchResponse:
        """Have ``peer`` let us in. Raises DirectoryError."""
        return await self._ask(peer, _PUNCH, request, records_pb2.PunchResponse)

    async def _ask(self, peer: PeerId, what: str, request: Message, answer: type[_Response]) -> _Response:
        response = await self._bounded(self.process.p2p.call_protobuf_handler(_peer_id(peer), what, request, answer))
        if not isinstance(response, answer):
            raise DirectoryError("an answer of the wrong kind")
        return response

    async def _connect(self, peer: PeerId, ways: Sequence["Multiaddr"]) -> None:
        """Return when there is a connection, relayed or not: p2pd goes on for seconds where some of a peer's addresses are silent."""
        if await self._is_connected(peer):
            return
        client = self.process.p2p._client  # noqa: SLF001 - no public name for it
        connecting = asyncio.ensure_future(self._bounded(client.connect(_peer_id(peer), list(ways))))
        try:
            while not connecting.done() and not await self._is_connected(peer):
                await asyncio.wait({connecting}, timeout=_LOOK_EVERY_S)
            if connecting.done():
                connecting.result()
        finally:
            connecting.cancel()

    async def _is_connected(self, peer: PeerId) -> bool:
        return any(known.peer_id.to_base58() == peer for known in await self._bounded(self.process.p2p.list_peers()))

    async def _serve(self, hello: HelloHandler, peers: Callable[[], PeerHandlers | None]) -> None:
        """From now on, answer whoever asks."""

        def served() -> PeerHandlers:
            if (handlers := peers()) is None:
                raise DirectoryError("this node is in no run yet")
            return handlers

        async def dial_back(
            request: records_pb2.DialBackRequest, context: "P2PContext"
        ) -> records_pb2.DialBackResponse:
            host, _ = await self._seen_at(context)
            return await served().dial_back(PeerId(context.remote_id.to_base58()), host, request)

        async def seen(_request: records_pb2.SeenRequest, context: "P2PContext") -> records_pb2.SeenResponse:
            host, port = await self._seen_at(context)
            return records_pb2.SeenResponse(address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

        async def punch(request: records_pb2.PunchRequest, context: "P2PContext") -> records_pb2.PunchResponse:
            return await served().punch(PeerId(context.remote_id.to_base58()), request)

        p2p = self.process.p2p
        await p2p.add_protobuf_handler(_HELLO, lambda request, _context: hello(request), records_pb2.HelloRequest)
        await p2p.add_protobuf_handler(_DIAL_BACK, dial_back, records_pb2.DialBackRequest)
        await p2p.add_protobuf_handler(_SEEN, seen, records_pb2.SeenRequest)
        await p2p.add_protobuf_handler(_PUNCH, punch, records_pb2.PunchRequest)
        for topic in StreamTopic:
            await p2p.add_binary_stream_handler(topic, partial(_take_stream, peers, topic))

    async def _seen_at(self, context: "P2PContext") -> tuple[str, str]:
        """Host and port from which who asks is connected with us. Raises DirectoryError when only a relay connects us."""
        peer = context.remote_id.to_base58()
        for address in await self.connected_addresses():
            match address.split("/"):
                case ["", "ip4" | "ip6", host, "tcp", port, "p2p", name] if name == peer:
                    return host, port
        raise DirectoryError("you are not directly connected")

    async def read(self, key: str) -> dict[bytes, bytes]:
        """All values under ``key``, by subkey."""
        found = await self._bounded(self._live.get(key, latest=True))
        if found is None or not isinstance(found.value, dict):
            return {}
        return {
            subkey: item.value
            for subkey, item in found.value.items()
            if isinstance(subkey, bytes) and isinstance(item.value, bytes)
        }

    async def write(self, key: str, subkey: bytes, value: bytes, expires_at: float) -> bool:
        """Store one value; False when no node took it."""
        return bool(await self._bounded(self._live.store(key, value, expires_at, subkey=subkey)))

    async def refresh(self) -> None:
        """Look up a key that does not exist, which freshens the routing table along the way."""
        await self._bounded(self._live.get(secrets.token_hex(16), latest=True))

    @property
    def _live(self) -> "DHTNode":
        if self._node is None:
            raise DirectoryError("the DHT is not up")
        return self._node

    async def _bounded(self, call: Awaitable[_T]) -> _T:
        """Wait for a call of hivemind's, but not for ever and not for a dead p2pd; failures in our own words."""
        from hivemind.p2p import P2PDaemonError, P2PHandlerError  # noqa: PLC0415 - hivemind is imported late

        task = asyncio.ensure_future(call)
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                await asyncio.wait({task, self._death}, return_when=asyncio.FIRST_COMPLETED)
                if not task.done():
                    raise DirectoryError("p2pd has died; it is being started anew")
                return task.result()
        except TimeoutError:
            raise DirectoryTimeoutError(f"no answer in {_CALL_TIMEOUT_S:g} s") from None
        except DecodeError as error:
            raise DirectoryError("an answer that cannot be read") from error
        except (P2PDaemonError, P2PHandlerError, OSError, asyncio.IncompleteReadError, ValueError) as error:
            raise DirectoryError(" ".join(str(error).split())[:300] or type(error).__name__) from error
        finally:
            task.cancel()

    async def _dial(self, address: str) -> None:
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                await self.process.connect(address)
        except TimeoutError:
            self.outcomes[address] = f"no answer in {_CONNECT_TIMEOUT_S:g} s"
        except DirectoryError as error:
            self.outcomes[address] = str(error)
        else:
            self.outcomes[address] = ""

    async def _join(self, rule: Callable[[], AdmissionRule | None], *, is_public: bool) -> None:
        """Join the DHT of the peers that were reached, or begin one.

        A peer whose DHT is not up yet is no error: the directory's upkeep asks again. hivemind's own checks of the
        bootstrap are off, since they cannot be repeated and say less than our hello.
        """
        from hivemind.dht.node import DHTNode  # noqa: PLC0415 - hivemind is imported late

        self._node = await DHTNode.create(
            p2p=self.process.p2p,
            client_mode=not is_public,  # others would wait for answers that do not come
            initial_peers=[address for address, outcome in self.outcomes.items() if not outcome] or None,
            record_validator=member_validator(rule),
            parallel_rpc=32,
            wait_timeout=_RPC_TIMEOUT_S,
            cache_nearest=0,
            ensure_bootstrap_success=False,
            strict=False,
        )


def _peer_id(peer: PeerId) -> "PeerID":
    """Raises DirectoryError: it is none."""
    from hivemind.p2p import PeerID  # noqa: PLC0415 - hivemind is imported late

    try:
        return PeerID.from_base58(peer)
    except (ValueError, KeyError) as error:
        raise DirectoryError(f"{peer!r} is not a peer id") from error


def _multiaddress(text: str) -> "Multiaddr":
    from hivemind.utils.multiaddr import Multiaddr  # noqa: PLC0415 - hivemind is imported late

    return Multiaddr(text)


def _by_a_place_at(address: str) -> "Multiaddr":
    """Where a peer that has a place at the relay of this address is found.

    Put together here: hivemind writes a peer id inside of an address as a CID, which p2pd takes for a multihash and cannot read.
    """
    from hivemind.utils.multiaddr import Multiaddr  # noqa: PLC0415 - hivemind is imported late

    transport, _, relay = address.rpartition(_PEER)
    name = _peer_id(PeerId(relay)).to_bytes()
    where = Multiaddr(transport).to_bytes() + _PEER_CODE + bytes([len(name)]) + name
    return Multiaddr(where + Multiaddr(_RELAYED).to_bytes())


async def _take_stream(
    peers: Callable[[], PeerHandlers | None],
    topic: StreamTopic,
    info: "StreamInfo",
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """hivemind closes nothing when a handler returns."""
    try:
        if (handlers := peers()) is not None:
            is_direct = _RELAYED not in str(info.addr)
            await handlers.streams(IncomingStream(PeerId(info.peer_id.to_base58()), is_direct, reader, writer, topic))
    finally:
        writer.close()
