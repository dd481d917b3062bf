"""Connections between nodes: encrypted, to the right one, from the right one. And those who try otherwise."""

import asyncio
import math
import ssl
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest

from lowcomm_node.adapters import channel_service
from lowcomm_node.adapters.contacts import Contacts
from lowcomm_node.adapters.grpc_endpoints import ChannelCache, Lent
from lowcomm_node.adapters.introduction import Introduction
from lowcomm_node.core.events import Member
from lowcomm_node.core.versions import SPOKEN, Versions
from lowcomm_node.errors import LinkError, RefusalReason, RemoteProtocolError
from lowcomm_node.settings.manifest import SecurityConfig
from lowcomm_node.units import PeerId, RunId
from lowcomm_node.wire.admission import Invitation
from lowcomm_node.wire.certificate import TARGET_NAME, certificate_der, certificate_pem
from lowcomm_node.wire.channel import CHANNEL_SERVICE, NONCE_BYTES, PROVE, TOKEN_KEY, Claim, write_proof
from lowcomm_node.wire.limits import MAX_REQUEST_BYTES
from tests.adapters.nodes import RUN, Port, calling, channels_of, membership, run, somebody

ANN, BOB, EVE = somebody(1), somebody(2), somebody(3)
ASK = "/test.Echo/Ask"
PROVE_PATH = f"/{CHANNEL_SERVICE}/{PROVE}"


class Echo:
    """A service that says who asks; it writes down what it has read."""

    def __init__(self, port: Port) -> None:
        self.port = port
        self.read: list[bytes] = []

    def handler(self) -> grpc.GenericRpcHandler:
        ask: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(self._ask)
        return grpc.method_handlers_generic_handler("test.Echo", {"Ask": ask})

    async def _ask(self, data: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        peer = await self.port.door.caller(context)
        self.read.append(data)
        return peer.encode()


def with_bob(scenario: "Any", **options: Any) -> None:
    """Run ``scenario(port, echo)`` with Bob's port open, and see that Bob still answers afterwards."""

    async def told() -> None:
        port = Port(BOB, **options)
        echo = Echo(port)
        try:
            await port.start(echo.handler())
            await scenario(port, echo)
            async with calling(somebody(9), port.member) as lent:
                assert await ask(lent) == somebody(9).peer_id
            while len(port.door._calls):  # noqa: ASYNC110 - each call has given its place back
                await asyncio.sleep(0)
        finally:
            await port.server.stop(0)

    run(told())


async def ask(lent: Lent, data: bytes = b"hello") -> str:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = lent.channel.unary_unary(ASK)
    return (await call(data, metadata=lent.metadata, timeout=5)).decode()


def raw_channel(member: Member) -> grpc.aio.Channel:
    """Bob's certificate is believed, and nothing is proven."""
    credentials = grpc.ssl_channel_credentials(certificate_pem(certificate_der(member.certificate)))
    options = (("grpc.ssl_target_name_override", TARGET_NAME), ("grpc.max_send_message_length", 1 << 30))
    return grpc.aio.secure_channel(member.grpc_address, credentials, options=options)


async def status_of(call: Coroutine[Any, Any, Any] | Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def refusal_of(lending: Any) -> RefusalReason:
    with pytest.raises(RemoteProtocolError) as caught:
        async with lending:
            pass
    return caught.value.reason


def proof(**changes: Any) -> bytes:
    """Ann's, for Bob, as it should be but for the changes."""
    signer = changes.pop("signer", ANN)
    claim = Claim(
        versions=SPOKEN,
        run_id=RUN,
        sender=ANN.peer_id,
        receiver=BOB.peer_id,
        certificate_sha256=Port(BOB).certificate.sha256,  # type: ignore[union-attr]
        nonce=bytes(NONCE_BYTES),
        issued_at=time.time(),
    )
    return write_proof(replace(claim, **changes), signer.sign)


def test_each_end_knows_the_other() -> None:
    """The service learns who calls, over TLS 1.3; a second call needs no second proof."""

    async def scenario(port: Port, echo: Echo) -> None:
        async with calling(ANN, port.member) as lent:
            assert await ask(lent) == ANN.peer_id
            assert await ask(lent) == ANN.peer_id
        host, _, number = port.member.grpc_address.rpartition(":")
        context = ssl.create_default_context(cadata=certificate_pem(certificate_der(port.member.certificate)).decode())
        context.set_alpn_protocols(["h2"])
        _, writer = await asyncio.open_connection(host, int(number), ssl=context, server_hostname=TARGET_NAME)
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
        writer.close()
        assert port.refused == []

    with_bob(scenario)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"signer": EVE}, RefusalReason.CHECKSUM),  # the wrong key
        ({"sender": EVE.peer_id}, RefusalReason.CHECKSUM),
        ({"receiver": EVE.peer_id}, RefusalReason.WRONG_RECEIVER),  # a proof for somebody else, passed on
        ({"certificate_sha256": bytes(32)}, RefusalReason.CHECKSUM),  # one that a man in the middle was given
        ({"run_id": RunId("cd" * 32)}, RefusalReason.WRONG_RUN),
        ({"versions": Versions(oldest=2, newest=3)}, RefusalReason.WRONG_PROTOCOL),
        ({"versions": Versions(oldest=0, newest=0), "run_id": RunId("")}, RefusalReason.WRONG_PROTOCOL),
        ({"nonce": b""}, RefusalReason.MALFORMED),
        ({"issued_at": math.nan}, RefusalReason.MALFORMED),
        ({"issued_at": 1.7e9}, RefusalReason.EXPIRED),
        ({"issued_at": 1.7e11}, RefusalReason.EXPIRED),
    ],
)
def test_a_false_proof_is_refused_by_name(changes: dict[str, Any], reason: RefusalReason) -> None:
    """Nobody becomes somebody else, and each reason is counted."""

    async def scenario(port: Port, echo: Echo) -> None:
        async with raw_channel(port.member) as channel:
            prove: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PROVE_PATH)
            code, details = await status_of(prove(proof(**changes)))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert details.startswith(f"{reason.value}: ")
        assert port.refused == [reason]

    with_bob(scenario)


