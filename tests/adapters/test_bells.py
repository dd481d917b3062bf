"""Bells on loopback: a node that nobody can dial answers meetings that others start."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest

from lowcomm_node.adapters.bells import HeldBells
from lowcomm_node.adapters.grpc_transports import ANSWER_RING, HANG_BELL, ClientTransport
from lowcomm_node.adapters.identity import Identity
from lowcomm_node.core.events import BellHung, BellLost, BellsHeld
from lowcomm_node.core.messages import Answer, Busy, Close, Confirm, Offer, Refusal, Verdict
from lowcomm_node.errors import LinkError, RefusalReason
from lowcomm_node.units import LinkKind, MeetingId
from lowcomm_node.wire.gen.lowcomm.v1 import meeting_pb2
from tests.adapters.nodes import LinkNode, calling, link_nodes, run, signed_record, some_peer, somebody, verify
from tests.adapters.test_grpc_link import offer


@asynccontextmanager
async def with_bell(**options: Any) -> AsyncIterator[tuple[LinkNode, LinkNode]]:
    """Ann can be dialled; Bob's server is stopped, and his bell hangs with her."""
    async with link_nodes(2, **options) as (ann, bob):
        await bob.port.server.stop(0)
        await hang(bob, ann)
        yield ann, bob


async def hang(owner: LinkNode, holder: LinkNode) -> None:
    owner.bells.hang(holder.peer)
    assert await owner.events.get() == BellHung(peer=holder.peer)
    held = await holder.events.get()
    assert isinstance(held, BellsHeld)
    assert owner.peer in held.peers


def test_a_whole_meeting_crosses_a_stream_that_its_answerer_has_dialled(meeting_id: MeetingId) -> None:
    """Offer to confirmation, both payloads bit for bit, both ends told what kind of link it was, and both ends in order."""

    async def scenario() -> None:
        async with with_bell() as (ann, bob):
            sent = offer(meeting_id, ann.peer, bob.peer, (b"x" * 700_000, b"y"))
            ann.link.open(meeting_id, bob.peer, sent, LinkKind.GRPC_REVERSED)
            assert await bob.messages.get() == sent
            answer = Answer(meeting_id=meeting_id, parts=(b"a" * 300_000, b"b"), progress_steps=8.0)
            bob.link.send(meeting_id, answer)
            assert await ann.messages.get() == answer
            ann.link.send(meeting_id, Close(meeting_id=meeting_id, parts=(b"c", b"")))
            assert isinstance(await bob.messages.get(), Close)
            bob.link.send(meeting_id, Verdict(meeting_id=meeting_id, applied=True))
            assert isinstance(await ann.messages.get(), Verdict)
            ann.link.send(meeting_id, Confirm(meeting_id=meeting_id))
            ann.link.close(meeting_id)
            assert await bob.messages.get() == Confirm(meeting_id=meeting_id)
            bob.link.close(meeting_id)

            assert {*ann.kinds, *bob.kinds} == {LinkKind.GRPC_REVERSED}
            # The bell still hangs: the next meeting comes at once.
            other = MeetingId("ee" * 16)
            ann.link.open(other, bob.peer, offer(other, ann.peer, bob.peer, (b"1", b"")), LinkKind.GRPC_REVERSED)
            assert isinstance(await bob.messages.get(), Offer)
        assert ann.failures.empty()

    run(scenario())


def test_busy_and_refusal_arrive_though_who_says_them_has_dialled(meeting_id: MeetingId) -> None:
    """The last word of an answerer that ends the stream is not lost with it."""

    async def scenario() -> None:
        async with with_bell() as (ann, bob):

            def say(word: Busy | Refusal) -> None:
                bob.link.send(word.meeting_id, word)
                bob.link.close(word.meeting_id)

            other = MeetingId("dd" * 16)
            words = (Busy(meeting_id=meeting_id), Refusal(meeting_id=other, reason=RefusalReason.LEAVING))
            for word in words:
                bob.answer = partial(lambda word, _message: say(word), word)
                proposed = offer(word.meeting_id, ann.peer, bob.peer, (b"1", b""))
                ann.link.open(word.meeting_id, bob.peer, proposed, LinkKind.GRPC_REVERSED)
                assert await ann.messages.get() == word
                ann.link.close(word.meeting_id)
            assert ann.failures.empty()
            assert bob.failures.empty()

    run(scenario())


