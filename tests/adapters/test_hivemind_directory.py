"""The directory, with real p2pd processes on loopback. Each start costs a quarter of a second, so scenarios are long."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import psutil
import pytest

from lowcomm_node.adapters.hivemind_directory import HivemindDirectory
from lowcomm_node.adapters.identity import load_or_create
from lowcomm_node.adapters.p2p_process import split_address
from lowcomm_node.core.events import Member
from lowcomm_node.core.membership import Bucket
from lowcomm_node.core.versions import SPOKEN, Versions
from lowcomm_node.errors import (
    ConfigError,
    DirectoryError,
    DirectoryTimeoutError,
    NoPeerError,
    RefusalReason,
    RemoteProtocolError,
)
from lowcomm_node.settings.manifest import SecurityConfig
from lowcomm_node.settings.node import NetworkSettings
from lowcomm_node.units import RunId
from lowcomm_node.wire.admission import AdmissionRule, Membership
from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2
from lowcomm_node.wire.peer_id import peer_id_to_bytes
from lowcomm_node.wire.records import bucket_key, sign_member
from tests.adapters.nodes import run, some_peer

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning"),  # hivemind finds p2pd that way
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # hivemind leaves its pipes to p2pd to the collector
]

MANIFEST = b'{"name": "test"}'
RUN = RunId(sha256(MANIFEST).hexdigest())
MEMBERSHIP = Membership(
    run_id=RUN, manifest=MANIFEST, protocol_version=1, rule=AdmissionRule.of(SecurityConfig(), RUN), admission=b""
)


def directory(folder: Path, peers: list[str], **settings: object) -> HivemindDirectory:
    return HivemindDirectory(
        identity=load_or_create(folder / "identity.key"),
        settings=NetworkSettings(record_ttl_s=30.0, **settings),  # type: ignore[arg-type]
        initial_peers=peers,
        socket_dir=folder / "p2p",
        versions=SPOKEN,
    )


@asynccontextmanager
async def directories(folder: Path, count: int) -> AsyncIterator[list[HivemindDirectory]]:
    """A few nodes that know each other through the first one."""
    nodes: list[HivemindDirectory] = []
    try:
        for number in range(count):
            peers = list((await nodes[0].visible_addresses())[:1]) if nodes else []
            node = directory(folder / str(number), peers)
            await node.start()
            nodes.append(node)
            node.grpc_address = f"127.0.0.1:{1001 + number}"
            await node.serve_hello(MEMBERSHIP)
        yield nodes
    finally:
        for node in nodes:
            await node.stop()


def test_nodes_find_each_other_and_believe_only_what_is_signed(tmp_path: Path) -> None:
    """Hello gives the verified manifest; members are seen with their newest record; forgeries are not; leaving shows."""

    async def scenario() -> None:
        async with directories(tmp_path, 3) as (ann, bob, eve):
            welcome = await bob.hello(None)
            assert (welcome.run_id, welcome.manifest) == (RUN, MANIFEST)
            assert welcome.member.peer == ann.peer_id
            assert welcome.member.grpc_address == "127.0.0.1:1001"
            assert abs(welcome.clock_offset_s) < 1.0
            assert (await bob.hello(RUN)).run_id == RUN
            with pytest.raises(NoPeerError, match=f"this node is in run {RUN}"):
                await bob.hello(RunId("cd" * 32))

            record = await ann.announce(progress_steps=1.0, has_state=False)
            await bob.announce(progress_steps=2.0, has_state=False)
            await bob.announce(progress_steps=3.0, has_state=True)
            (seen,) = await ann.members()
            assert (seen.peer, seen.progress_steps, seen.has_state) == (bob.peer_id, 3.0, True)
            assert {member.peer for member in await eve.members()} == {ann.peer_id, bob.peer_id}
            assert eve.verify(record).peer == ann.peer_id
            with pytest.raises(RemoteProtocolError):
                eve.verify(record[:-1] + bytes([record[-1] ^ 1]))

            # Whatever Eve stores under Bob's subkey, nobody takes it for Bob's.
            assert eve._session is not None
            key, subkey, until = bucket_key(RUN, Bucket(0, 0)), peer_id_to_bytes(bob.peer_id), time.time() + 50
            for forgery in (b"garbage", record, b"x" * 3000):
                await eve._session.write(key, subkey, forgery, until)
            other_run = sign_member(
                Member(
                    peer=eve.peer_id, grpc_address="127.0.0.1:9", progress_steps=0, has_state=False, expires_at=until
                ),
                run_id=RunId("cd" * 32),
                protocol_version=1,
                sign=load_or_create(tmp_path / "2" / "identity.key").sign,
            )
            await eve._session.write(key, peer_id_to_bytes(eve.peer_id), other_run, until)
            dropped: Counter[RefusalReason] = Counter()
            ann._buckets._on_dropped = lambda reason: dropped.update([reason])
            assert [member.peer for member in await ann.members()] == [bob.peer_id]
            assert dropped == {RefusalReason.WRONG_RUN: 1}

            await bob.withdraw()
            assert await ann.members() == ()

    run(scenario())
    assert not list(tmp_path.rglob("*.sock"))


def test_a_hello_of_any_bytes_and_any_length_is_survived(tmp_path: Path) -> None:
    """Lengths that lie, megabytes: refused, each with an end, and the next hello is answered; whoever speaks another version hears what to do."""

    async def scenario() -> None:
        async with directories(tmp_path, 2) as (ann, eve):
            p2p, pid = eve._live.process.p2p, ann.pid
            address = (await ann.visible_addresses())[0]
            peer, _ = split_address(address)
            for data, words in (
                (b"\x12\xff\xff\xff\xff\x0fx", "pars"),
                (records_pb2.HelloRequest(protocol_version=1, run_id=bytes(3 << 20)).SerializeToString(), "in run"),
            ):
                with pytest.raises(Exception, match=words):
                    async with asyncio.timeout(3):
                        await p2p._client.call_unary_handler(peer, "lowcomm.v1.Hello", data)
            fresh = directory(tmp_path / "fresh", [address])
            try:
                await fresh.start()
                assert (await fresh.hello(None)).run_id == RUN
                fresh._versions = Versions(oldest=8, newest=9)
                with pytest.raises(
                    ConfigError, match="the run speaks protocol 1, this lowcomm-node speaks 8 to 9: install an"
                ):
                    await fresh.hello(None)
            finally:
                await fresh.stop()
            assert ann.pid == pid

    run(scenario())


def test_who_is_not_admitted_is_in_nobodys_directory(tmp_path: Path) -> None:
    """Its record is taken by no other node of the DHT, so that it does not even come to be refused; nor is it believed in an offer."""

    async def scenario() -> None:
        async with directories(tmp_path, 3) as (ann, bob, eve):
            listed = SecurityConfig(admission="allow-list", members=(ann.peer_id, bob.peer_id))
            for node in (ann, bob):
                await node.serve_hello(replace(MEMBERSHIP, rule=AdmissionRule.of(listed, RUN)))
            dropped: Counter[RefusalReason] = Counter()
            bob._buckets._on_dropped = lambda reason: dropped.update([reason])
            await ann.announce(progress_steps=1.0, has_state=True)
            with pytest.raises(DirectoryError, match="no node of the DHT took our record"):
                await eve.announce(progress_steps=9.0, has_state=True)

            assert [member.peer for member in await bob.members()] == [ann.peer_id]
            assert not dropped
            with pytest.raises(RemoteProtocolError, match="not_admitted"):
                bob.verify(eve.record)

    run(scenario())


def test_a_dead_p2pd_is_replaced(tmp_path: Path) -> None:
    """After p2pd is killed the node comes back with the same peer id and address, and is found again."""

    async def scenario() -> None:
        async with directories(tmp_path, 2) as (ann, bob):
            for node in (ann, bob):
                await node.announce(progress_steps=1.0, has_state=False)
            addresses, dead = await ann.visible_addresses(), ann.pid
            os.kill(dead, signal.SIGKILL)
            while True:
                try:
                    await ann.announce(progress_steps=2.0, has_state=False)
                    if [member.progress_steps for member in await bob.members()] == [2.0]:
                        break
                except DirectoryError:
                    pass
                await asyncio.sleep(0.05)
            assert ann.restarts == 1
            assert ann.pid != dead
            assert await ann.visible_addresses() == addresses
            assert [member.peer for member in await ann.members()] == [bob.peer_id]

    run(scenario())


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Where a socket's path is short enough wherever pytest keeps its own folders."""
    with tempfile.TemporaryDirectory(prefix="lcn-") as name:
        yield Path(name)


