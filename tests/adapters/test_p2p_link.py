"""Meetings over libp2p: the framing by itself, and real p2pds on loopback."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from lowcomm_node.adapters.dht_session import DhtSession, IncomingStream, StreamTopic, _by_a_place_at
from lowcomm_node.adapters.meeting_link import MeetingLink
from lowcomm_node.adapters.p2p_link import P2pTransport, p2p_dialler, p2p_handler
from lowcomm_node.core.messages import Answer, Busy, Confirm, Verdict
from lowcomm_node.errors import DirectoryError, LinkError, RefusalReason, RemoteProtocolError
from lowcomm_node.units import LinkKind, MeetingId, PeerId, Reachability
from lowcomm_node.wire.frames import to_frames
from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2
from lowcomm_node.wire.limits import MAX_FRAME_BYTES
from lowcomm_node.wire.meeting import MeetingLimits
from tests.adapters.nodes import RUN, run, some_peer
from tests.adapters.p2p_node import P2pNode
from tests.adapters.test_grpc_link import offer

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning"),  # hivemind finds p2pd that way
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # hivemind leaves its pipes to p2pd to the collector
]


_DIRECT = "/ip4/9.9.9.1/tcp/4001"
_RELAYED = f"/ip4/9.9.9.2/tcp/4001/p2p/{some_peer(9)}/p2p-circuit"


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[P2pTransport, asyncio.StreamWriter]]:
    """A transport and the raw other end of its stream."""
    one, other = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=one)
    _, far = await asyncio.open_connection(sock=other)
    try:
        yield P2pTransport(reader, writer), far
    finally:
        writer.close()
        far.close()


def test_frames_keep_their_bounds_and_the_end_is_said() -> None:
    """What comes in pieces is a frame, an empty one is the end, and nothing is read behind it."""

    async def scenario() -> None:
        async with pair() as (transport, far):
            far.write(b"\0\0\0\3ab")
            await asyncio.sleep(0)
            far.write(b"c\0\0\0\1d\0\0\0\0\0\0\0\1e")
            assert [await transport.read() for _ in range(4)] == [b"abc", b"d", None, None]

    run(scenario())


@pytest.mark.parametrize("said", [b"", b"\0\0", b"\0\0\0\5abc"])
def test_an_end_without_a_word_is_a_lost_connection(said: bytes) -> None:
    """A peer that has died ends its streams as one that is done does: only the word tells them apart."""

    async def scenario() -> None:
        async with pair() as (transport, far):
            far.write(said)
            far.write_eof()
            with pytest.raises(LinkError, match="disconnect"):
                await transport.read()

    run(scenario())


def test_a_frame_that_is_too_long_is_refused_before_it_is_read() -> None:
    """Four bytes announce up to four gigabytes; nothing is kept for them."""

    async def scenario() -> None:
        async with pair() as (transport, far):
            far.write((MAX_FRAME_BYTES + 1).to_bytes(4))
            with pytest.raises(RemoteProtocolError) as caught:
                await transport.read()
            assert caught.value.reason is RefusalReason.OVERSIZED

    run(scenario())


def test_a_full_house_says_busy_to_an_offer_and_bears_anything_else(meeting_id: MeetingId) -> None:
    """Whatever a peer says, the handler ends in order; what it hears is a busy and the end, the end, or nothing."""

    async def scenario() -> None:
        limits = MeetingLimits(
            run_id=RUN, peer_id=some_peer(1), protocol_version=1, max_payload_bytes=1 << 20, max_tensors=4
        )
        link = MeetingLink(sink=None, limits=limits, diallers={}, max_incoming=0)  # type: ignore[arg-type]
        header = next(to_frames(offer(meeting_id, some_peer(2), some_peer(1), (b"12", b"3")))).SerializeToString()
        busy = next(to_frames(Busy(meeting_id=meeting_id))).SerializeToString()
        for said, expected in (
            (b"", b""),
            ((MAX_FRAME_BYTES + 1).to_bytes(4), b""),
            (b"\0\0\0\2\xff\xff", b"\0\0\0\0"),
            (len(header).to_bytes(4) + header, len(busy).to_bytes(4) + busy + b"\0\0\0\0"),
        ):
            one, other = socket.socketpair()
            reader, writer = await asyncio.open_connection(sock=one)
            far_reader, far_writer = await asyncio.open_connection(sock=other)
            far_writer.write(said)
            far_writer.write_eof()
            await link.serve(P2pTransport(reader, writer), LinkKind.LIBP2P, some_peer(2))
            writer.close()
            heard = await far_reader.read()
            far_writer.close()
            assert heard == expected

    run(scenario())


def test_what_a_relay_carries_is_not_taken() -> None:
    """Nor is anything from whom we will not have: nothing of it is read."""

    async def scenario() -> None:
        taken: list[PeerId] = []

        class Link:
            async def serve(self, _transport: P2pTransport, _kind: LinkKind, peer: PeerId) -> None:
                taken.append(peer)

        async def states(_transport: object, peer: PeerId) -> str:
            asked.append(peer)
            return ""

        asked: list[PeerId] = []
        take = p2p_handler(Link(), lambda peer: peer != some_peer(3), states)  # type: ignore[arg-type]
        for topic in StreamTopic:
            for number, is_direct in ((1, False), (2, True), (3, True)):
                await take(IncomingStream(some_peer(number), is_direct, None, None, topic))  # type: ignore[arg-type]
        assert taken == asked == [some_peer(2)]

    run(scenario())


class Connected:
    """p2pd by a script: what it is connected by, and what a stream would go over. It is its own process and wrapper."""

    def __init__(self, connections: list[str], stream_over: str) -> None:
        self.p2p = self
        self.connections, self.stream_over = connections, stream_over
        self.closed = 0

    async def wait(self) -> int:
        await asyncio.sleep(3600.0)
        return 0

    async def list_peers(self) -> list[SimpleNamespace]:
        name = SimpleNamespace(to_base58=lambda: some_peer(1))
        return [SimpleNamespace(peer_id=name, addrs=self.connections)]

    async def call_binary_stream_handler(self, *_: object) -> tuple[SimpleNamespace, None, "Connected"]:
        return SimpleNamespace(addr=self.stream_over), None, self

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize(
    ("connections", "stream_over", "is_taken"),
    [
        ([_RELAYED], _RELAYED, False),
        ([_DIRECT], _RELAYED, False),
        ([_RELAYED, _DIRECT], _RELAYED, False),
        ([_RELAYED, _DIRECT], _DIRECT, True),
    ],
)
def test_a_stream_that_a_relay_would_carry_is_not_opened(
    connections: list[str], stream_over: str, is_taken: bool
) -> None:
    """There is no direct connection, or there was one a moment ago: what was opened is closed before anything is sent."""

    async def scenario() -> None:
        p2pd = Connected(connections, stream_over)
        session = DhtSession(p2pd)  # type: ignore[arg-type]
        transport = p2p_dialler(lambda: session)(some_peer(1), MeetingId("aa" * 16))
        if is_taken:
            async with transport:
                assert p2pd.closed == 0
            assert p2pd.closed == 1
        else:
            with pytest.raises(LinkError, match="unreachable"):
                async with transport:
                    raise AssertionError("a relay carries this")
            assert p2pd.closed == (_DIRECT in connections)
        session._death.cancel()

    run(scenario())


@asynccontextmanager
async def two_behind_routers(folder: Path) -> AsyncIterator[tuple[P2pNode, P2pNode, P2pNode]]:
    """One node that can be dialled, and two that know nobody but it."""
    nodes: list[P2pNode] = []
    try:
        for name in ("hub", "ann", "bob"):
            peers = list((await nodes[0].dht.visible_addresses())[:1]) if nodes else []
            node = P2pNode(folder / name, peers)
            if nodes:
                node.dht.play(Reachability.OUTBOUND_ONLY)
            await node.dht.start()
            nodes.append(node)
        hub, ann, bob = nodes
        yield hub, ann, bob
    finally:
        for node in nodes:
            await node.link.stop()
            await node.dht.stop()


def test_p2pd_understands_where_a_place_at_a_relay_is(tmp_path: Path) -> None:
    """It goes there, and hears from the relay that nobody of that name has a place; hivemind's own bytes it could not read."""

    async def scenario() -> None:
        async with two_behind_routers(tmp_path) as (hub, ann, _):
            address = (await hub.dht.visible_addresses())[0]
            with pytest.raises(DirectoryError) as told:
                await ann.dht.session._connect(some_peer(9), [_by_a_place_at(address)])
            assert "NO_RESERVATION" in str(told.value)

    run(scenario(), timeout_s=60.0)


