"""The members that a joiner asks, and the way to them: real services, and a played network in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import grpc
import grpc.aio
import torch

from lowcomm_node import PROTOCOL_VERSION
from lowcomm_node.adapters.grpc_endpoints import Lent
from lowcomm_node.adapters.grpc_states import state_handler
from lowcomm_node.adapters.snapshot_shelf import SnapshotShelf
from lowcomm_node.adapters.state_donor import StateDonor
from lowcomm_node.core.events import Member
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.core.pacing import Pacer
from lowcomm_node.errors import LinkError
from lowcomm_node.train.fingerprint import fingerprint_of
from lowcomm_node.train.state_file import TrainingState, write_state
from lowcomm_node.units import PeerId
from lowcomm_node.wire.gen.lowcomm.v1 import state_pb2
from tests.daemon.tiny_trainer import RUN, content_of, state_at

__all__ = ["CHUNK_BYTES", "LATENCY_S", "Donor", "Wire", "World", "as_nobody"]

CHUNK_BYTES = 1024
LATENCY_S = 0.05


class World(Protocol):
    """What happens to donors and to what they send."""

    is_shared: bool
    pace: float
    donors: "list[Donor]"
    chunk_fate: str

    @property
    def now(self) -> float:
        """Seconds."""

    def at(self, peer: PeerId) -> "Donor | None":
        """Whether it answers now."""

    def step(self, name: str) -> None:
        """Something is about to happen."""

    def wrote(self, content: str) -> None:
        """A state that somebody has."""

    def damaged(self, answer: bytes) -> bytes:
        """A description, as it arrives."""

    def fetches(self, request: state_pb2.FetchRequest) -> None:
        """The node asks for chunks."""


class _Status(NamedTuple):
    code: grpc.StatusCode
    details: str


class _Details(NamedTuple):
    """Which method is called, as gRPC tells its handlers."""

    method: str
    invocation_metadata: tuple[()] = ()


class _AbortError(Exception):
    """What ``context.abort`` raises, as in gRPC."""


class _Context:
    """The serving end of one call."""

    def __init__(self) -> None:
        self.status: _Status | None = None
        self.sent: asyncio.Queue[bytes | None] = asyncio.Queue(2)

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.status = _Status(code, details)
        raise _AbortError

    async def write(self, data: bytes) -> None:
        await self.sent.put(data)


def _failed(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


async def _somebody(_context: object) -> PeerId:
    """Who calls in this world needs no proof."""
    return PeerId("me")


class Donor:
    """A member that trains and gives its state; it may be away, silent or a liar."""

    def __init__(self, world: World, number: int, folder: Path) -> None:
        self.world = world
        self.number = number
        self.peer = PeerId(f"donor{number}")
        self.folder = folder
        self.is_up = False
        self.is_silent = False
        self.is_lying = False
        self._written = 0
        self._started_at = 100.0 + 10.0 * number
        self._newest: tuple[Path, float, float] | None = None
        self._handlers: Any = None
        self.shelf = SnapshotShelf(folder / "snapshots", CHUNK_BYTES)
        folder.mkdir()

    async def start(self) -> None:
        self.shelf = SnapshotShelf(self.folder / "snapshots", CHUNK_BYTES)
        await self.shelf.take_up()
        donor = StateDonor(
            run_id=RUN,
            protocol_version=PROTOCOL_VERSION,
            source=self._snapshot,
            fingerprint=self._fingerprint,
            shelf=self.shelf,
            pacer=Pacer(1e6),
            is_meeting=lambda: False,
            on_sent=lambda _: None,
        )
        self._handlers = state_handler(donor, _somebody)
        self.is_up = True

    def die(self) -> None:
        """All calls break; what is on the shelf stays on disk."""
        if self.is_up:
            self.is_up = False
            self._newest = None
            self.shelf.close()

    def handler(self, method: str) -> Any:
        return self._handlers.service(_Details(method))

    @property
    def progress_steps(self) -> float:
        return self._started_at + self.world.pace * self.world.now

    def member(self) -> Member:
        return Member(
            peer=self.peer,
            grpc_address=f"{self.peer}:1",
            progress_steps=self.progress_steps,
            has_state=True,
            expires_at=1e12,
        )

    async def _snapshot(self) -> tuple[Path, float]:
        if self._newest is not None and self.world.now - self._newest[2] < 10.0:
            return self._newest[:2]
        state = state_at(self.progress_steps, self.number)
        if self.is_lying:
            state = TrainingState(
                tensors={**state.tensors, "params/w": torch.full((48, 32), torch.nan)}, counters=state.counters
            )
        else:
            self.world.wrote(content_of(state))
        self._written += 1
        path = self.folder / f"snapshot-{self._written}.safetensors"
        write_state(path, state, RUN)
        self._newest = path, state.counters.progress_steps, self.world.now
        if self.world.is_shared:
            for other in self.world.donors:
                if other is not self and other.is_up:
                    await other.shelf.put(path, state.counters.progress_steps)
        return self._newest[:2]

    async def _fingerprint(self) -> Fingerprint:
        return fingerprint_of(state_at(self.progress_steps, self.number))


class Wire:
    """In place of a ``ChannelCache``: calls of the node at donors, each message a moment under way."""

    def __init__(self, world: World) -> None:
        self.world = world

    @asynccontextmanager
    async def lend(self, peer: PeerId) -> AsyncIterator[Any]:
        await asyncio.sleep(LATENCY_S)
        if self.world.at(peer) is None:
            raise LinkError("unreachable", peer)
        yield Lent(channel=_Channel(self.world, peer), metadata=())  # type: ignore[arg-type]


class _Channel:
    def __init__(self, world: World, peer: PeerId) -> None:
        self._world = world
        self._peer = peer

    def unary_unary(self, method: str) -> Callable[..., Coroutine[Any, Any, bytes]]:
        name = method.rpartition("/")[2]

        async def call(request: bytes, *, metadata: tuple[()]) -> bytes:
            donor = await self._arrive(f"{name} asked")
            context = _Context()
            serving = as_nobody(donor.handler(method).unary_unary(request, context), "donor answers")
            try:
                answer: bytes = await serving
            except _AbortError:
                assert context.status is not None
                raise _failed(*context.status) from None
            await self._arrive(f"{name} answered")
            return self._world.damaged(answer) if name == "Describe" else answer

        return call

    def unary_stream(self, method: str) -> "Callable[..., _Stream]":
        def call(request: bytes, *, metadata: tuple[()]) -> _Stream:
            return _Stream(self._world, self, method, request)

        return call

    async def _arrive(self, what: str) -> Donor:
        """A message is under way; the other end, once it is there."""
        self._world.step(f"{what} {self._peer}")
        await asyncio.sleep(LATENCY_S)
        donor = self._world.at(self._peer)
        if donor is None:
            raise _failed(grpc.StatusCode.UNAVAILABLE, "connection reset")
        while donor.is_silent:  # noqa: ASYNC110 - until it speaks again, or nobody waits any more
            await asyncio.sleep(1.0)
        return donor


class _Stream:
    """One Fetch."""

    def __init__(self, world: World, channel: _Channel, method: str, request: bytes) -> None:
        self._world = world
        self._channel = channel
        self._method = method
        self._request = request
        self._context = _Context()
        self._serving: asyncio.Task[None] | None = None
        self._again: bytes | None = None

    async def read(self) -> bytes | object:
        if self._serving is None:
            self._world.fetches(state_pb2.FetchRequest.FromString(self._request))
            donor = await self._channel._arrive("Fetch asked")
            self._serving = as_nobody(self._serve(donor), "donor serves")
        if self._again is not None:
            data, self._again = self._again, None
            return data
        chunk = await self._context.sent.get()
        if chunk is None:
            if self._context.status is not None:
                raise _failed(*self._context.status)
            return grpc.aio.EOF
        await self._channel._arrive("chunk")
        fate, self._world.chunk_fate = self._world.chunk_fate, ""
        if fate == "doubled":
            self._again = chunk
        if fate == "damaged":
            return chunk[:-1] + bytes([chunk[-1] ^ 1])
        if fate == "wrong":
            parsed = state_pb2.SnapshotChunk.FromString(chunk)
            parsed.index += 1
            return parsed.SerializeToString()
        if fate == "lost":
            chunk = await self._context.sent.get() or b""
        return chunk

    def cancel(self) -> None:
        if self._serving is not None:
            self._serving.cancel()

    async def _serve(self, donor: Donor) -> None:
        with suppress(_AbortError, OSError):  # OSError: it has died
            await donor.handler(self._method).unary_stream(self._request, self._context)
        await self._context.sent.put(None)


def as_nobody(work: Coroutine[Any, Any, Any], name: str) -> "asyncio.Task[Any]":
    """A task of none of the processes that faults strike."""
    return asyncio.get_running_loop().create_task(work, name=name, context=Context())