@pytest.mark.system
def test_a_killed_node_leaves_no_p2pd(short_path: Path) -> None:
    """SIGKILL gives a node no chance to clean up; its p2pd goes by itself, and the next start clears its sockets."""
    script = textwrap.dedent(
        """
        import asyncio, sys
        from pathlib import Path
        from lowcomm_node.adapters.hivemind_directory import HivemindDirectory
        from lowcomm_node.adapters.identity import load_or_create
        from lowcomm_node.core.versions import SPOKEN
        from lowcomm_node.settings.node import NetworkSettings

        async def main():
            folder = Path(sys.argv[1])
            node = HivemindDirectory(
                identity=load_or_create(folder / "identity.key"),
                settings=NetworkSettings(),
                initial_peers=[],
                socket_dir=folder / "p2p",
                versions=SPOKEN,
            )
            await node.start()
            print(node.pid, flush=True)
            await asyncio.Event().wait()

        asyncio.run(main())
        """
    )
    with subprocess.Popen([sys.executable, "-c", script, str(short_path)], stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        p2pd = psutil.Process(int(node.stdout.readline()))
        assert os.getsid(p2pd.pid) == p2pd.pid, "Ctrl-C in the node's terminal would reach p2pd"
        node.kill()
    _, alive = psutil.wait_procs([p2pd], timeout=10)
    assert not alive

    async def start_again() -> None:
        again = directory(short_path, [])
        await again.start()
        await again.stop()

    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(short_path / "p2p" / "s-p2pclient-stale.sock"))
    run(start_again())
    assert not (short_path / "p2p").exists()