def test_two_nodes_that_nobody_dials_meet_over_libp2p(tmp_path: Path, meeting_id: MeetingId) -> None:
    """Offer to confirmation; then a word that ends it; an offer in somebody else's name; and the death of a p2pd."""

    async def scenario() -> None:
        async with two_behind_routers(tmp_path) as (_, ann, bob):
            assert await ann.punch.seek(bob.peer)
            assert await ann.dht.session.is_direct(bob.peer)
            asked = await ann.dht.session.dial_back(bob.peer, records_pb2.DialBackRequest(port=7))
            assert (asked.is_reachable, asked.host) == (True, f"127.0.0.1, {ann.peer}")  # who asks, and from where

            sent = offer(meeting_id, ann.peer, bob.peer, (b"x" * 3_000_000, b"y"))
            ann.link.open(meeting_id, bob.peer, sent, LinkKind.LIBP2P)
            assert await bob.messages.get() == sent
            answer = Answer(meeting_id=meeting_id, parts=(b"a" * 1_000_000, b"b"), progress_steps=8.0)
            bob.link.send(meeting_id, answer)
            assert await ann.messages.get() == answer
            bob.link.send(meeting_id, Verdict(meeting_id=meeting_id, applied=True))
            assert isinstance(await ann.messages.get(), Verdict)
            ann.link.send(meeting_id, Confirm(meeting_id=meeting_id))
            ann.link.close(meeting_id)
            assert isinstance(await bob.messages.get(), Confirm)
            bob.link.close(meeting_id)
            assert {*ann.kinds, *bob.kinds} == {LinkKind.LIBP2P}

            busy = MeetingId("bb" * 16)
            ann.link.open(busy, bob.peer, offer(busy, ann.peer, bob.peer, (b"1", b"")), LinkKind.LIBP2P)
            await bob.messages.get()
            bob.link.send(busy, Busy(meeting_id=busy))
            bob.link.close(busy)
            assert await ann.messages.get() == Busy(meeting_id=busy)
            ann.link.close(busy)

            forged = MeetingId("cc" * 16)
            ann.link.open(forged, bob.peer, offer(forged, some_peer(5), bob.peer, (b"1", b"")), LinkKind.LIBP2P)
            await ann.messages.get()  # a refusal
            assert bob.refused == [RefusalReason.WRONG_SENDER]
            assert bob.messages.empty()
            ann.link.close(forged)
            assert ann.failures.empty()

            early = MeetingId("ee" * 16)
            bob.unwelcome.add(ann.peer)
            ann.link.open(early, bob.peer, offer(early, ann.peer, bob.peer, (b"1", b"")), LinkKind.LIBP2P)
            assert await ann.failures.get() == (early, "disconnect")
            bob.unwelcome.clear()

            last = MeetingId("dd" * 16)
            ann.link.open(last, bob.peer, offer(last, ann.peer, bob.peer, (b"1", b"")), LinkKind.LIBP2P)
            await bob.messages.get()
            os.kill(ann.dht.pid, signal.SIGKILL)
            assert await ann.failures.get() == (last, "disconnect")
            assert await bob.failures.get() == (last, "disconnect")

    run(scenario(), timeout_s=50.0)