def test_a_proof_counts_once() -> None:
    """Who has overheard one and says it again is refused."""

    async def scenario(port: Port, echo: Echo) -> None:
        overheard = proof()
        async with raw_channel(port.member) as channel:
            prove: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PROVE_PATH)
            await prove(overheard)
            assert (await status_of(prove(overheard)))[1].startswith("replayed: ")
        assert port.refused == [RefusalReason.REPLAYED]

    with_bob(scenario)


@pytest.mark.parametrize("metadata", [(), ((TOKEN_KEY, b""),), ((TOKEN_KEY, bytes(32)),)])
def test_without_a_token_nothing_is_read(metadata: tuple[tuple[str, bytes], ...]) -> None:
    """A call is over before its payload has arrived."""

    async def scenario(port: Port, echo: Echo) -> None:
        async with raw_channel(port.member) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ASK)
            code, details = await status_of(call(bytes(MAX_REQUEST_BYTES // 2), metadata=metadata))
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert details.startswith("unproven: ")
        assert echo.read == []
        assert port.refused == [RefusalReason.UNPROVEN]

    with_bob(scenario)


def test_a_token_of_another_connection_is_worth_nothing() -> None:
    """Not even to the peer it was given to, and to nobody else."""

    async def scenario(port: Port, echo: Echo) -> None:
        async with (
            calling(ANN, port.member) as anns,
            calling(EVE, port.member) as eves,
            raw_channel(port.member) as other,
        ):
            for channel in (eves.channel, other):
                stolen = Lent(channel=channel, metadata=anns.metadata)
                with pytest.raises(grpc.aio.AioRpcError, match="unproven"):
                    await ask(stolen)
            assert await ask(anns) == ANN.peer_id
        assert echo.read == [b"hello"]
        assert port.refused == [RefusalReason.UNPROVEN] * 2

    with_bob(scenario)


def test_a_swapped_certificate_is_refused() -> None:
    """Who answers at Bob's address with a certificate of his own gets not a word, and it is known why."""

    async def scenario() -> None:
        mallory, refused = Port(EVE), []
        contacts = Contacts()
        member = await mallory.start()
        contacts.learn(replace(member, peer=BOB.peer_id, certificate=Port(BOB).member.certificate))
        contacts.learn(member)

        def count(peer: PeerId, error: RemoteProtocolError) -> None:
            refused.append((peer, error.reason))

        channels = channels_of(ANN, contacts, on_refused=count)
        try:
            assert await refusal_of(channels.lend(BOB.peer_id)) is RefusalReason.WRONG_CERTIFICATE
            assert refused == [(BOB.peer_id, RefusalReason.WRONG_CERTIFICATE)]
            assert len(channels) == 0
            async with channels.lend(EVE.peer_id):
                pass
        finally:
            await channels.close()
            await mallory.server.stop(0)

    run(scenario())


def test_a_certificate_under_another_peers_name_is_refused() -> None:
    """A record that leads to somebody else's port and certificate: who answers there is not whom we mean."""

    async def scenario(port: Port, echo: Echo) -> None:
        contacts = Contacts()
        contacts.learn(replace(port.member, peer=EVE.peer_id))
        channels = channels_of(ANN, contacts)
        try:
            assert await refusal_of(channels.lend(EVE.peer_id)) is RefusalReason.WRONG_RECEIVER
        finally:
            await channels.close()
        assert port.refused == [RefusalReason.WRONG_RECEIVER]

    with_bob(scenario)


def test_a_newer_node_is_told_what_to_do() -> None:
    """Versions are looked at first, and both are named, with the cure."""

    async def scenario(port: Port, echo: Echo) -> None:
        async with raw_channel(port.member) as channel:
            introduction = Introduction(ANN, Versions(oldest=7, newest=9))
            introduction.enter(membership())
            assert port.certificate is not None
            with pytest.raises(
                RemoteProtocolError, match="speaks protocol 1, the other end speaks 7 to 9: install an older"
            ):
                await introduction.make(channel, BOB.peer_id, port.certificate.sha256, 5.0)

    with_bob(scenario)


def test_lengths_are_bounded_at_the_door() -> None:
    """Too large a proof, and a length that would not fit any memory, cost the node nothing."""

    async def scenario(port: Port, echo: Echo) -> None:
        async with raw_channel(port.member) as channel:
            prove: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PROVE_PATH)
            assert (await status_of(prove(bytes(4096))))[1].startswith("oversized: ")
            code, _ = await status_of(prove(bytes(MAX_REQUEST_BYTES + 1)))
            assert code is not grpc.StatusCode.FAILED_PRECONDITION
            lying = b"\x22\xff\xff\xff\xff\x0f" + b"x"  # the sender has four gigabytes, it says
            assert (await status_of(prove(lying)))[1].startswith("malformed: ")
        assert port.refused[0] is RefusalReason.OVERSIZED
        assert port.refused[-1] is RefusalReason.MALFORMED

    with_bob(scenario)


def test_whoever_says_nothing_leaves_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls without a word hold no place for long."""
    monkeypatch.setattr(channel_service, "_PATIENCE_S", 0.05)

    async def scenario(port: Port, echo: Echo) -> None:
        async with raw_channel(port.member) as channel:
            calls: list[grpc.aio.StreamStreamCall[bytes, bytes]] = [
                channel.stream_stream(PROVE_PATH)() for _ in range(20)
            ]
            ended = [await call.code() for call in calls]
        assert set(ended) == {grpc.StatusCode.DEADLINE_EXCEEDED}
        assert not len(port.door._at_the_door)

    with_bob(scenario)


def test_the_door_has_room_for_so_many_of_one_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes when all places are taken is told so at once; the places are free again when they are left."""
    monkeypatch.setattr(channel_service, "_MAX_AT_THE_DOOR_PER_HOST", 2)

    async def scenario(port: Port, echo: Echo) -> None:
        async with raw_channel(port.member) as channel:
            silent: list[grpc.aio.StreamStreamCall[bytes, bytes]] = [
                channel.stream_stream(PROVE_PATH)() for _ in range(2)
            ]
            while len(port.door._at_the_door) < len(silent):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0)
            turned_away: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(PROVE_PATH)()
            assert await turned_away.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert port.refused == [RefusalReason.TOO_MANY]
            for call in silent:
                call.cancel()
            while len(port.door._at_the_door):  # noqa: ASYNC110
                await asyncio.sleep(0)

    with_bob(scenario)


async def lend_for_ever(channels: ChannelCache, peer: PeerId) -> None:
    """That the far end has gone is known a moment later."""
    while True:
        async with channels.lend(peer):
            await asyncio.sleep(0.01)


def test_a_connection_made_anew_is_proven_anew() -> None:
    """The server was started again: the old token is nothing to it, and the next call works all the same."""

    async def scenario() -> None:
        contacts = Contacts()
        channels = channels_of(ANN, contacts)
        first = Port(BOB)
        try:
            contacts.learn(await first.start(Echo(first).handler()))
            async with channels.lend(BOB.peer_id) as lent:
                assert await ask(lent) == ANN.peer_id
            number = int(first.member.grpc_address.rpartition(":")[2])
            await first.server.stop(0)
            with pytest.raises(LinkError, match="unreachable"):
                await lend_for_ever(channels, BOB.peer_id)
            first = Port(BOB, port=number)
            await first.start(Echo(first).handler())
            async with channels.lend(BOB.peer_id) as lent:
                assert await ask(lent) == ANN.peer_id
            assert first.refused == []
        finally:
            await channels.close()
            await first.server.stop(0)

    run(scenario())


def test_without_tls_only_on_this_computer_and_only_when_told_so() -> None:
    """Nodes that have it off prove who they are as well, and a node that has it on does not talk to them."""

    async def scenario(port: Port, echo: Echo) -> None:
        contacts = Contacts()
        contacts.learn(port.member)
        contacts.learn(replace(port.member, peer=EVE.peer_id, grpc_address="192.0.2.1:7"))
        strict, lax = channels_of(ANN, contacts), channels_of(ANN, contacts, allow_plaintext=True)
        try:
            async with lax.lend(BOB.peer_id) as lent:
                assert await ask(lent) == ANN.peer_id
            for channels, peer in ((strict, BOB.peer_id), (lax, EVE.peer_id)):
                with pytest.raises(LinkError, match="no TLS"):
                    async with channels.lend(peer):
                        pass
        finally:
            await strict.close()
            await lax.close()

    with_bob(scenario, tls=False)


def test_only_those_who_are_admitted_get_a_token() -> None:
    """No invitation, one that has ended, one that another peer was given: not a word beyond the proof is read."""
    organiser = somebody(8)
    security = SecurityConfig(admission="invite", organiser=organiser.peer_id)
    now = int(time.time())

    def invited(peer: PeerId, until: int, sign: Any = organiser.sign) -> bytes:
        return Invitation.make(RUN, until, sign, peer=None, secret=bytes(32)).admission_of(peer)

    async def scenario() -> None:
        port = Port(BOB, security=security)
        echo = Echo(port)
        try:
            await port.start(echo.handler())
            for admission in (
                b"",
                invited(ANN.peer_id, now - 1),
                invited(EVE.peer_id, now + 60),
                invited(ANN.peer_id, now + 60, EVE.sign),
            ):
                assert await refusal_of(calling(ANN, port.member, admission)) is RefusalReason.NOT_ADMITTED
            async with calling(ANN, port.member, invited(ANN.peer_id, now + 60)) as lent:
                assert await ask(lent) == ANN.peer_id
            async with calling(organiser, port.member) as lent:
                assert await ask(lent) == organiser.peer_id
        finally:
            await port.server.stop(0)
        assert port.refused == [RefusalReason.NOT_ADMITTED] * 4
        assert echo.read == [b"hello"] * 2

    run(scenario())


def test_a_quarantined_peer_is_left_alone() -> None:
    """It is not let in, its tokens are worth nothing any more, and it is not called either; others are."""

    async def scenario(port: Port, echo: Echo) -> None:
        async with calling(ANN, port.member) as lent:
            now = asyncio.get_running_loop().time()
            for _ in range(3):
                port.quarantine.offended(ANN.peer_id, RefusalReason.MALFORMED, now)
            port.door.end(ANN.peer_id)
            with pytest.raises(grpc.aio.AioRpcError, match="unproven"):
                await ask(lent)
        assert await refusal_of(calling(ANN, port.member)) is RefusalReason.QUARANTINED
        async with calling(EVE, port.member) as lent:
            assert await ask(lent) == EVE.peer_id

        channels = channels_of(EVE, Contacts())
        channels._contacts.learn(port.member)
        for _ in range(3):
            channels._quarantine.offended(BOB.peer_id, RefusalReason.MALFORMED, now)
        with pytest.raises(LinkError, match="left alone for"):
            async with channels.lend(BOB.peer_id):
                pass

    with_bob(scenario)


def test_a_token_that_the_other_end_has_forgotten_is_asked_for_again() -> None:
    """One call fails, and the next one proves itself anew on the same connection."""

    async def ask_in_vain(channels: ChannelCache) -> None:
        async with channels.lend(BOB.peer_id) as lent:
            try:
                await ask(lent)
            except grpc.aio.AioRpcError as error:
                raise LinkError("disconnect", str(error.details())) from error

    async def scenario(port: Port, echo: Echo) -> None:
        contacts = Contacts()
        contacts.learn(port.member)
        channels = channels_of(ANN, contacts)
        try:
            async with channels.lend(BOB.peer_id) as lent:
                await ask(lent)
            port.door.end(ANN.peer_id)
            with pytest.raises(LinkError, match="unproven"):
                await ask_in_vain(channels)
            async with channels.lend(BOB.peer_id) as lent:
                assert await ask(lent) == ANN.peer_id
            assert len(channels) == 1
        finally:
            await channels.close()

    with_bob(scenario)