def test_a_full_house_says_busy_when_it_is_rung(meeting_id: MeetingId) -> None:
    """A node that answers as many streams as it may still calls back, to say so."""

    async def scenario() -> None:
        async with with_bell(max_incoming=1) as (ann, bob):
            other = MeetingId("ff" * 16)
            big = offer(other, ann.peer, bob.peer, (b"1" * 900_000, b""))
            ann.link.open(
                meeting_id, bob.peer, offer(meeting_id, ann.peer, bob.peer, (b"1", b"")), LinkKind.GRPC_REVERSED
            )
            await bob.messages.get()
            ann.link.open(other, bob.peer, big, LinkKind.GRPC_REVERSED)
            assert await ann.messages.get() == Busy(meeting_id=other)

    run(scenario())


def test_without_a_bell_nobody_can_be_rung(meeting_id: MeetingId) -> None:
    """Known at once, so that another partner is asked."""

    async def scenario() -> None:
        async with link_nodes(2) as (ann, bob):
            proposed = offer(meeting_id, ann.peer, bob.peer, (b"1", b""))
            ann.link.open(meeting_id, bob.peer, proposed, LinkKind.GRPC_REVERSED)
            assert await ann.failures.get() == (meeting_id, "unreachable")

    run(scenario(), timeout_s=5.0)


def test_both_ends_hear_that_a_bell_is_gone(meeting_id: MeetingId) -> None:
    """Taken down by its owner, or lost with the node that held it."""

    async def scenario() -> None:
        async with with_bell() as (ann, bob):
            bob.bells.take(ann.peer)
            assert await ann.events.get() == BellsHeld(peers=())
            assert bob.events.empty()

            await hang(bob, ann)
            await ann.port.server.stop(0)
            assert await bob.events.get() == BellLost(peer=ann.peer)

    run(scenario())


def test_nobody_to_hang_a_bell_at() -> None:
    """It cannot be dialled, or nothing is known of it."""

    async def scenario() -> None:
        async with link_nodes(2) as (ann, bob):
            await ann.port.server.stop(0)
            for peer in (ann.peer, some_peer(77)):
                bob.bells.hang(peer)
                assert await bob.events.get() == BellLost(peer=peer)

    run(scenario())


def test_so_many_bells_hang_and_one_more_is_turned_away() -> None:
    """A newer bell of the same node takes the place of its older one."""

    async def scenario() -> None:
        async with link_nodes(3, max_bells=1) as (ann, bob, eve):
            await hang(bob, ann)
            eve.bells.hang(ann.peer)
            assert await eve.events.get() == BellLost(peer=ann.peer)

            async with raw_bell(ann, bob.identity) as call:
                assert await call.read() == b""
                assert await bob.events.get() == BellLost(peer=ann.peer)
                assert len(ann.held) == 1

    run(scenario())


@asynccontextmanager
async def raw_bell(node: LinkNode, identity: Identity, first: bytes | None = None) -> AsyncIterator[ClientTransport]:
    """Hang a bell as a peer that need not follow the protocol."""
    async with calling(identity, node.port.member) as lent, ClientTransport.call(lent, HANG_BELL) as transport:
        await transport.write(_request(signed_record(identity)) if first is None else first)
        yield transport


def _request(record: bytes) -> bytes:
    request = meeting_pb2.BellRequest()
    request.member.ParseFromString(record)
    return request.SerializeToString()


def test_the_owner_of_a_bell_stays_known() -> None:
    """Its newer records come over the bell; somebody else's end it."""

    async def scenario() -> None:
        async with link_nodes(1) as (ann,), raw_bell(ann, somebody(2)) as call:
            assert await call.read() == b""
            await call.write(_request(signed_record(somebody(2), expires_at=2000.0)))
            assert [(await ann.members.get()).expires_at for _ in range(2)] == [1000.0, 2000.0]

            await call.write(_request(signed_record(somebody(3))))
            assert await call.read() is None
            assert ann.refused == [RefusalReason.WRONG_SENDER]

    run(scenario())


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        (b"", RefusalReason.CHECKSUM),
        (b"\xff\xff\xff", RefusalReason.MALFORMED),
        (b"x" * 5000, RefusalReason.OVERSIZED),
        (_request(signed_record(somebody(3))), RefusalReason.WRONG_SENDER),
    ],
)
def test_a_record_that_is_not_believed_hangs_no_bell(word: bytes, reason: RefusalReason) -> None:
    """Nothing, garbage, too much, or somebody else's: counted, and nobody can be rung for it."""

    async def scenario() -> None:
        async with link_nodes(1) as (ann,), raw_bell(ann, somebody(2), word) as call:
            assert await call.read() is None
            assert ann.refused == [reason]
            assert len(ann.held) == 0

    run(scenario())


