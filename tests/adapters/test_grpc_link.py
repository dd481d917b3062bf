"""The link between two nodes, over real sockets on loopback."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from lowcomm_node.adapters.grpc_endpoints import GrpcServer
from lowcomm_node.adapters.grpc_transports import MEET, ClientTransport
from lowcomm_node.core.messages import (
    Answer,
    Busy,
    Close,
    Confirm,
    Message,
    Offer,
    Refusal,
    StreamPlan,
    Verdict,
)
from lowcomm_node.errors import LinkError, RefusalReason
from lowcomm_node.units import Codec, Dtype, MeetingId, PeerId, RunId, Stream
from lowcomm_node.wire.frames import decode_frame, to_frames
from tests.adapters.nodes import RUN, LinkNode, Port, calling, link_nodes, run, some_peer, somebody

PLANS = (
    StreamPlan(stream=Stream.PARAMS, codec=Codec.AB, dtype=Dtype.BF16, ranks=(2, -1, 0)),
    StreamPlan(stream=Stream.EXP_AVG_SQ, codec=Codec.RANK1, dtype=Dtype.FP32, ranks=(1, -1, 1)),
)


def offer(meeting_id: MeetingId, sender: PeerId, receiver: PeerId, parts: tuple[bytes, bytes]) -> Offer:
    return Offer(
        meeting_id=meeting_id,
        run_id=RUN,
        protocol_version=1,
        sender=sender,
        receiver=receiver,
        plans=PLANS,
        parts=parts,
        progress_steps=7.5,
    )


async def meet_raw(node: LinkNode, frames: list[bytes], *, half_close: bool = True) -> list[bytes]:
    """Speak to a node as a peer (number 5) that need not follow the protocol; returns the frames it answers."""
    async with calling(somebody(5), node.port.member) as lent, ClientTransport.call(lent, MEET) as transport:
        call = transport._call
        for frame in frames:
            await call.write(frame)
        if half_close:
            await call.done_writing()
        return [frame async for frame in call]


def test_a_whole_meeting_crosses_in_both_directions(meeting_id: MeetingId) -> None:
    """Every message arrives as it was sent, and the payload is counted per stream and codec on both ends."""

    async def scenario() -> None:
        async with link_nodes(2) as (ann, bob):
            sent = offer(meeting_id, ann.peer, bob.peer, (b"x" * 300_000, b"y" * 10))
            answer = Answer(meeting_id=meeting_id, parts=(b"a" * 70_000, b"b"), progress_steps=8.0)
            close = Close(meeting_id=meeting_id, parts=(b"c" * 600_000, b""))

            ann.link.open(meeting_id, bob.peer, sent)
            assert await bob.messages.get() == sent
            bob.link.send(meeting_id, answer)
            assert await ann.messages.get() == answer
            ann.link.send(meeting_id, close)
            assert await bob.messages.get() == close
            bob.link.send(meeting_id, Verdict(meeting_id=meeting_id, applied=True))
            assert await ann.messages.get() == Verdict(meeting_id=meeting_id, applied=True)
            ann.link.send(meeting_id, Confirm(meeting_id=meeting_id))
            assert await bob.messages.get() == Confirm(meeting_id=meeting_id)
            bob.link.send(meeting_id, Confirm(meeting_id=meeting_id))
            bob.link.close(meeting_id)
            assert await ann.messages.get() == Confirm(meeting_id=meeting_id)
            ann.link.close(meeting_id)

            params, moments = (Stream.PARAMS, Codec.AB), (Stream.EXP_AVG_SQ, Codec.RANK1)
            assert ann.bytes["sent", *params] == bob.bytes["received", *params] == 900_000
            assert ann.bytes["sent", *moments] == bob.bytes["received", *moments] == 10
            assert bob.bytes["sent", *params] == ann.bytes["received", *params] == 70_000
            assert bob.bytes["sent", *moments] == ann.bytes["received", *moments] == 1
            assert 0 < ann.overhead["sent"] == bob.overhead["received"] < 2000
        assert ann.failures.empty()
        assert bob.failures.empty()

    run(scenario())


def test_eight_mebibytes_arrive_whole(meeting_id: MeetingId) -> None:
    """A payload of many chunks arrives bit for bit."""

    async def scenario() -> None:
        async with link_nodes(2) as (ann, bob):
            payload = bytes(range(256)) * (8 << 12)
            ann.link.open(meeting_id, bob.peer, offer(meeting_id, ann.peer, bob.peer, (payload, b"")))
            received = await bob.messages.get()
            assert isinstance(received, Offer)
            assert received.parts == (payload, b"")

    run(scenario())


def test_a_retry_replaces_the_older_connection(meeting_id: MeetingId) -> None:
    """When a meeting is dialled again, answers go to the newest connection and the older one fails nothing."""

    async def scenario() -> None:
        async with link_nodes(2) as (ann, bob):
            first = offer(meeting_id, ann.peer, bob.peer, (b"1", b""))
            ann.link.open(meeting_id, bob.peer, first)
            await bob.messages.get()
            ann.link.open(meeting_id, bob.peer, Close(meeting_id=meeting_id, parts=(b"2", b"")))
            assert isinstance(await bob.messages.get(), Close)
            bob.link.send(meeting_id, Verdict(meeting_id=meeting_id, applied=False, reason=RefusalReason.EXPIRED))
            verdict = await ann.messages.get()
            assert isinstance(verdict, Verdict)
            assert verdict.reason is RefusalReason.EXPIRED
            assert ann.failures.empty()

    run(scenario())


def test_busy_ends_the_stream_and_another_partner_is_asked_under_the_same_id(meeting_id: MeetingId) -> None:
    """After Busy the meeting moves on to the next peer; the end of the first stream is no failure."""

    async def scenario() -> None:
        async with link_nodes(3) as (ann, bob, eve):

            def say_busy(message: Message) -> None:
                bob.link.send(meeting_id, Busy(meeting_id=meeting_id))
                bob.link.close(meeting_id)

            bob.answer = say_busy
            ann.link.open(meeting_id, bob.peer, offer(meeting_id, ann.peer, bob.peer, (b"1", b"")))
            assert await ann.messages.get() == Busy(meeting_id=meeting_id)
            ann.link.close(meeting_id)
            ann.link.open(meeting_id, eve.peer, offer(meeting_id, ann.peer, eve.peer, (b"1", b"")))
            await eve.messages.get()
            eve.link.send(meeting_id, Answer(meeting_id=meeting_id, parts=(b"2", b""), progress_steps=0.0))
            assert isinstance(await ann.messages.get(), Answer)
            assert ann.failures.empty()
            assert bob.failures.empty()

    run(scenario())


def test_a_full_house_says_busy(meeting_id: MeetingId) -> None:
    """A node that serves as many streams as it may answers busy and hears nothing of the offer."""

    async def scenario() -> None:
        async with link_nodes(2, max_incoming=1) as (ann, bob):
            other = MeetingId("ff" * 16)
            ann.link.open(meeting_id, bob.peer, offer(meeting_id, ann.peer, bob.peer, (b"1", b"")))
            await bob.messages.get()
            ann.link.open(other, bob.peer, offer(other, ann.peer, bob.peer, (b"1", b"")))
            assert await ann.messages.get() == Busy(meeting_id=other)
            assert bob.messages.empty()

    run(scenario())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"run_id": RunId("cd" * 32)}, RefusalReason.WRONG_RUN),
        ({"protocol_version": 2}, RefusalReason.WRONG_PROTOCOL),
        ({"receiver": some_peer(9)}, RefusalReason.WRONG_RECEIVER),
        ({"sender": some_peer(9)}, RefusalReason.WRONG_SENDER),
        ({"parts": (b"z" * (17 << 20), b"")}, RefusalReason.OVERSIZED),
    ],
)
def test_an_offer_that_cannot_be_taken_is_refused_by_name(
    meeting_id: MeetingId, change: dict[str, Any], reason: RefusalReason
) -> None:
    """The initiator learns the reason; the answering node's core sees nothing, and the refusal is counted."""

    async def scenario() -> None:
        async with link_nodes(2) as (ann, bob):
            bad = replace(offer(meeting_id, ann.peer, bob.peer, (b"1", b"")), **change)
            ann.link.open(meeting_id, bob.peer, bad)
            assert await ann.messages.get() == Refusal(meeting_id=meeting_id, reason=reason)
            assert bob.refused == [reason]
            assert bob.messages.empty()

    run(scenario())


