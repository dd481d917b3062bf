"""The control socket: who may ask, what is answered, and what is said when nobody is there."""

import asyncio
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import grpc
import grpc.aio
import pytest

from lowcomm_node.daemon.control import ControlClient, ControlServer, NodeSilentError, NoNodeError, socket_path
from lowcomm_node.errors import ConfigError, LowcommError, StoreError
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import History, Peer, Peers, Status

_T = TypeVar("_T")


async def _no_dump(is_full: bool) -> Path:
    raise StoreError(f"no room for a dump (full: {is_full})")


def _server(
    state_dir: Path,
    *,
    status: Callable[[], Status] = Status,
    on_leave: Callable[[], None] = lambda: None,
    on_pause: Callable[[float], None] = lambda _: None,
    on_resume: Callable[[], None] = lambda: None,
    dump: Callable[[bool], Awaitable[Path]] = _no_dump,
) -> ControlServer:
    peers = Peers(peers=[Peer(peer_id="12D3KooWOther", state="reachable")])
    return ControlServer(
        state_dir,
        status=status,
        peers=lambda: peers,
        history=History,
        leave=on_leave,
        pause=on_pause,
        resume=on_resume,
        dump=dump,
    )


async def _served(server: ControlServer, ask: Callable[[], _T]) -> _T:
    """Run a blocking ``ask`` in a thread while the server answers in this loop."""
    await server.start()
    try:
        return await asyncio.to_thread(ask)
    finally:
        await server.stop()


def test_a_client_hears_what_the_node_says(tmp_path: Path) -> None:
    """Status and peers come from the callables, and leave calls its own, once."""
    asked: list[str] = []

    def ask() -> tuple[Status, Peers]:
        with ControlClient(tmp_path) as client:
            client.leave()
            return client.status(), client.peers()

    server = _server(tmp_path, status=lambda: Status(state="training"), on_leave=lambda: asked.append("leave"))
    status, peers = asyncio.run(_served(server, ask))

    assert status.state == "training"
    assert peers.peers[0].peer_id == "12D3KooWOther"
    assert asked == ["leave"]


def test_a_pause_has_its_length_and_is_taken_back(tmp_path: Path) -> None:
    """0 is one without an end."""
    asked: list[str] = []

    def ask() -> None:
        with ControlClient(tmp_path) as client:
            client.pause(0.0)
            client.pause(7200.0)
            client.resume()

    server = _server(
        tmp_path, on_pause=lambda for_s: asked.append(f"pause {for_s:g}"), on_resume=lambda: asked.append("resume")
    )
    asyncio.run(_served(server, ask))

    assert asked == ["pause 0", "pause 7200", "resume"]


def test_a_dump_is_a_file_the_node_names(tmp_path: Path) -> None:
    """The answer is its path; what was asked for reaches the node."""

    async def dump(is_full: bool) -> Path:
        return tmp_path / f"dump-{is_full}.json"

    def ask() -> list[Path]:
        with ControlClient(tmp_path) as client:
            return [client.dump(is_full=False), client.dump(is_full=True)]

    assert asyncio.run(_served(_server(tmp_path, dump=dump), ask)) == [
        tmp_path / "dump-False.json",
        tmp_path / "dump-True.json",
    ]


def test_a_dump_that_cannot_be_written_is_the_nodes_own_error(tmp_path: Path) -> None:
    """The sentence arrives as it was said."""

    def ask() -> None:
        with ControlClient(tmp_path) as client, pytest.raises(StoreError, match=r"^no room for a dump"):
            client.dump(is_full=False)

    asyncio.run(_served(_server(tmp_path), ask))


@pytest.mark.parametrize("name", ["plain", "with space", "100%25", "ünïcode"])
def test_any_directory_name_will_do(tmp_path: Path, name: str) -> None:
    """gRPC takes socket names as URIs; what is special in those must not matter."""
    state_dir = tmp_path / name
    state_dir.mkdir()

    def ask() -> str:
        with ControlClient(state_dir) as client:
            return client.status().state

    assert asyncio.run(_served(_server(state_dir, status=lambda: Status(state="syncing")), ask)) == "syncing"


