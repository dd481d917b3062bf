"""Downloading a member's state, over real sockets on loopback."""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from itertools import count
from pathlib import Path

import grpc
import grpc.aio
import pytest

from lowcomm_node.adapters import state_download
from lowcomm_node.adapters.contacts import Contacts
from lowcomm_node.adapters.grpc_states import grpc_way, state_handler
from lowcomm_node.adapters.line import Line
from lowcomm_node.adapters.partial_file import write_begun
from lowcomm_node.adapters.snapshot_shelf import SnapshotShelf
from lowcomm_node.adapters.state_client import MemberStateClient
from lowcomm_node.adapters.state_donor import StateDonor
from lowcomm_node.adapters.state_streams import StateWay
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.core.pacing import Pacer
from lowcomm_node.errors import LinkError, RefusalReason, RemoteProtocolError, StoreError
from lowcomm_node.units import PeerId, RunId
from lowcomm_node.wire.gen.lowcomm.v1 import state_pb2
from lowcomm_node.wire.state import STATE_CHUNK_BYTES, Snapshot
from tests.adapters.nodes import RUN, Port, at, channels_of, run, some_peer, somebody

STATE = bytes(range(256)) * (14 * 1024) + b"end"
"""Three and a half chunks."""

LARGE_STATE = b"".join(bytes([number]) * STATE_CHUNK_BYTES for number in range(20)) + b"end"
"""Twenty-one chunks, each with a content of its own."""

CONTACTS = Contacts()
_PEERS = map(somebody, count(1))

PRINT = Fingerprint(progress_steps=12.0, sketch=(0.5, -2.0), norms=(("params", 2.5),))


def written(folder: Path, content: bytes) -> Path:
    """A snapshot in a folder of its own, under a new inode, as writers of state files make them."""
    folder.mkdir(exist_ok=True)
    (folder / "snapshot").unlink(missing_ok=True)
    (folder / "snapshot").write_bytes(content)
    return folder / "snapshot"


class Served:
    """A donor's service on loopback, with what it has sent."""

    def __init__(self, path: Path, progress_steps: float = 12.0, **options: object) -> None:
        self.path = path
        self.progress_steps = progress_steps
        self.sent: list[int] = []
        self.shelf = SnapshotShelf(path.parent / "snapshots")
        self.is_meeting = False
        self.print = PRINT
        self.port = Port(next(_PEERS))
        self.peer = self.port.identity.peer_id
        self.donor = StateDonor(
            run_id=RUN,
            protocol_version=1,
            source=self.source,
            fingerprint=self.fingerprint,
            shelf=self.shelf,
            pacer=Pacer(1e6),
            is_meeting=lambda: self.is_meeting,
            on_sent=self.sent.append,
            **options,  # type: ignore[arg-type]
        )

    async def source(self) -> tuple[Path, float]:
        if not await asyncio.to_thread(self.path.exists):
            raise StoreError("this node has no state to give yet")
        return self.path, self.progress_steps

    async def fingerprint(self) -> Fingerprint:
        if not await asyncio.to_thread(self.path.exists):
            raise StoreError("this node has no state yet")
        return self.print

    async def start(self) -> None:
        await self.shelf.take_up()
        CONTACTS.learn(await self.port.start(state_handler(self.donor, self.port.door.caller)))

    async def stop(self) -> None:
        await self.port.server.stop(0)
        self.shelf.close()


@asynccontextmanager
async def donor(path: Path, progress_steps: float = 12.0) -> AsyncIterator[PeerId]:
    """A donor's service on loopback; gives its peer id."""
    served = Served(path, progress_steps)
    try:
        await served.start()
        yield served.peer
    finally:
        await served.stop()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_download, "_RETRY_S", 0.01)


@asynccontextmanager
async def joiner(
    folder: Path, on_received: Callable[[int], None] = lambda _: None, *detours: StateWay
) -> AsyncIterator[MemberStateClient]:
    channels = channels_of(somebody(99), CONTACTS)
    shelf = SnapshotShelf(folder / "joiner")
    try:
        yield MemberStateClient(
            ways=(grpc_way(channels), *detours),
            protocol_version=1,
            shelf=shelf,
            on_received=on_received,
            stall_timeout_s=1.0,
        )
    finally:
        await channels.close()
        shelf.close()


