"""Options on the connections that gRPC has made itself."""

import socket
import subprocess
import sys
from contextlib import suppress

import grpc
import grpc.aio
import pytest

from lowcomm_node.adapters import tcp
from lowcomm_node.adapters.grpc_endpoints import GrpcServer
from tests.adapters.nodes import run

_ECHO = "/lowcomm.test/Echo"


async def _echo(data: bytes, _: object) -> bytes:
    return data


def options_of(port: int) -> list[tuple[str, int]]:
    """Congestion control and keepalive of each TCP socket of this process on this port, at either end."""
    found = []
    for connection in tcp._tcp_sockets():
        ends = [connection.getsockname()[1]]
        with suppress(OSError):
            ends.append(connection.getpeername()[1])
        if port in ends:
            name = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()
            found.append((name, connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)))
    return found


def test_both_ends_of_grpc_get_them_and_go_on_working(monkeypatch: pytest.MonkeyPatch) -> None:
    """The listening socket, the accepted and the dialled one."""
    monkeypatch.setattr(tcp, "_WANTED", "reno")  # every kernel has it, and none begins with it

    async def scenario() -> None:
        server = GrpcServer(host="127.0.0.1", port=0, certificate=None)
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(_echo)
        port = await server.start([grpc.method_handlers_generic_handler("lowcomm.test", {"Echo": handler})])
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                echo: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_ECHO)
                assert await echo(b"x") == b"x"
                assert tcp.tune_connections() >= 3
                assert tcp.tune_connections() == 0
                assert options_of(port) == [("reno", 1)] * 3
                assert await echo(b"y") == b"y"
        finally:
            await server.stop(0.1)

    run(scenario())


def test_the_choice_is_named() -> None:
    assert tcp.congestion_control() in tcp._AVAILABLE.read_text().split()


def test_a_childs_connections_are_counted_apart() -> None:
    """What p2pd has received is told by its own sockets, which are not ours."""
    own = tcp.received_bytes()
    with socket.create_server(("127.0.0.1", 0)) as server:
        child = (
            "import socket, sys\n"
            f"connection = socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))\n"
            "connection.recv(1000, socket.MSG_WAITALL)\n"
            "print('read', flush=True)\n"
            "sys.stdin.read()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            connection, _ = server.accept()
            with connection:
                connection.sendall(bytes(1000))
                assert process.stdout is not None
                assert process.stdout.readline() == "read\n"
                assert tcp.received_bytes(process.pid) == 1000
                assert tcp.received_bytes() == own
                process.communicate("")
    assert tcp.received_bytes(process.pid) == 0


def test_only_tcp_is_looked_at_and_every_option_is_set() -> None:
    """A look passes by files, pipes, datagrams and Unix sockets; what it finds has all keepalives, at the first look and the second."""
    before = {handle.getsockname() for handle in tcp._tcp_sockets()}
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
    ):
        datagrams.bind(("127.0.0.1", 0))

        for _ in range(2):
            tcp.tune_connections()
            assert [server.getsockopt(level, getattr(socket, name)) for level, name, _ in tcp._OPTIONS] == [
                1,
                30,
                10,
                6,
            ]
        assert {handle.getsockname() for handle in tcp._tcp_sockets()} - before == {server.getsockname()}