def test_the_socket_is_for_its_owner_only(tmp_path: Path) -> None:
    """Mode 0600, and the process's own file mode mask is as it was."""
    mask = os.umask(0o022)
    try:
        mode = asyncio.run(_served(_server(tmp_path), lambda: socket_path(tmp_path).stat().st_mode))
        after = os.umask(0o022)
    finally:
        os.umask(mask)

    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert after == 0o022


def test_a_second_node_is_refused_and_the_first_keeps_its_socket(tmp_path: Path) -> None:
    """The error names the pid of the one that runs, which goes on answering."""

    async def scenario() -> str:
        def ask() -> str:
            with ControlClient(tmp_path) as client:
                return client.status().state

        first = _server(tmp_path, status=lambda: Status(state="first"))
        await first.start()
        try:
            with pytest.raises(StoreError, match=f"already running here with pid {os.getpid()}"):
                await _server(tmp_path).start()
            return await asyncio.to_thread(ask)
        finally:
            await first.stop()

    assert asyncio.run(scenario()) == "first"


def test_a_socket_left_by_a_dead_node_is_replaced(tmp_path: Path) -> None:
    """kill -9 leaves a socket nobody listens on: no node for the client, no obstacle for the next node."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(socket_path(tmp_path)))

    def ask() -> str:
        with ControlClient(tmp_path) as client:
            return client.status().state

    with pytest.raises(NoNodeError):
        ask()
    assert asyncio.run(_served(_server(tmp_path, status=lambda: Status(state="new")), ask)) == "new"


def test_no_node_is_one_clear_error(tmp_path: Path) -> None:
    """Before a node ran and after it has stopped: the error names the directory and what to do; no socket stays."""

    def ask() -> None:
        with ControlClient(tmp_path) as client, pytest.raises(NoNodeError, match=r"no node is running in .*join"):
            client.status()

    ask()
    asyncio.run(_served(_server(tmp_path), lambda: None))
    assert not socket_path(tmp_path).exists()
    ask()


def test_a_node_that_does_not_answer_is_not_called_absent(tmp_path: Path) -> None:
    """A stuck loop still holds the socket open: that is another error than no node."""

    async def scenario() -> None:
        server = _server(tmp_path)
        await server.start()
        try:
            with ControlClient(tmp_path, timeout_s=0.2) as client, pytest.raises(NodeSilentError, match="not answered"):
                client.status()  # called in the loop's own thread, so that the loop cannot answer
        finally:
            await server.stop()

    asyncio.run(scenario())


def test_an_error_inside_the_node_reaches_the_client_as_one_of_ours(tmp_path: Path) -> None:
    """A failing callable does not end the server, and the client does not see a gRPC exception."""

    def broken() -> Status:
        raise RuntimeError("inside")

    def ask() -> int:
        with ControlClient(tmp_path) as client:
            with pytest.raises(LowcommError, match="could not answer"):
                client.status()
            return len(client.peers().peers)

    assert asyncio.run(_served(_server(tmp_path, status=broken), ask)) == 1


def test_a_directory_that_is_too_long_is_a_settings_error(tmp_path: Path) -> None:
    """The name of a Unix socket is limited; the error names the setting and the limit."""
    with pytest.raises(ConfigError, match=r"state_dir.*allowed are 100"):
        socket_path(tmp_path / ("x" * 100))


def test_a_call_cut_off_by_the_end_is_silence(tmp_path: Path) -> None:
    """Who asks while the node closes its socket may be cut off; ``leave`` must take that for leaving, not for a fault."""

    async def cut_off() -> None:
        is_asked = asyncio.Event()

        async def hang(_request: bytes, _context: object) -> bytes:
            is_asked.set()
            await asyncio.Event().wait()
            return b""

        server = grpc.aio.server()
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "GetStatus": grpc.unary_unary_rpc_method_handler(hang)
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("lowcomm.v1.Control", methods),))
        server.add_insecure_port(f"unix:{socket_path(tmp_path)}")
        await server.start()
        with ControlClient(tmp_path) as client:
            asking = asyncio.create_task(asyncio.to_thread(client.status))
            await is_asked.wait()
            await server.stop(0)
            await asking

    with pytest.raises((NodeSilentError, NoNodeError)):
        asyncio.run(cut_off())