def test_without_a_direct_connection_a_peer_is_unreachable_at_once(tmp_path: Path, meeting_id: MeetingId) -> None:
    """Nobody of that name, and a node whose directory is not up."""

    async def scenario() -> None:
        node = P2pNode(tmp_path / "n", [])
        nobody = some_peer(9)
        proposed = offer(meeting_id, node.peer, nobody, (b"1", b""))
        node.link.open(meeting_id, nobody, proposed, LinkKind.LIBP2P)
        assert await node.failures.get() == (meeting_id, "unreachable")
        await node.dht.start()
        try:
            node.link.open(meeting_id, nobody, proposed, LinkKind.LIBP2P)
            assert await node.failures.get() == (meeting_id, "unreachable")
            with pytest.raises(DirectoryError):
                await node.punch.seek(nobody)
        finally:
            await node.dht.stop()

    run(scenario())


def test_a_change_of_role_starts_p2pd_anew(tmp_path: Path) -> None:
    """A node that turns out to be behind a router needs relays; it keeps identity, port and peers, and it is no crash."""

    async def scenario() -> None:
        async with two_behind_routers(tmp_path) as (hub, ann, bob):
            before, addresses = bob.dht.pid, await bob.dht.visible_addresses()
            bob.dht.play(Reachability.HOLEPUNCHED)  # not dialled either: the same role
            assert bob.dht.pid == before
            bob.dht.play(Reachability.PUBLIC)
            await bob.dht.wait_up()
            assert bob.dht.pid != before
            assert await bob.dht.visible_addresses() == addresses
            assert bob.dht.restarts == 0
            assert await bob.punch.seek(ann.peer)
            assert PeerId(hub.peer) == hub.dht.peer_id

    run(scenario(), timeout_s=50.0)