def test_a_flipped_bit_is_refused(meeting_id: MeetingId) -> None:
    """A payload that is not what its digest says is never delivered."""

    async def scenario() -> None:
        async with link_nodes(1) as (bob,):
            frames = [f.SerializeToString() for f in to_frames(offer(meeting_id, some_peer(5), bob.peer, (b"12", b"")))]
            frames[1] = frames[1].replace(b"12", b"13")
            (answer,) = await meet_raw(bob, frames)
            assert decode_frame(answer).refusal.reason == 6
            assert bob.refused == [RefusalReason.CHECKSUM]
            assert bob.messages.empty()

    run(scenario())


def test_garbage_ends_the_stream_and_the_node_lives(meeting_id: MeetingId) -> None:
    """Bytes that are no frame are counted as malformed, and the next meeting works."""

    async def scenario() -> None:
        async with link_nodes(2) as (ann, bob):
            assert await meet_raw(bob, [b"\xff\xff\xff"]) == []
            assert bob.refused == [RefusalReason.MALFORMED]
            ann.link.open(meeting_id, bob.peer, offer(meeting_id, ann.peer, bob.peer, (b"1", b"")))
            assert isinstance(await bob.messages.get(), Offer)

    run(scenario())


def test_a_message_under_way_is_a_sign_of_life_at_both_ends(meeting_id: MeetingId) -> None:
    """Deadlines count silence: who sends and who receives a large payload hears that it moves, a few times a second at most."""

    async def scenario() -> None:
        async with link_nodes(2) as (ann, bob):
            sent = offer(meeting_id, ann.peer, bob.peer, (b"x" * 5_000_000, b""))
            started_at = asyncio.get_running_loop().time()
            ann.link.open(meeting_id, bob.peer, sent)
            assert await bob.messages.get() == sent

            most = 1 + 4 * (asyncio.get_running_loop().time() - started_at)
            for node in (ann, bob):
                assert set(node.progressed) == {meeting_id}
                assert len(node.progressed) <= most

    run(scenario())


