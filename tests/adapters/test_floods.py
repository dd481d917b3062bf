"""Many who want something of a node at once: it stays within its bounds, says so, counts them, and serves others."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import grpc.aio
import psutil

from lowcomm_node.adapters.grpc_transports import MEET, MEETINGS_SERVICE, ClientTransport
from lowcomm_node.adapters.tcp import incoming
from lowcomm_node.core.messages import Answer, Offer
from lowcomm_node.errors import RefusalReason
from lowcomm_node.units import MeetingId
from lowcomm_node.wire.frames import decode_frame, to_frames
from tests.adapters.nodes import LinkNode, calling, link_nodes, run, somebody
from tests.adapters.test_grpc_link import meet_raw, offer

EVE = somebody(5)
_CROWD = 260
_MAX_CONNECTIONS = 200
_BYTES_OF_ONE = 256 << 10
"""More than what a silent connection costs the process, at both of its ends."""


async def until(condition: Callable[[], bool]) -> None:
    """Nobody tells; the scenario's own time limit is the bound."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


@asynccontextmanager
async def crowd(port: int, size: int) -> AsyncIterator[list[socket.socket]]:
    """Connections from forty hosts that say nothing."""
    sockets: list[socket.socket] = []
    try:
        for number in range(size):
            one = socket.socket()
            sockets.append(one)
            one.setblocking(False)
            one.bind((f"127.0.0.{2 + number % 40}", 0))
            await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", port))
        yield sockets
    finally:
        for one in sockets:
            one.close()


def is_over(one: socket.socket) -> bool:
    """Has the far end hung up?"""
    try:
        return one.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


async def meets(ann: LinkNode, bob: LinkNode, meeting_id: MeetingId) -> bool:
    """Does an offer of Ann's get Bob's answer?"""
    answer = Answer(meeting_id=meeting_id, parts=(b"a", b"b"), progress_steps=8.0)
    ann.link.open(meeting_id, bob.peer, offer(meeting_id, ann.peer, bob.peer, (b"1", b"")))
    assert isinstance(await bob.messages.get(), Offer)
    bob.link.send(meeting_id, answer)
    return await ann.messages.get() == answer


def test_a_flood_of_connections_from_many_hosts_keeps_nobody_out(meeting_id: MeetingId) -> None:
    """There is an end to how many there are and to what they cost; after the next look there is room, and a meeting succeeds."""

    async def scenario() -> None:
        async with link_nodes(2, max_connections=_MAX_CONNECTIONS) as (ann, bob):
            process = psutil.Process()
            before_bytes = process.memory_info().rss
            async with crowd(bob.port.number, _CROWD) as sockets:
                await until(lambda: sum(map(is_over, sockets)) >= _CROWD - _MAX_CONNECTIONS)
                await until(lambda: len(incoming(bob.port.number)) <= _MAX_CONNECTIONS)  # one may be on its way out
                assert process.memory_info().rss - before_bytes < _CROWD * _BYTES_OF_ONE

                bob.port.look()
                await until(lambda: len(incoming(bob.port.number)) <= 128)
                assert bob.port.refused == [RefusalReason.TOO_MANY] * (_MAX_CONNECTIONS - 128)
                assert await meets(ann, bob, meeting_id)

                bob.port.look(later_s=11.0)
                await until(lambda: len(incoming(bob.port.number)) == 1)
                assert bob.port.refused[_MAX_CONNECTIONS - 128 :] == [RefusalReason.UNPROVEN] * 128
                assert await meets(ann, bob, MeetingId("ff" * 16)), "who has proven himself stays connected"

    run(scenario(), timeout_s=60.0)


def test_one_member_has_so_many_streams_and_others_are_served(meeting_id: MeetingId) -> None:
    """One more of its own is refused by name and counted, with fifteen places free; nothing of its payload is read."""

    async def scenario() -> None:
        async with link_nodes(2) as (ann, bob), AsyncExitStack() as stack:
            lent = await stack.enter_async_context(calling(EVE, bob.port.member))
            transports = [await stack.enter_async_context(ClientTransport.call(lent, MEET)) for _ in range(4)]
            for number, transport in enumerate(transports):
                opened = offer(MeetingId(f"{number:032x}"), EVE.peer_id, bob.peer, (b"1", b""))
                for frame in to_frames(opened):
                    await transport.write(frame.SerializeToString())
                assert await bob.messages.get() == opened

            one_more = [f.SerializeToString() for f in to_frames(offer(meeting_id, EVE.peer_id, bob.peer, (b"1", b"")))]
            for number in range(1, 4):
                (refusal,) = await meet_raw(bob, one_more[:1])
                assert decode_frame(refusal).refusal.reason == 18
                assert bob.refused == [RefusalReason.TOO_MANY] * number
            assert bob.messages.empty()
            assert await meets(ann, bob, MeetingId("ff" * 16))

            bob.link.close(MeetingId(f"{0:032x}"))
            while await transports[0].read() is not None:
                pass
            assert await meet_raw(bob, one_more) == []
            assert isinstance(await bob.messages.get(), Offer), "there is a place again"

    run(scenario())