class FalseDonor(grpc.GenericRpcHandler):
    """Describes a state truly and sends whatever chunks it is told to send."""

    def __init__(self, state: bytes, chunks: list[tuple[int, bytes]], *, then_hang: bool = False) -> None:
        self.snapshot = describe(state)
        self.chunks = chunks
        self.then_hang = then_hang
        self.asked: list[list[int]] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        if handler_call_details.method.endswith("Describe"):
            return grpc.unary_unary_rpc_method_handler(self.describe)
        return grpc.unary_stream_rpc_method_handler(self.fetch)

    async def describe(self, _data: bytes, _context: object) -> bytes:
        return self.snapshot.encode(RUN)

    async def fetch(self, data: bytes, _context: object) -> AsyncIterator[bytes]:
        self.asked.append(list(state_pb2.FetchRequest.FromString(data).chunks))
        for index, content in self.chunks:
            yield state_pb2.SnapshotChunk(index=index, data=content).SerializeToString()
        if self.then_hang:
            await asyncio.Event().wait()


def describe(state: bytes) -> Snapshot:
    pieces = [state[start : start + STATE_CHUNK_BYTES] for start in range(0, len(state), STATE_CHUNK_BYTES)]
    return Snapshot(
        total_bytes=len(state),
        chunk_bytes=STATE_CHUNK_BYTES,
        digests=tuple(sha256(piece).digest() for piece in pieces),
        progress_steps=1.0,
    )


def chunk(index: int) -> bytes:
    return STATE[index * STATE_CHUNK_BYTES : (index + 1) * STATE_CHUNK_BYTES]


@asynccontextmanager
async def false_donor(donor: FalseDonor) -> AsyncIterator[PeerId]:
    port = Port(next(_PEERS))
    try:
        CONTACTS.learn(await port.start(donor))
        yield port.identity.peer_id
    finally:
        await port.server.stop(0)


def test_a_state_arrives_whole(tmp_path: Path) -> None:
    """The file equals the donor's, its progress is told, and progress is shown up to the end."""

    async def scenario() -> None:
        (tmp_path / "snapshot").write_bytes(STATE)
        shown: list[tuple[int, int]] = []
        async with donor(tmp_path / "snapshot") as holder, joiner(tmp_path) as client:
            await client.download(
                [holder], RUN, tmp_path / "state", len(STATE), lambda done, total: shown.append((done, total))
            )
        assert (tmp_path / "state").read_bytes() == STATE
        assert shown[0] == (0, len(STATE))
        assert shown[-1] == (len(STATE), len(STATE))

    run(scenario())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["snapshot", "snapshots", "state", "state.partial.json"]


def test_a_snapshot_that_is_replaced_while_it_is_served_stays_whole(tmp_path: Path) -> None:
    """The donor holds the described file open, so a joiner never gets a mixture of two states."""

    async def scenario() -> None:
        (tmp_path / "snapshot").write_bytes(STATE)

        def replace(done: int, _total: int) -> None:
            if not done:
                (tmp_path / "snapshot").unlink()
                (tmp_path / "snapshot").write_bytes(STATE[::-1])

        async with donor(tmp_path / "snapshot") as holder, joiner(tmp_path) as client:
            await client.download([holder], RUN, tmp_path / "state", len(STATE), replace)
        assert (tmp_path / "state").read_bytes() == STATE

    run(scenario())


def test_only_missing_chunks_are_fetched_again(tmp_path: Path) -> None:
    """What an earlier attempt left and what matches is kept; a damaged chunk of it is not."""

    async def scenario() -> None:
        left = bytearray(STATE[: 2 * STATE_CHUNK_BYTES + 100])
        left[5] ^= 1
        (tmp_path / "state.partial").write_bytes(left)
        false = FalseDonor(STATE, [(3, chunk(3)), (0, chunk(0)), (2, chunk(2))])
        async with false_donor(false) as holder, joiner(tmp_path) as client:
            await client.download([holder], RUN, tmp_path / "state", len(STATE), lambda *_: None)
        assert false.asked == [[0, 2, 3]]
        assert (tmp_path / "state").read_bytes() == STATE

    run(scenario())


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ([(0, b"x" + chunk(0)[1:])], RefusalReason.CHECKSUM),
        ([(0, chunk(0)[:-1])], RefusalReason.CHECKSUM),
        ([(9, chunk(0))], RefusalReason.MALFORMED),
        ([(0, chunk(0)), (0, chunk(0))], RefusalReason.MALFORMED),
    ],
)
def test_a_false_chunk_is_refused(tmp_path: Path, chunks: list[tuple[int, bytes]], reason: RefusalReason) -> None:
    """Damaged, short, unknown and repeated chunks end the download with the reason; no state file appears."""

    async def scenario() -> None:
        async with false_donor(FalseDonor(STATE, chunks)) as holder, joiner(tmp_path) as client:
            with pytest.raises(RemoteProtocolError) as caught:
                await client.download([holder], RUN, tmp_path / "state", len(STATE), lambda *_: None)
            assert caught.value.reason is reason
        assert not (tmp_path / "state").exists()

    run(scenario())