def test_who_was_not_rung_gets_no_meeting(meeting_id: MeetingId) -> None:
    """Neither somebody else who knows its id, nor who was rung and names another one."""

    async def scenario() -> None:
        async with link_nodes(1) as (ann,), raw_bell(ann, somebody(2)) as bell:
            assert await bell.read() == b""
            proposed = offer(meeting_id, ann.peer, some_peer(2), (b"1", b""))
            ann.link.open(meeting_id, some_peer(2), proposed, LinkKind.GRPC_REVERSED)
            ring = meeting_pb2.Ring.FromString(await bell.read() or b"")
            assert ring.meeting_id.hex() == meeting_id

            assert await answer(ann, somebody(2), b"\xff") is None
            assert await answer(ann, somebody(2), _call_back(b"z" * 16)) is None
            assert await answer(ann, somebody(3), _call_back(ring.meeting_id)) is None
            first = await answer(ann, somebody(2), _call_back(ring.meeting_id))
            assert meeting_pb2.MeetingFrame.FromString(first or b"").WhichOneof("body") == "offer"

    run(scenario())


async def answer(node: LinkNode, identity: Identity, word: bytes) -> bytes | None:
    """Call back, and hear the first frame."""
    async with calling(identity, node.port.member) as lent, ClientTransport.call(lent, ANSWER_RING) as transport:
        await transport.write(word)
        return await transport.read()


def _call_back(meeting_id: bytes) -> bytes:
    return meeting_pb2.MeetingFrame(call_back=meeting_pb2.CallBack(meeting_id=meeting_id)).SerializeToString()


def test_a_meeting_outlives_the_bell_that_rang_for_it(meeting_id: MeetingId) -> None:
    """What is under way is not cut off when the bell is taken down."""

    async def scenario() -> None:
        async with with_bell() as (ann, bob):
            proposed = offer(meeting_id, ann.peer, bob.peer, (b"1", b""))
            ann.link.open(meeting_id, bob.peer, proposed, LinkKind.GRPC_REVERSED)
            await bob.messages.get()
            bob.bells.take(ann.peer)
            assert await ann.events.get() == BellsHeld(peers=())
            bob.link.send(meeting_id, Answer(meeting_id=meeting_id, parts=(b"2", b""), progress_steps=0.0))
            assert isinstance(await ann.messages.get(), Answer)
            assert ann.failures.empty()

    run(scenario())


class _OneWriteAtATime:
    """The stream of a bell as gRPC has it: a write that begins before the last one is done breaks it."""

    def __init__(self, record: bytes) -> None:
        self.written: list[bytes] = []
        self.may_write = asyncio.Event()
        self._records = [meeting_pb2.BellRequest.FromString(b"")]
        self._records[0].member.MergeFromString(record)
        self._is_writing = False

    async def read(self) -> bytes:
        if self._records:
            return self._records.pop().SerializeToString()
        silence: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        return await silence

    async def write(self, frame: bytes) -> None:
        if self._is_writing:
            raise asyncio.InvalidStateError
        self._is_writing = True
        await self.may_write.wait()
        self.written.append(frame)
        self._is_writing = False


async def _let_others_run() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_bell_may_be_rung_while_it_is_told_that_it_hangs() -> None:
    """The incident: on a busy machine its owner heard the empty ring before the write of it was done, and a second one broke the stream."""

    async def scenario() -> None:
        bob = somebody(2)

        async def caller(_: object) -> Any:
            return bob.peer_id

        held = HeldBells(
            caller=caller,
            verify=verify,
            on_member=lambda _: None,
            on_event=lambda _: None,
            on_refused=lambda *_: None,
            max_bells=1,
        )
        stream: Any = _OneWriteAtATime(signed_record(bob))
        holding = asyncio.create_task(held.hold(None, stream))
        await _let_others_run()
        ringing = asyncio.create_task(held.ring_for_state(bob.peer_id).__aenter__())
        await _let_others_run()
        stream.may_write.set()
        await _let_others_run()
        rings = [meeting_pb2.Ring.FromString(data) for data in stream.written]
        for task in (ringing, holding):
            task.cancel()
            with suppress(asyncio.CancelledError, LinkError):
                await task

        assert [ring.wants_state for ring in rings] == [False, True]

    run(scenario())