def test_one_member_has_so_many_calls_of_any_kind() -> None:
    """Calls that wait for their first word hold places of their caller's alone, and give them back."""

    async def scenario() -> None:
        async with link_nodes(1) as (bob,), calling(EVE, bob.port.member) as lent:
            ring: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = lent.channel.stream_stream(
                f"/{MEETINGS_SERVICE}/AnswerRing"
            )
            calls: list[grpc.aio.StreamStreamCall[bytes, bytes]] = [ring(metadata=lent.metadata) for _ in range(16)]
            await until(lambda: len(bob.port.door._calls) == 16)

            refused: grpc.aio.StreamStreamCall[bytes, bytes] = ring(metadata=lent.metadata)
            assert await refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (await refused.details()).startswith("too_many: ")
            assert bob.port.refused == [RefusalReason.TOO_MANY]
            async with calling(somebody(6), bob.port.member) as other:
                served: grpc.aio.StreamStreamCall[bytes, bytes] = other.channel.stream_stream(
                    f"/{MEETINGS_SERVICE}/AnswerRing"
                )(metadata=other.metadata)
                await served.done_writing()
                assert await served.code() is grpc.StatusCode.OK
            for call in calls:
                call.cancel()
            await until(lambda: not len(bob.port.door._calls))

    run(scenario())


def test_what_a_quarantined_peer_has_open_ends() -> None:
    """Its streams go with its connection; who has done nothing keeps both."""

    async def scenario() -> None:
        async with link_nodes(1) as (bob,), AsyncExitStack() as stack:
            calls: list[grpc.aio.StreamStreamCall[bytes, bytes]] = []
            for who in (EVE, somebody(6)):
                lent = await stack.enter_async_context(calling(who, bob.port.member))
                calls.append(lent.channel.stream_stream(f"/{MEETINGS_SERVICE}/{MEET}")(metadata=lent.metadata))
            await until(lambda: len(bob.port.door._calls) == 2)

            bob.port.door.end(EVE.peer_id)
            bob.port.look()

            assert await calls[0].code() is not grpc.StatusCode.OK
            assert not calls[1].done()
            assert bob.port.refused == [RefusalReason.UNPROVEN]

    run(scenario())


def test_one_peer_has_so_many_connections() -> None:
    """The oldest of nine ends; what is open on the others goes on."""

    async def scenario() -> None:
        async with link_nodes(1) as (bob,), AsyncExitStack() as stack:
            calls: list[grpc.aio.StreamStreamCall[bytes, bytes]] = []
            for _ in range(9):
                lent = await stack.enter_async_context(calling(EVE, bob.port.member))
                calls.append(lent.channel.stream_stream(f"/{MEETINGS_SERVICE}/AnswerRing")(metadata=lent.metadata))
            bob.port.look()
            await until(calls[0].done)
            bob.port.look(later_s=60.0)
            assert bob.port.refused == [RefusalReason.TOO_MANY]
            assert len(incoming(bob.port.number)) == 8

    run(scenario())


def test_an_offer_counts_once_on_a_stream(meeting_id: MeetingId) -> None:
    """Its own sender says it again, word for word: the stream ends with the reason, it is counted, and the node hears one offer."""

    async def scenario() -> None:
        async with link_nodes(1) as (bob,):
            sent = offer(meeting_id, EVE.peer_id, bob.peer, (b"1", b""))
            frames = [frame.SerializeToString() for frame in to_frames(sent)]

            (refusal,) = await meet_raw(bob, frames + frames)

            assert decode_frame(refusal).refusal.reason == 14
            assert bob.refused == [RefusalReason.REPLAYED]
            assert await bob.messages.get() == sent
            assert bob.messages.empty()
            assert (await bob.failures.get())[0] == meeting_id

    run(scenario())