def test_peers_that_cannot_be_reached_are_named(tmp_path: Path) -> None:
    """With nobody at any address the error lists each with what happened, and nothing is left running."""
    somebody = load_or_create(tmp_path / "other").peer_id

    async def scenario() -> None:
        node = directory(tmp_path, [f"/ip4/127.0.0.1/tcp/{port}/p2p/{somebody}" for port in (9, 11)])
        with pytest.raises(NoPeerError) as caught:
            await node.start()
        assert "/tcp/9/" in str(caught.value)
        assert "/tcp/11/" in str(caught.value)
        assert "refused" in str(caught.value)

    run(scenario())


@pytest.mark.parametrize("address", ["127.0.0.1:31337", "/ip4/127.0.0.1/tcp/1", "/ip4/1.2.3.4/tcp/1/p2p/nobody", ""])
def test_an_address_that_is_none_is_refused(tmp_path: Path, address: str) -> None:
    """A mistyped --peers shows what an address looks like, before anything is started: a later try would not mend it."""

    async def scenario() -> None:
        with pytest.raises(ConfigError, match="looks like /ip4/"):
            await directory(tmp_path, [address]).start()

    run(scenario())


def test_a_relayed_address_names_the_peer_behind_the_relay() -> None:
    """It has two names in it, and the first one is the relay's."""
    relay, peer = (some_peer(number) for number in (1, 2))
    found, way = split_address(f"/ip4/203.0.113.5/tcp/1/p2p/{relay}/p2p-circuit/p2p/{peer}")

    assert str(found) == peer
    assert str(way) == f"/ip4/203.0.113.5/tcp/1/p2p/{relay}/p2p-circuit"


def test_a_port_in_use_names_the_setting(tmp_path: Path) -> None:
    """libp2p would share the port silently; we say which setting to change."""

    async def scenario() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(DirectoryError, match=rf"127\.0\.0\.1:{port}.*network\.dht_port"):
                await directory(tmp_path, [], dht_port=port).start()

    run(scenario())


def test_a_host_that_is_a_name_is_refused(tmp_path: Path) -> None:
    """Only literal addresses can be bound."""
    with pytest.raises(DirectoryError, match=r"network\.host = 'localhost'"):
        directory(tmp_path, [], host="localhost")


