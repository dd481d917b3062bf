"""Measuring the line to a member, over real sockets on loopback."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from lowcomm_node.adapters.contacts import Contacts
from lowcomm_node.adapters.grpc_endpoints import ChannelCache
from lowcomm_node.adapters.line import Line
from lowcomm_node.adapters.probe import ProbeService, ask_echo, host_of, measure_line
from lowcomm_node.adapters.tcp import resent_share
from lowcomm_node.daemon.doctor.peers import nat_of
from lowcomm_node.errors import LinkError
from lowcomm_node.wire.gen.lowcomm.v1 import probe_pb2
from tests.adapters.nodes import Port, channels_of, run, some_peer, somebody

_PEER = some_peer(1)


@asynccontextmanager
async def probed(line: Line) -> AsyncIterator[tuple[ChannelCache, int]]:
    """A member that can be measured, and channels of somebody else that lead to it."""
    port = Port(somebody(1))
    member = await port.start(ProbeService(line, caller=port.door.caller).handler())
    contacts = Contacts()
    contacts.learn(member)
    channels = channels_of(somebody(2), contacts)
    try:
        yield channels, int(member.grpc_address.rpartition(":")[2])
    finally:
        await channels.close()
        await port.server.stop(0.1)


def test_everything_is_measured_and_counted() -> None:
    """Rates both ways, the round trip, the address as seen; the bytes are the member's own line's."""

    async def scenario() -> None:
        line = Line()
        async with probed(line) as (channels, port):
            found = await measure_line(channels, _PEER)
            assert found.seen_as == "127.0.0.1"
            assert 0 < found.rtt_s < 5
            assert found.up_bytes_per_s > 0
            assert found.down_bytes_per_s > 0
            assert line.received_bytes == pytest.approx(4 << 20, rel=0.01)
            assert line.sent_bytes == pytest.approx(4 << 20, rel=0.01)
            assert 0.0 <= (resent_share(port) or 0.0) < 1.0

    run(scenario())


def test_an_echo_tells_how_far_away_a_member_is_and_what_its_clock_says() -> None:
    """On one computer the clocks are the same, to half the round trip. Only who is connected already is named."""

    async def scenario() -> None:
        async with probed(Line()) as (channels, _):
            assert channels.connected() == []
            echo = await ask_echo(channels, _PEER)
            assert channels.connected() == [_PEER]
            assert echo.rtt_s > 0
            assert echo.ahead_s is not None
            assert abs(echo.ahead_s) <= echo.rtt_s

    run(scenario())


def test_a_member_is_not_measured_too_often_nor_on_a_closed_line() -> None:
    """Three measurements are six transfers; the next one is told to wait, and so is everybody while the line is closed."""

    async def scenario() -> None:
        line = Line(up_bytes_per_s=1e9, down_bytes_per_s=1e9)
        async with probed(line) as (channels, _):
            line.is_open = False
            with pytest.raises(LinkError) as closed:
                await measure_line(channels, _PEER)
            assert closed.value.reason == "busy"
            line.is_open = True
            for _ in range(3):
                await measure_line(channels, _PEER)
            with pytest.raises(LinkError) as often:
                await measure_line(channels, _PEER)
            assert often.value.reason == "busy"

    run(scenario())


def test_an_endless_upload_is_cut_off() -> None:
    """Twice the most that an honest asker sends; the member goes on serving."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(256 << 10)

    async def scenario() -> None:
        line = Line()
        async with probed(line) as (channels, _):
            async with channels.lend(_PEER) as lent:
                upload: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = lent.channel.stream_unary(
                    "/lowcomm.v1.Probe/Upload"
                )
                report = probe_pb2.UploadReport.FromString(await upload(endless(), metadata=lent.metadata))
            assert 8 << 20 < report.bytes < 9 << 20
            assert line.received_bytes < 16 << 20
            assert (await measure_line(channels, _PEER)).rtt_s > 0

    run(scenario())


def test_loss_is_none_without_a_connection() -> None:
    assert resent_share(1) is None


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:203.0.113.5:4711", "203.0.113.5"),
        ("ipv6:%5B::1%5D:4711", "::1"),
        ("ipv6:%5B::ffff:10.0.0.1%5D:1", "10.0.0.1"),
    ],
)
def test_hosts_are_read_from_connections(peer: str, host: str) -> None:
    assert host_of(peer) == host


@pytest.mark.parametrize(
    ("seen_as", "own", "nat"),
    [
        ("203.0.113.5", ("127.0.0.1", "203.0.113.5"), "none"),
        ("203.0.113.5", ("127.0.0.1", "192.168.1.2"), "behind"),
        ("203.0.113.5", ("127.0.0.1", "100.72.1.2"), "carrier-grade"),
        ("nonsense", ("192.168.1.2", "fe80::1"), "behind"),
    ],
)
def test_a_nat_is_told_by_the_addresses(seen_as: str, own: tuple[str, ...], nat: str) -> None:
    assert nat_of(seen_as, own) == nat
