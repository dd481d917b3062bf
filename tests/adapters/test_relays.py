"""Relays are those that answer: real sockets on loopback."""

import asyncio
import socket

from lowcomm_node.adapters.relays import choose_relays
from tests.adapters.nodes import run, some_peer


def _at(port: int, number: int) -> str:
    return f"/ip4/127.0.0.1/tcp/{port}/p2p/{some_peer(number)}"


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_who_does_not_answer_is_no_relay() -> None:
    """A seed that is gone would keep p2pd waiting; so would an address that is none, or one behind a relay."""

    async def scenario() -> None:
        async with await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            here, gone = _at(port, 1), _at(_closed_port(), 2)
            relayed = f"{here}/p2p-circuit/p2p/{some_peer(3)}"
            named = f"/dns4/localhost/tcp/{port}/p2p/{some_peer(4)}"
            odd = ["", "nonsense", "/ip4/127.0.0.1/udp/1", "/ip4/127.0.0.1/tcp/99999", "/ip4/127.0.0.1/tcp/x/p2p/y"]

            assert await choose_relays([gone, here, relayed, *odd, named]) == (here, named)
            assert len(await choose_relays([_at(port, number) for number in range(1, 20)])) == 8

    run(scenario())


def test_where_nobody_answers_all_are_tried() -> None:
    """They may come back while p2pd runs."""

    async def scenario() -> None:
        gone = _at(_closed_port(), 1)
        assert await choose_relays([gone]) == (gone,)
        assert await choose_relays([]) == ()

    run(scenario())
