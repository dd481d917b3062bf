"""Two nodes behind routers of their own, and a few that can be dialled: real p2pds on an emulated internet."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lowcomm_node.adapters.dht_session import StreamTopic
from lowcomm_node.adapters.meeting_stream import FrameTransport
from lowcomm_node.adapters.p2p_link import opened
from lowcomm_node.adapters.state_streams import serve_states
from lowcomm_node.cli.swarm.lines import parse_line
from lowcomm_node.cli.swarm.shaping import Shaping, ShapingError
from lowcomm_node.core.messages import Answer, Confirm, Verdict
from lowcomm_node.errors import DirectoryError
from lowcomm_node.sim.profiles import Nat
from lowcomm_node.units import LinkKind, MeetingId, PeerId, Reachability
from tests.adapters.nodes import RUN, run
from tests.adapters.p2p_node import P2pNode
from tests.adapters.test_grpc_link import offer
from tests.adapters.test_state_streams import STATE, asking, giving

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(150),
    pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning"),  # hivemind finds p2pd that way
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # hivemind leaves its pipes to p2pd to the collector
]

_PATIENCE_S = 20.0
_MEETING = MeetingId("ab" * 16)


@asynccontextmanager
async def internet(folder: Path, num_public: int, *nats: Nat) -> AsyncIterator[list[P2pNode]]:
    """So many nodes that can be dialled, then one behind each router. What follows happens in the last one's network."""
    nodes: list[P2pNode] = []
    with ExitStack() as stack:
        try:
            shaping = Shaping(seed=1)
            stack.callback(shaping.close)
            rooms = [shaping.room(parse_line("20mbit,60ms"), nat=nat) for nat in (*[Nat.OPEN] * num_public, *nats)]
        except ShapingError as error:
            pytest.skip(f"no shaped networks here: {error}")
        shaping.start()
        peers: list[str] = []
        try:
            for number, room in enumerate(rooms):
                stack.enter_context(room.entered())
                is_public = number < num_public
                node = P2pNode(folder / f"n{number}", peers, room.host if is_public else "0.0.0.0")
                if not is_public:
                    node.dht.play(Reachability.OUTBOUND_ONLY)
                await node.dht.start()
                nodes.append(node)
                if is_public:
                    peers = [*peers, (await node.dht.visible_addresses())[0]]
            yield nodes
        finally:
            for node in nodes:
                await node.link.stop()
                await node.dht.stop()


async def has_a_place_at_a_relay(node: P2pNode) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while not any("/p2p-circuit" in address for address in await node.dht.visible_addresses()):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("num_public", [1, 4])
def test_two_behind_cones_meet_directly(num_public: int, tmp_path: Path) -> None:
    """With one member that can be dialled, and with as many as libp2p wants itself: a whole meeting, and a state. No relay carries them."""

    async def scenario() -> None:
        async with giving(tmp_path) as donor, internet(tmp_path, num_public, Nat.CONE, Nat.CONE) as nodes:
            ann, bob = nodes[-2:]
            ann.states = serve_states(donor)
            await asyncio.gather(has_a_place_at_a_relay(ann), has_a_place_at_a_relay(bob))

            assert await ann.punch.seek(bob.peer)

            (way,) = [a for a in await bob.dht.session.connected_addresses() if a.endswith(ann.peer)]
            assert way.startswith("/ip4/11.77.")  # her router's address
            assert await bob.punch.seek(ann.peer)
            sent = offer(_MEETING, ann.peer, bob.peer, (b"x" * 1_000_000, b"y"))
            ann.link.open(_MEETING, bob.peer, sent, LinkKind.LIBP2P)
            assert await bob.messages.get() == sent
            answer = Answer(meeting_id=_MEETING, parts=(b"a" * 1_000_000, b"b"), progress_steps=8.0)
            bob.link.send(_MEETING, answer)
            assert await ann.messages.get() == answer
            bob.link.send(_MEETING, Verdict(meeting_id=_MEETING, applied=True))
            assert isinstance(await ann.messages.get(), Verdict)
            ann.link.send(_MEETING, Confirm(meeting_id=_MEETING))
            ann.link.close(_MEETING)
            assert isinstance(await bob.messages.get(), Confirm)
            bob.link.close(_MEETING)

            def dial(peer: PeerId) -> AbstractAsyncContextManager[FrameTransport]:
                return opened(lambda: bob.dht.session, peer, StreamTopic.STATE)

            async with asking(tmp_path, dial) as client:
                await client.download([ann.peer], RUN, tmp_path / "state", 1 << 30, lambda *_: None)
            assert (tmp_path / "state").read_bytes() == STATE

    run(scenario(), timeout_s=110.0)


def test_two_of_whom_one_is_behind_a_symmetric_router_are_no_partners(tmp_path: Path) -> None:
    """Only a relay connects them: both know at once that there is no way, and neither sends nor takes a payload by the relay."""

    async def scenario() -> None:
        async with internet(tmp_path, 2, Nat.SYMMETRIC, Nat.CONE) as nodes:
            ann, bob = nodes[-2:]
            await asyncio.gather(has_a_place_at_a_relay(ann), has_a_place_at_a_relay(bob))

            for one, other in ((ann, bob), (bob, ann)):
                assert not await found(one.punch.seek(other.peer))
                assert not await one.dht.session.is_direct(other.peer)
                one.link.open(_MEETING, other.peer, offer(_MEETING, one.peer, other.peer, (b"1", b"")), LinkKind.LIBP2P)
                assert await one.failures.get() == (_MEETING, "unreachable")

            from hivemind.p2p import PeerID  # noqa: PLC0415 - imported late, as in the product

            info, reader, writer = await ann.dht.session.process.p2p.call_binary_stream_handler(
                PeerID.from_base58(bob.peer), "lowcomm/v1/meet"
            )
            assert "/p2p-circuit" in str(info.addr)
            writer.write(b"\0\0\0\1x")
            assert await reader.read() == b""
            writer.close()
            assert bob.messages.empty()
            assert bob.refused == []

    run(scenario(), timeout_s=110.0)


async def found(seeking: Coroutine[Any, Any, bool]) -> bool:
    """As the node takes it: what cannot be looked for is not there."""
    try:
        return await seeking
    except DirectoryError:
        return False