def test_a_truncated_message_is_not_delivered(meeting_id: MeetingId) -> None:
    """A peer that ends in mid payload leaves no message; a meeting under way is told that it lost its link."""

    async def scenario() -> None:
        async with link_nodes(1) as (bob,):
            whole = [f.SerializeToString() for f in to_frames(offer(meeting_id, some_peer(5), bob.peer, (b"1", b"")))]
            big = Close(meeting_id=meeting_id, parts=(b"x" * 600_000, b""))
            cut = [f.SerializeToString() for f in to_frames(big)][:2]
            await meet_raw(bob, whole + cut)
            assert isinstance(await bob.messages.get(), Offer)
            assert await bob.failures.get() == (meeting_id, "disconnect")
            assert bob.messages.empty()

    run(scenario())


def test_a_stalled_partner_times_out(meeting_id: MeetingId) -> None:
    """A peer that takes the offer and then says nothing costs a bounded time, on both ends."""

    async def scenario() -> None:
        async with link_nodes(2, stall_timeout_s=0.3) as (ann, bob):
            ann.link.open(meeting_id, bob.peer, offer(meeting_id, ann.peer, bob.peer, (b"1", b"")))
            assert await ann.failures.get() == (meeting_id, "timeout")
            assert (await bob.failures.get())[0] == meeting_id

    run(scenario())


def test_a_peer_that_stalls_in_mid_message_times_out(meeting_id: MeetingId) -> None:
    """Half an offer holds a stream only for a bounded time."""

    async def scenario() -> None:
        async with link_nodes(1, stall_timeout_s=0.3) as (bob,):
            big = offer(meeting_id, some_peer(5), bob.peer, (b"x" * 600_000, b""))
            cut = [f.SerializeToString() for f in to_frames(big)][:2]
            assert await meet_raw(bob, cut, half_close=False) == []
            assert bob.messages.empty()

    run(scenario())


def test_nobody_at_the_address_is_unreachable(meeting_id: MeetingId) -> None:
    """A refused connection is reported as unreachable, not as a lost one."""

    async def scenario() -> None:
        async with link_nodes(2) as (ann, bob):
            await bob.port.server.stop(0)
            ann.link.open(meeting_id, bob.peer, offer(meeting_id, ann.peer, bob.peer, (b"1", b"")))
            assert await ann.failures.get() == (meeting_id, "unreachable")

    run(scenario())


def test_a_partner_that_goes_down_disconnects(meeting_id: MeetingId) -> None:
    """The initiator of a meeting notices that the answerer's server is gone."""

    async def scenario() -> None:
        async with link_nodes(2) as (ann, bob):
            ann.link.open(meeting_id, bob.peer, offer(meeting_id, ann.peer, bob.peer, (b"1", b"")))
            await bob.messages.get()
            await bob.port.server.stop(0)
            assert await ann.failures.get() == (meeting_id, "disconnect")

    run(scenario())