def test_a_peer_that_answers_hello_with_garbage_is_named(tmp_path: Path) -> None:
    """Bytes that are no answer are that peer's failure, told like any other, and not the joiner's end."""

    async def scenario() -> None:
        async with directories(tmp_path, 2) as (ann, bob):

            async def garble(_data: bytes, _peer: object) -> bytes:
                return b"\xff\xff\xff"

            assert ann._session is not None
            ann._session.process.p2p._client.control.unary_handlers["lowcomm.v1.Hello"] = garble
            with pytest.raises(NoPeerError, match="cannot be read"):
                await bob.hello(None)

    run(scenario())


def test_a_start_that_is_given_up_leaves_no_p2pd(tmp_path: Path) -> None:
    """Ctrl-C while p2pd is starting: it is ended, whatever hivemind has heard of it by then."""

    async def scenario() -> None:
        for delay_s in (0.0, 0.02, 0.1):
            node = directory(tmp_path, [])
            starting = asyncio.create_task(node.start())
            await asyncio.sleep(delay_s)
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            await node.stop()  # does nothing, unless the start was quicker
            assert [child.name() for child in psutil.Process().children(recursive=True) if "p2pd" in child.name()] == []

    run(scenario())
    assert not list(tmp_path.rglob("*.sock"))


def test_whoever_was_met_is_found_again_without_the_bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses of those who once dialled us work too: from them a node comes back when all it was given are gone."""
    monkeypatch.setattr("lowcomm_node.adapters.hivemind_directory._UPKEEP_S", 0.05)

    async def scenario() -> None:
        async with directories(tmp_path, 2) as (ann, bob):
            given = (await ann.visible_addresses())[0]
            while not any(bob.peer_id in address for address in ann.known_addresses):  # noqa: ASYNC110 - of its upkeep
                await asyncio.sleep(0.02)
            remembered = ann.known_addresses
            await ann.stop()
            lost = directory(tmp_path / "0", [given.replace(ann.peer_id, _nobody(tmp_path))])
            try:
                with pytest.raises(NoPeerError):
                    await lost.start()
                await lost.start(["no address", *remembered])
                assert lost.has_company
                assert (await lost.hello(None)).member.peer == bob.peer_id
            finally:
                await lost.stop()

    run(scenario())


def test_a_node_that_may_be_alone_begins_and_goes_on_looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers: it is up all the same, and finds the one that comes back later."""
    monkeypatch.setattr("lowcomm_node.adapters.hivemind_directory._ALONE_UPKEEP_S", 0.05)

    async def scenario() -> None:
        async with directories(tmp_path, 1) as (ann,):
            given = (await ann.visible_addresses())[0]
            port = int(given.split("/")[4])
            await ann.stop()
            bob = directory(tmp_path / "bob", [given])
            late = directory(tmp_path / "0", [], dht_port=port)
            try:
                await bob.start(may_be_alone=True)
                assert not bob.has_company
                await late.start()
                late.grpc_address = "127.0.0.1:1001"
                await late.serve_hello(MEMBERSHIP)
                while not bob._live.num_neighbours:  # noqa: ASYNC110 - of its upkeep
                    await asyncio.sleep(0.02)
                assert (await bob.hello(None)).run_id == RUN
            finally:
                await bob.stop()
                await late.stop()

    run(scenario())


def _nobody(folder: Path) -> str:
    return load_or_create(folder / "nobody.key").peer_id


def test_a_slow_dht_does_not_hold_up_the_next_record(tmp_path: Path) -> None:
    """Storing gives up after half a record's life; what offers carry is renewed all the same."""

    class Slow:
        async def read(self, key: str) -> dict[bytes, bytes]:
            await asyncio.Event().wait()
            return {key.encode(): b""}

    async def scenario() -> None:
        node = directory(tmp_path, [])
        node._record_ttl_s = 0.02
        node._session = Slow()  # type: ignore[assignment]
        await node.serve_hello(MEMBERSHIP)
        records = set()
        for _ in range(2):
            with pytest.raises(DirectoryTimeoutError, match="takes too long"):
                await node.announce(progress_steps=1.0, has_state=True)
            records.add(node.record)
        assert len(records - {b""}) == 2

    run(scenario())