def test_a_donor_that_stops_in_the_middle_keeps_what_came(tmp_path: Path) -> None:
    """A donor that breaks off is asked again for the rest only, and given up after a few attempts."""

    async def scenario() -> None:
        false = FalseDonor(STATE, [(0, chunk(0)), (1, chunk(1))])
        async with false_donor(false) as holder, joiner(tmp_path) as client:
            with pytest.raises((LinkError, RemoteProtocolError)):
                await client.download([holder], RUN, tmp_path / "state", len(STATE), lambda *_: None)
        assert false.asked[:2] == [[0, 1, 2, 3], [2, 3]]
        assert (tmp_path / "state.partial").read_bytes()[: 2 * STATE_CHUNK_BYTES] == STATE[: 2 * STATE_CHUNK_BYTES]

    run(scenario())


class BreaksOff(Line):
    """Lets so many bytes out, to the end of a chunk, and then none: without it all that is left may be on its way already."""

    def __init__(self, num_bytes: float) -> None:
        super().__init__()
        self._left = num_bytes

    async def sending(self, num_bytes: int) -> None:
        if self._left <= 0:
            await asyncio.Event().wait()
        self._left -= num_bytes
        await super().sending(num_bytes)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_donor_that_dies_costs_no_chunk_that_has_arrived(tmp_path: Path, share: float) -> None:
    """Killed at 10, 50 and 90% of a download: another holder of the snapshot gives the rest, and nothing that was there."""
    state = LARGE_STATE

    async def scenario() -> None:
        first = Served(written(tmp_path / "first", state), line=BreaksOff(share * len(state)))
        second = Served(written(tmp_path / "second", state))
        is_far_enough = asyncio.Event()
        received: list[int] = []

        def show(done: int, total: int) -> None:
            if done >= share * total:
                is_far_enough.set()

        try:
            await first.start()
            await second.start()
            await second.shelf.put(second.path, 12.0)
            second.donor._num_downloads = 99  # busy, until the first is dead: or it would share the work from the start
            async with joiner(tmp_path, received.append) as client:
                download = client.download([first.peer, second.peer], RUN, tmp_path / "state", len(state), show)
                task = asyncio.create_task(download)
                await is_far_enough.wait()
                await first.stop()
                second.donor._num_downloads = 0
                await task
        finally:
            await second.stop()
        assert (tmp_path / "state").read_bytes() == state
        assert sum(received) == len(state)
        assert 0 < sum(second.sent) <= (1 - share) * len(state)

    run(scenario())


def test_holders_share_the_chunks(tmp_path: Path) -> None:
    """Each chunk is fetched once, and each of them gives some; who does not hold the snapshot is no hindrance."""

    async def scenario() -> None:
        holders = [Served(written(tmp_path / str(number), LARGE_STATE)) for number in range(3)]
        stranger = Served(written(tmp_path / "stranger", STATE))
        received: list[int] = []
        try:
            for served in (*holders, stranger):
                await served.start()
                await served.shelf.put(served.path, 1.0)
            peers = [holders[0].peer, stranger.peer, holders[1].peer, holders[2].peer]
            async with joiner(tmp_path, received.append) as client:
                await client.download(peers, RUN, tmp_path / "state", len(LARGE_STATE), lambda *_: None)
        finally:
            for served in (*holders, stranger):
                await served.stop()
        assert (tmp_path / "state").read_bytes() == LARGE_STATE
        assert sum(received) == len(LARGE_STATE)
        assert all(served.sent for served in holders)
        assert not stranger.sent

    run(scenario())


def test_a_holder_of_false_chunks_is_left_for_the_others(tmp_path: Path) -> None:
    """It says that it holds the snapshot and sends something else: that is thrown away, and a true holder gives it."""

    async def scenario() -> None:
        false = FalseDonor(LARGE_STATE, [(15, b"x" * STATE_CHUNK_BYTES)])
        served = Served(written(tmp_path / "true", LARGE_STATE))
        try:
            await served.start()
            async with false_donor(false) as holder, joiner(tmp_path) as client:
                await client.download([served.peer, holder], RUN, tmp_path / "state", 1 << 30, lambda *_: None)
        finally:
            await served.stop()
        assert (tmp_path / "state").read_bytes() == LARGE_STATE

    run(scenario())


