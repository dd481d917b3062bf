"""Downloading a state while donors are killed: real processes, kill -9, sockets on loopback."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lowcomm_node.adapters.contacts import Contacts
from lowcomm_node.adapters.grpc_states import grpc_way
from lowcomm_node.adapters.identity import load_or_create
from lowcomm_node.adapters.snapshot_shelf import SnapshotShelf
from lowcomm_node.adapters.state_client import MemberStateClient
from lowcomm_node.units import PeerId
from lowcomm_node.wire.state import STATE_CHUNK_BYTES
from tests.adapters.nodes import at, channels_of, somebody
from tests.system.donor_process import RUN
from tests.system.real_nodes import TINY_MANIFEST, RealNode

pytestmark = pytest.mark.system

_NUM_CHUNKS = 20
_RATE = 20e6

CONTACTS = Contacts()


class Donor:
    """A process that serves a state; killed at the end whatever happens."""

    def __init__(self, folder: Path, state: bytes, port: int = 0) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "snapshot").unlink(missing_ok=True)
        (folder / "snapshot").write_bytes(state)
        script = Path(__file__).with_name("donor_process.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(folder), str(port), str(_RATE)], stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        identity = load_or_create(folder / "identity.key")
        self.peer = identity.peer_id
        CONTACTS.learn(at(identity, f"127.0.0.1:{self.port}"))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextmanager
def donors(*started: Donor) -> Iterator[tuple[Donor, ...]]:
    try:
        yield started
    finally:
        for donor in started:
            donor.kill()


async def download(
    folder: Path, holders: list[PeerId], received: list[int], *, until: float, then: asyncio.Event
) -> None:
    """Download to the end; ``then`` is set when the share ``until`` is there."""
    channels = channels_of(somebody(99), CONTACTS)
    shelf = SnapshotShelf(folder / "joiner")
    client = MemberStateClient(ways=(grpc_way(channels),), protocol_version=1, shelf=shelf, on_received=received.append)

    def show(done: int, total: int) -> None:
        if done >= until * total:
            then.set()

    try:
        await client.download(holders, RUN, folder / "state", 1 << 30, show)
    finally:
        await channels.close()
        shelf.close()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_killed_donor_costs_no_chunk_that_had_arrived(tmp_path: Path, share: float) -> None:
    """Two hold the snapshot, the one that has described it is killed: the rest comes from the other."""
    state = os.urandom(_NUM_CHUNKS * STATE_CHUNK_BYTES)
    received: list[int] = []
    with donors(Donor(tmp_path / "a", state), Donor(tmp_path / "b", state)) as (first, second):

        async def scenario() -> None:
            then = asyncio.Event()
            task = asyncio.create_task(download(tmp_path, [first.peer, second.peer], received, until=share, then=then))
            await then.wait()
            await asyncio.to_thread(first.kill)
            async with asyncio.timeout(60):
                await task

        asyncio.run(scenario())
    assert (tmp_path / "state").read_bytes() == state
    assert len(received) == _NUM_CHUNKS


def test_a_donor_that_is_killed_and_started_again_goes_on(tmp_path: Path) -> None:
    """It is the only one that holds the snapshot, and it holds it still, though its own state has moved on."""
    state = os.urandom(_NUM_CHUNKS * STATE_CHUNK_BYTES)
    received: list[int] = []
    with donors(Donor(tmp_path / "a", state)) as (first,):

        async def scenario() -> int:
            then = asyncio.Event()
            task = asyncio.create_task(download(tmp_path, [first.peer], received, until=0.5, then=then))
            await then.wait()
            await asyncio.to_thread(first.kill)
            await asyncio.gather(task, return_exceptions=True)
            return len(received)

        before = asyncio.run(scenario())
    assert before < _NUM_CHUNKS
    with donors(Donor(tmp_path / "a", b"another state", port=first.port)) as (again,):
        asyncio.run(download(tmp_path, [again.peer], received, until=2.0, then=asyncio.Event()))
    assert (tmp_path / "state").read_bytes() == state
    assert len(received) == _NUM_CHUNKS


@pytest.mark.timeout(300)
def test_a_joiner_compares_its_donor_with_the_others(tmp_path: Path) -> None:
    """With three members about, a fourth node asks the others what their state looks like, and takes an honest one."""
    (tmp_path / "run.toml").write_text(TINY_MANIFEST)
    text = tmp_path / "text"
    text.mkdir()
    for index in range(40):
        (text / f"{index}.txt").write_text(f"the quick brown fox {index} jumps over the lazy dog\n" * 60)
    nodes = [RealNode(tmp_path / "n0", "--manifest", str(tmp_path / "run.toml"), text=text)]
    try:
        status = nodes[0].wait_for(lambda status: status["state"] == "training", 90, "the first node trains")
        for numbers in ((1, 2), (3,)):
            joiners = [
                RealNode(tmp_path / f"n{number}", "--peers", status["join_address"], text=text) for number in numbers
            ]
            nodes += joiners
            for joiner in joiners:
                joiner.wait_for(lambda status: status["state"] == "training", 90, "a joiner trains")
        for node in reversed(nodes):
            assert node.end() == 0
        events = [json.loads(line) for line in nodes[3].log.read_text().splitlines() if line.startswith("{")]
        (taken,) = [event for event in events if event["event"] == "state_downloaded"]
        assert taken["compared_with"] == 2
        assert not [event for event in events if event["event"] == "state_refused"]
        assert all(node.survivors() == [] for node in nodes)
        assert list((tmp_path / "n3").glob("download*")) == []
        assert len(list((tmp_path / "n3" / "snapshots").iterdir())) == 1
    finally:
        for node in nodes:
            node.clean_up()
