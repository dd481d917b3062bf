"""One snapshot from all who hold it: up to three at a time share the chunks, and go on where one of them ends."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path

from lowcomm_node.adapters.partial_file import PartialFile
from lowcomm_node.core.chunks import ChunkBoard
from lowcomm_node.errors import LinkError, RemoteProtocolError
from lowcomm_node.units import PeerId
from lowcomm_node.wire.state import Snapshot

__all__ = ["Download"]

_LANES = 3
_RETRY_S = 1.0
_LONGEST_WAIT_S = 60.0

_Fetch = Callable[[PeerId, Sequence[int]], AsyncGenerator[tuple[int, bytes], None]]
_Failure = LinkError | RemoteProtocolError


class Download:
    """Fetches what is missing of ``snapshot`` into ``destination``.

    Args:
        holders: peers; the first is known to hold the snapshot, the others are asked for a chunk to find out.
        fetch: verified chunks from one of them, as they come.
        on_chunk: told the bytes of each chunk, and those done in all.

    When all holders are gone, the download waits for them as long as it has taken so far, at most a minute: a donor that
    is started again still has the snapshot, and to begin with another one costs at least that long.
    """

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        holders: Sequence[PeerId],
        destination: Path,
        fetch: _Fetch,
        on_chunk: Callable[[int, int], None],
    ) -> None:
        self._snapshot = snapshot
        self._holders = holders
        self._file = PartialFile(destination, snapshot)
        self._fetch = fetch
        self._on_chunk = on_chunk
        self._proven = {holders[0]}
        self._board = ChunkBoard(())
        self._done_bytes = 0
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._last_at = self._loop.time()

    async def begin(self) -> int:
        """Look at what is there; returns its bytes. Raises OSError, StoreError."""

        def look() -> list[int]:
            with self._file as file:
                return file.missing()

        missing = await asyncio.to_thread(look)
        self._board = ChunkBoard(missing)
        self._done_bytes = self._snapshot.total_bytes - sum(map(self._snapshot.length_of, missing))
        return self._done_bytes

    async def run(self) -> None:
        """Fetch the rest; afterwards the file has its name. Raises LinkError, RemoteProtocolError, OSError."""
        started_at = self._last_at = self._loop.time()
        with self._file as file:
            done_before = self._done_bytes
            while failures := await self._ask_all(file):
                reasons = {failure.reason for failure in failures.values() if isinstance(failure, LinkError)}
                if "disconnect" in reasons and self._done_bytes > done_before:
                    done_before = self._done_bytes
                    continue
                patience_s = min(self._last_at - started_at, _LONGEST_WAIT_S)
                if "busy" in reasons and self._done_bytes:  # who is busy holds the snapshot
                    patience_s = _LONGEST_WAIT_S
                if self._loop.time() + _RETRY_S > self._last_at + patience_s:
                    raise failures.get(self._holders[0]) or next(iter(failures.values()))
                await asyncio.sleep(_RETRY_S)
            await asyncio.to_thread(file.finish)

    async def _ask_all(self, file: PartialFile) -> dict[PeerId, _Failure]:
        """Fetch from every holder until all is there or each has failed; returns how, nothing when all is there."""
        waiting = deque(self._holders)
        failures: dict[PeerId, _Failure] = {}
        lanes = {
            asyncio.create_task(self._drain(file, waiting, failures), name=f"download {number}")
            for number in range(min(_LANES, len(waiting)))
        }
        running = lanes
        try:
            while running and not self._board.is_complete:
                ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for lane in ended:
                    lane.result()
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)
        return {} if self._board.is_complete else failures

    async def _drain(self, file: PartialFile, waiting: deque[PeerId], failures: dict[PeerId, _Failure]) -> None:
        """One lane: fetch from a holder until it fails, then from the next."""
        while waiting and not self._board.is_complete:
            holder = waiting.popleft()
            try:
                await self._fetch_from(holder, file)
            except (LinkError, RemoteProtocolError) as error:
                failures[holder] = error
            finally:
                self._board.give_back(holder)
                self._tell()

    async def _fetch_from(self, holder: PeerId, file: PartialFile) -> None:
        """Until everything has arrived, from whomever."""
        while not self._board.is_complete:
            window = self._board.take(holder, most=None if holder in self._proven else 1)
            if not window:
                await self._changed.wait()
                continue
            async with aclosing(self._fetch(holder, window)) as chunks:
                async for index, data in chunks:
                    if self._board.is_wanted(holder, index):
                        await asyncio.to_thread(file.write, index, data)
                        self._arrived(holder, index, len(data))
                    if not self._board.has_window(holder):  # it has delivered all, or another has taken over the rest
                        break

    def _arrived(self, holder: PeerId, index: int, num_bytes: int) -> None:
        self._proven.add(holder)
        self._last_at = self._loop.time()
        if self._board.arrived(index):
            self._done_bytes += num_bytes
            self._on_chunk(num_bytes, self._done_bytes)
        self._tell()

    def _tell(self) -> None:
        """Wake who waits for a chunk to become free, or for the end."""
        self._changed.set()
        self._changed = asyncio.Event()