def test_a_donor_that_is_started_again_goes_on(tmp_path: Path) -> None:
    """Its snapshot is on disk still, and a joiner that was cut off and started again fetches the rest of that one."""

    async def scenario() -> None:
        before = Served(written(tmp_path / "donor", LARGE_STATE))
        received: list[int] = []
        half = asyncio.Event()
        await before.start()
        try:
            async with joiner(tmp_path, received.append) as client:
                task = asyncio.create_task(
                    client.download(
                        [before.peer],
                        RUN,
                        tmp_path / "state",
                        1 << 30,
                        lambda done, total: half.set() if 2 * done >= total else None,
                    )
                )
                await half.wait()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        finally:
            await before.stop()
        after = Served(written(tmp_path / "donor", STATE))  # its state has moved on
        try:
            await after.start()
            async with joiner(tmp_path, received.append) as client:
                await client.download([after.peer], RUN, tmp_path / "state", 1 << 30, lambda *_: None)
        finally:
            await after.stop()
        assert (tmp_path / "state").read_bytes() == LARGE_STATE
        assert 0 <= len(LARGE_STATE) - sum(received) <= STATE_CHUNK_BYTES  # one may have been written but not told

    run(scenario())


def test_a_snapshot_that_nobody_holds_any_more_is_given_up_for_another(tmp_path: Path) -> None:
    """What was begun is worth nothing then; the donor's new snapshot is."""

    async def scenario() -> None:
        write_begun(tmp_path / "state", describe(LARGE_STATE), RUN, [PeerId("gone")])
        (tmp_path / "state.partial").write_bytes(LARGE_STATE[: 3 * STATE_CHUNK_BYTES])
        (tmp_path / "snapshot").write_bytes(STATE)
        async with donor(tmp_path / "snapshot") as holder, joiner(tmp_path) as client:
            await client.download([holder], RUN, tmp_path / "state", 1 << 30, lambda *_: None)
        assert (tmp_path / "state").read_bytes() == STATE

    run(scenario())


def test_what_was_downloaded_is_given_to_the_next_joiner(tmp_path: Path) -> None:
    """So that there are several donors of one snapshot, though no two nodes' live states are ever equal."""

    async def scenario() -> None:
        first, joined = (
            Served(written(tmp_path / name, content)) for name, content in (("a", LARGE_STATE), ("b", STATE))
        )
        try:
            await first.start()
            await joined.start()
            async with joiner(tmp_path / "b") as client:
                await client.download([first.peer], RUN, tmp_path / "state", 1 << 30, lambda *_: None)
                await client.keep(tmp_path / "state", 12.0)
            async with joiner(tmp_path / "c") as client:
                peers = [first.peer, joined.peer]
                await joined.shelf.put(tmp_path / "state", 12.0)
                await client.download(peers, RUN, tmp_path / "second", 1 << 30, lambda *_: None)
        finally:
            await first.stop()
            await joined.stop()
        assert (tmp_path / "second").read_bytes() == LARGE_STATE
        assert joined.sent

    run(scenario())


def test_members_tell_what_their_state_looks_like(tmp_path: Path) -> None:
    """The fingerprint arrives as it was sent; a member without state, or of another run, says so."""

    async def scenario() -> None:
        async with donor(tmp_path / "snapshot") as holder, joiner(tmp_path) as client:
            with pytest.raises(RemoteProtocolError) as caught:
                await client.fingerprint(holder, RUN)
            assert caught.value.reason is RefusalReason.NOT_READY
            (tmp_path / "snapshot").write_bytes(STATE)
            assert await client.fingerprint(holder, RUN) == PRINT
            with pytest.raises(RemoteProtocolError) as caught:
                await client.fingerprint(holder, RunId("cd" * 32))
            assert caught.value.reason is RefusalReason.WRONG_RUN

    run(scenario())


def test_a_donor_that_falls_silent_is_given_up(tmp_path: Path) -> None:
    """No chunk for the stall timeout ends the download."""

    async def scenario() -> None:
        async with (
            false_donor(FalseDonor(STATE, [(0, chunk(0))], then_hang=True)) as holder,
            joiner(tmp_path) as client,
        ):
            with pytest.raises(LinkError) as caught:
                await client.download([holder], RUN, tmp_path / "state", len(STATE), lambda *_: None)
            assert caught.value.reason == "timeout"

    run(scenario())


