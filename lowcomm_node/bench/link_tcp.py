"""The measure of all links: the same bytes over a bare TCP connection, without frames, digests or copies."""

import asyncio
import secrets
import time

from lowcomm_node.bench.link_load import LinkLoad

__all__ = ["answer_plainly", "meet_plainly"]

_PIECE_BYTES = 256 << 10
_LIMIT_BYTES = 1 << 20
_WORD = b"."


async def answer_plainly(load: LinkLoad) -> asyncio.Server:
    """A server that takes part in as many meetings as come."""
    answer = secrets.token_bytes(load.answer_bytes)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await _take(reader, load.offer_bytes)
                await _give(writer, answer)
                await _take(reader, load.close_bytes)
                await _give(writer, _WORD)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the other end has had its meetings
        finally:
            writer.close()

    return await asyncio.start_server(serve, load.host, 0, limit=_LIMIT_BYTES)


async def meet_plainly(load: LinkLoad) -> list[float]:
    """Seconds of each meeting; the first includes the connection. Raises OSError."""
    assert load.peer is not None  # who dials has been told whom
    host, port = load.peer.address.rsplit(":", 1)
    offer, close = secrets.token_bytes(load.offer_bytes), secrets.token_bytes(load.close_bytes)
    seconds = []
    begun_s = time.perf_counter()
    reader, writer = await asyncio.open_connection(host, int(port), limit=_LIMIT_BYTES)
    for _ in range(load.meetings):
        await _give(writer, offer)
        await _take(reader, load.answer_bytes)
        await _give(writer, close)
        await _take(reader, len(_WORD))
        seconds.append(time.perf_counter() - begun_s)
        begun_s = time.perf_counter()
    writer.close()
    return seconds


async def _give(writer: asyncio.StreamWriter, data: bytes) -> None:
    view = memoryview(data)
    for offset in range(0, len(view), _PIECE_BYTES):
        writer.write(view[offset : offset + _PIECE_BYTES])
        await writer.drain()


async def _take(reader: asyncio.StreamReader, num_bytes: int) -> None:
    while num_bytes:
        piece = await reader.read(min(num_bytes, _PIECE_BYTES))
        if not piece:
            raise asyncio.IncompleteReadError(b"", num_bytes)
        num_bytes -= len(piece)