def test_an_initiator_that_gives_up_disconnects(meeting_id: MeetingId) -> None:
    """Closing before the answer came ends the stream on the answerer too."""

    async def scenario() -> None:
        async with link_nodes(2) as (ann, bob):
            ann.link.open(meeting_id, bob.peer, offer(meeting_id, ann.peer, bob.peer, (b"1", b"")))
            await bob.messages.get()
            ann.link.close(meeting_id)
            assert await bob.failures.get() == (meeting_id, "disconnect")
            assert ann.failures.empty()

    run(scenario())


def test_a_port_in_use_names_the_setting() -> None:
    """Two nodes never share a port without a word, and the error says which setting to change."""

    async def scenario() -> None:
        first = GrpcServer(host="127.0.0.1", port=0, certificate=None)
        port = await first.start([])
        second = GrpcServer(host="127.0.0.1", port=port, certificate=None)
        with pytest.raises(LinkError, match=rf"127\.0\.0\.1:{port}.*network\.grpc_port"):
            await second.start([])
        await first.stop(0)

    run(scenario())


def test_what_a_left_partner_still_says_is_not_heard(meeting_id: MeetingId) -> None:
    """Once the meeting has moved on, an answer of the partner before must not be taken for the new partner's."""

    async def scenario() -> None:
        async with link_nodes(3) as (ann, bob, eve):
            ann.link.open(meeting_id, bob.peer, offer(meeting_id, ann.peer, bob.peer, (b"1", b"")))
            await bob.messages.get()
            bob.link.send(meeting_id, Busy(meeting_id=meeting_id))
            assert isinstance(await ann.messages.get(), Busy)
            ann.link.close(meeting_id)
            ann.link.open(meeting_id, eve.peer, offer(meeting_id, ann.peer, eve.peer, (b"1", b"")))
            bob.link.send(meeting_id, Answer(meeting_id=meeting_id, parts=(b"bob", b""), progress_steps=0.0))
            await eve.messages.get()
            eve.link.send(meeting_id, Answer(meeting_id=meeting_id, parts=(b"eve", b""), progress_steps=0.0))
            answer = await ann.messages.get()
            assert isinstance(answer, Answer)
            assert answer.parts == (b"eve", b"")

    run(scenario())


def test_a_partner_that_has_moved_is_found_again(meeting_id: MeetingId) -> None:
    """A retry goes to the address of the newest record, whatever channel there was before."""

    async def scenario() -> None:
        async with link_nodes(2) as (ann, bob):
            ann.link.open(meeting_id, bob.peer, offer(meeting_id, ann.peer, bob.peer, (b"1", b"")))
            await bob.messages.get()
            await bob.port.server.stop(0)
            bob.port = Port(bob.identity)
            await bob.start()
            ann.contacts.learn(replace(bob.port.member, expires_at=2e10))
            ann.link.open(meeting_id, bob.peer, offer(meeting_id, ann.peer, bob.peer, (b"2", b"")))
            again = await bob.messages.get()
            assert isinstance(again, Offer)
            assert again.parts == (b"2", b"")
            assert len(ann.channels) == 1

    run(scenario())


def test_nobody_speaks_in_a_meeting_of_others(meeting_id: MeetingId) -> None:
    """Whoever has got hold of a meeting's id can neither end it nor hear its verdict."""

    async def scenario() -> None:
        async with link_nodes(3) as (ann, bob, eve):
            ann.link.open(meeting_id, bob.peer, offer(meeting_id, ann.peer, bob.peer, (b"1", b"")))
            await bob.messages.get()
            messages: tuple[Message, ...] = (
                Close(meeting_id=meeting_id, parts=(b"", b"")),
                offer(meeting_id, eve.peer, bob.peer, (b"2", b"")),
                Confirm(meeting_id=meeting_id),
            )
            for number, message in enumerate(messages, 1):
                eve.link.open(meeting_id, bob.peer, message)
                refusal = Refusal(meeting_id=meeting_id, reason=RefusalReason.WRONG_SENDER)
                assert await eve.messages.get() == refusal
                assert bob.refused == [RefusalReason.WRONG_SENDER] * number
            assert bob.messages.empty()
            answer = Answer(meeting_id=meeting_id, parts=(b"a", b"b"), progress_steps=8.0)
            bob.link.send(meeting_id, answer)
            assert await ann.messages.get() == answer

    run(scenario())