def test_a_dead_donor_is_unreachable(tmp_path: Path) -> None:
    """A donor that is gone is reported as unreachable, so that another is tried."""

    async def scenario() -> None:
        async with donor(tmp_path / "snapshot") as holder:
            pass
        async with joiner(tmp_path) as client:
            with pytest.raises(LinkError) as caught:
                await client.download([holder], RUN, tmp_path / "state", 100, lambda *_: None)
            assert caught.value.reason == "unreachable"

    run(scenario())


@pytest.mark.parametrize(
    ("run_id", "max_bytes", "has_snapshot", "reason"),
    [
        (RunId("cd" * 32), 1 << 30, True, RefusalReason.WRONG_RUN),
        (RUN, len(STATE) - 1, True, RefusalReason.OVERSIZED),
        (RUN, 1 << 30, False, RefusalReason.NOT_READY),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(
    tmp_path: Path, run_id: RunId, max_bytes: int, has_snapshot: bool, reason: RefusalReason
) -> None:
    """Another run, a state larger than the manifest's, and a donor without a state each have their reason."""

    async def scenario() -> None:
        if has_snapshot:
            (tmp_path / "snapshot").write_bytes(STATE)
        async with donor(tmp_path / "snapshot") as holder, joiner(tmp_path) as client:
            with pytest.raises(RemoteProtocolError) as caught:
                await client.download([holder], run_id, tmp_path / "state", max_bytes, lambda *_: None)
            assert caught.value.reason is reason

    run(scenario())


def test_a_folder_that_is_gone_is_our_own_fault(tmp_path: Path) -> None:
    """A destination that cannot be written is a StoreError naming the file, not the donor's failure."""

    async def scenario() -> None:
        (tmp_path / "snapshot").write_bytes(STATE)
        async with donor(tmp_path / "snapshot") as holder, joiner(tmp_path) as client:
            with pytest.raises(StoreError, match=r"state\.partial"):
                await client.download([holder], RUN, tmp_path / "none" / "state", 1 << 30, lambda *_: None)

    run(scenario())


def test_who_is_in_numeric_trouble_does_not_say_so_in_numbers(tmp_path: Path) -> None:
    """A fingerprint that the other end would hold against this node is not given: it has no state to look at."""

    async def scenario() -> None:
        served = Served(written(tmp_path, b"x"))
        served.print = replace(PRINT, norms=(("params", math.nan),))
        try:
            await served.start()
            async with joiner(tmp_path) as client:
                with pytest.raises(RemoteProtocolError, match="not_ready"):
                    await client.fingerprint(served.peer, RUN)
        finally:
            await served.stop()

    run(scenario())


def test_another_way_is_taken_where_no_connection_comes_about_and_only_there(tmp_path: Path) -> None:
    """A donor that cannot be dialled is asked over the next way; one that says no has been reached."""
    asked: list[str] = []

    async def scenario() -> None:
        behind = Served(written(tmp_path / "behind", STATE))  # a server wants its event loop
        hidden = behind.peer
        CONTACTS.learn(at(behind.port.identity, ""))

        async def detour(peer: PeerId, method: str, request: bytes, _timeout_s: float) -> AsyncGenerator[bytes, None]:
            asked.append(method)
            if peer == hidden:
                async with aclosing(behind.donor.answer(method, request)) as answers:
                    async for answer in answers:
                        yield answer
            else:
                raise LinkError("unreachable", "no bell hangs here")

        try:
            async with (
                joiner(tmp_path, lambda _: None, detour) as client,
                donor(tmp_path / "none" / "snapshot") as other,
            ):
                destination = tmp_path / "state"
                await client.download([hidden], RUN, destination, 1 << 30, lambda *_: None)
                assert destination.read_bytes() == STATE
                assert await client.fingerprint(hidden, RUN) == PRINT
                assert asked == ["Describe", "Fetch", "Fingerprint"]
                with pytest.raises(RemoteProtocolError, match="not_ready"):
                    await client.fingerprint(other, RUN)
                with pytest.raises(LinkError, match=r"no record of .* is known; no bell hangs here"):
                    await client.fingerprint(some_peer(88), RUN)
                assert asked == ["Describe", "Fetch", "Fingerprint", "Fingerprint"]
        finally:
            behind.shelf.close()

    run(scenario())
