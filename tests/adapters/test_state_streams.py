"""A state asked for over streams of frames: from a member that is rung, and whatever comes over such a stream."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from lowcomm_node.adapters import state_streams
from lowcomm_node.adapters.p2p_link import P2pTransport
from lowcomm_node.adapters.snapshot_shelf import SnapshotShelf
from lowcomm_node.adapters.state_client import MemberStateClient
from lowcomm_node.adapters.state_donor import StateDonor
from lowcomm_node.adapters.state_streams import StateDialler, framed_way, serve_states
from lowcomm_node.core.events import BellHung
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.core.pacing import Pacer
from lowcomm_node.errors import LinkError, RefusalReason, RemoteProtocolError
from lowcomm_node.units import PeerId
from lowcomm_node.wire.gen.lowcomm.v1 import state_pb2
from lowcomm_node.wire.state_frames import encode_message, encode_question
from tests.adapters.nodes import RUN, LinkNode, link_nodes, run, some_peer

STATE = bytes(range(256)) * (10 * 1024) + b"end"
"""Two and a half chunks."""
PRINT = Fingerprint(progress_steps=12.0, sketch=(0.5, -2.0), norms=(("params", 2.5),))


@asynccontextmanager
async def giving(folder: Path, max_downloads: int = 2) -> AsyncIterator[StateDonor]:
    """A donor of ``STATE``."""
    (folder / "snapshot").write_bytes(STATE)

    async def source() -> tuple[Path, float]:
        return folder / "snapshot", 12.0

    async def fingerprint() -> Fingerprint:
        return PRINT

    shelf = SnapshotShelf(folder / "snapshots")
    try:
        yield StateDonor(
            run_id=RUN,
            protocol_version=1,
            source=source,
            fingerprint=fingerprint,
            shelf=shelf,
            pacer=Pacer(1e6),
            is_meeting=lambda: False,
            on_sent=lambda _: None,
            max_downloads=max_downloads,
        )
    finally:
        shelf.close()


@asynccontextmanager
async def asking(
    folder: Path, dial: StateDialler, refused: list[RefusalReason] | None = None
) -> AsyncIterator[MemberStateClient]:
    """A joiner that has one way to everybody."""
    said: list[RefusalReason] = [] if refused is None else refused
    shelf = SnapshotShelf(folder / "joiner")

    def blame(_peer: PeerId, error: RemoteProtocolError) -> None:
        said.append(error.reason)

    try:
        yield MemberStateClient(
            ways=(framed_way(dial, blame),),
            protocol_version=1,
            shelf=shelf,
            on_received=lambda _: None,
            on_refused=blame,
            fingerprint_timeout_s=1.0,
        )
    finally:
        shelf.close()


@asynccontextmanager
async def rung(folder: Path, max_downloads: int = 2) -> AsyncIterator[tuple[LinkNode, LinkNode]]:
    """Ann can be dialled; Bob cannot, has his bell at hers, and gives ``STATE``."""
    async with giving(folder, max_downloads) as donor, link_nodes(2) as (ann, bob):
        bob.states = serve_states(donor)
        await bob.port.server.stop(0)
        bob.bells.hang(ann.peer)
        assert await bob.events.get() == BellHung(peer=ann.peer)
        yield ann, bob


def test_a_joiner_gets_the_state_of_a_member_that_nobody_can_dial(tmp_path: Path) -> None:
    """It is rung, and dials back: description, chunks and fingerprint, each as if it had been asked at its port."""

    async def scenario() -> None:
        async with rung(tmp_path) as (ann, bob), asking(tmp_path, ann.held.ring_for_state) as client:
            await client.download([bob.peer], RUN, tmp_path / "state", 1 << 30, lambda *_: None)
            assert (tmp_path / "state").read_bytes() == STATE
            assert await client.fingerprint(bob.peer, RUN) == PRINT
            with pytest.raises(LinkError, match="unreachable"):
                await client.fingerprint(some_peer(7), RUN)
        assert (ann.refused, bob.refused) == ([], [])

    run(scenario())


def test_what_a_donor_says_no_to_arrives_as_over_grpc(tmp_path: Path) -> None:
    """Another run: a refusal. No room: come back later. What it does not know: malformed."""

    async def scenario() -> None:
        async with rung(tmp_path, max_downloads=0) as (ann, bob), asking(tmp_path, ann.held.ring_for_state) as client:
            with pytest.raises(RemoteProtocolError, match="wrong_run: the donor says: I am in run"):
                await client.fingerprint(bob.peer, type(RUN)("cd" * 32))
            with pytest.raises(LinkError, match="busy"):
                await client.download([bob.peer], RUN, tmp_path / "state", 1 << 30, lambda *_: None)
            way = framed_way(ann.held.ring_for_state, lambda *_: None)
            with pytest.raises(RemoteProtocolError, match="malformed"):
                async with aclosing(way(bob.peer, "Sing", b"", 5.0)) as answers:
                    await anext(answers)

    run(scenario())


@asynccontextmanager
async def stream() -> AsyncIterator[tuple[P2pTransport, P2pTransport, Callable[[], None]]]:
    """Both ends of one, and what cuts it."""
    one, other = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=one)
    far_reader, far_writer = await asyncio.open_connection(sock=other)
    try:
        yield P2pTransport(reader, writer), P2pTransport(far_reader, far_writer), far_writer.close
    finally:
        writer.close()
        far_writer.close()


@pytest.mark.parametrize(
    ("said", "expected", "blamed"),
    [
        (b"\xff\xff", RemoteProtocolError, [RefusalReason.MALFORMED]),
        (encode_message(b"\xff\xff"), RemoteProtocolError, [RefusalReason.MALFORMED]),
        (encode_message(b"x" * 100_000), RemoteProtocolError, [RefusalReason.OVERSIZED]),
        (b"\x12\x00", LinkError, []),
        (None, LinkError, []),
    ],
)
def test_an_answer_that_is_none(
    tmp_path: Path, said: bytes | None, expected: type[Exception], blamed: list[RefusalReason]
) -> None:
    """Frames and messages that cannot be read are held against the donor; an early end, and an empty refusal, are not."""
    refused: list[RefusalReason] = []

    async def scenario() -> None:
        async with stream() as (near, far, _):

            @asynccontextmanager
            async def dial(_peer: PeerId) -> AsyncIterator[P2pTransport]:
                yield near

            async def donor() -> None:
                await far.read()
                if said is not None:
                    await far.write(said)
                await far.half_close()

            async with asyncio.TaskGroup() as group, asking(tmp_path, dial, refused) as client:
                group.create_task(donor())
                with pytest.raises(expected):
                    await client.fingerprint(some_peer(2), RUN)

    run(scenario())
    assert refused == blamed


def test_a_donor_that_is_silent_is_given_up(tmp_path: Path) -> None:
    """After as long as it may take, and not before another way or donor is due."""

    async def scenario() -> None:
        async with stream() as (near, _far, _cut):

            @asynccontextmanager
            async def dial(_peer: PeerId) -> AsyncIterator[P2pTransport]:
                yield near

            async with asking(tmp_path, dial) as client:
                with pytest.raises(LinkError, match="timeout: the donor was silent for 1 s"):
                    await client.fingerprint(some_peer(2), RUN)

    run(scenario())


def test_who_does_not_ask_or_does_not_read_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence, a question that cannot be read, a reader that stops, a line that is cut: each ends, and frees its place."""
    monkeypatch.setattr(state_streams, "_FIRST_WORD_S", 0.05)
    monkeypatch.setattr(state_streams, "_STALL_TIMEOUT_S", 0.2)

    async def scenario() -> None:
        async with giving(tmp_path, max_downloads=1) as donor:
            serve = serve_states(donor)
            async with stream() as (near, _far, _):
                assert await serve(near, some_peer(2)) == "disconnect"
            async with stream() as (near, far, _):
                await far.write(b"\xff")
                await far.half_close()
                assert await serve(near, some_peer(2)) == ""
                assert b"malformed" in (await far.read() or b"")
                assert await far.read() is None
            describe = (await _description(donor)).snapshot_id
            for is_cut in (False, True):
                async with stream() as (near, far, cut):
                    await far.write(encode_question("Fetch", _fetch(describe)))
                    if is_cut:
                        cut()
                    assert await serve(near, some_peer(2)) == "disconnect"
            assert donor._num_downloads == 0

    run(scenario())


async def _description(donor: StateDonor) -> state_pb2.SnapshotDescription:
    request = state_pb2.DescribeRequest(run_id=bytes.fromhex(RUN), protocol_version=1)
    return state_pb2.SnapshotDescription.FromString(await donor.describe(request.SerializeToString()))


def _fetch(snapshot_id: bytes) -> bytes:
    """All chunks: more than a socket holds."""
    request = state_pb2.FetchRequest(run_id=bytes.fromhex(RUN), snapshot_id=snapshot_id, chunks=(0, 1, 2))
    return request.SerializeToString()
