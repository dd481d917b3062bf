"""One end of a link that is being measured, a process of its own: ``python -m lowcomm_node.bench.link_end LOAD``.

Everything between the payload and the socket is what a node has; only the trainer is missing. The answerer writes a line
with its address and serves until its standard input ends; then, or after its last meeting, an end writes what it has seen.
"""

import asyncio
import math
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop

from lowcomm_node import PROTOCOL_VERSION
from lowcomm_node.adapters.certificate import Certificate
from lowcomm_node.adapters.channel_service import ChannelService
from lowcomm_node.adapters.contacts import Contacts
from lowcomm_node.adapters.grpc_endpoints import ChannelCache, GrpcServer
from lowcomm_node.adapters.grpc_link import GrpcLink
from lowcomm_node.adapters.identity import Identity, load_or_create
from lowcomm_node.adapters.introduction import Introduction
from lowcomm_node.adapters.line import Line
from lowcomm_node.adapters.tcp import received_bytes, tune_connections
from lowcomm_node.bench.link_load import EndResult, LinkLoad, Whereabouts
from lowcomm_node.bench.link_tcp import answer_plainly, meet_plainly
from lowcomm_node.core.events import Member
from lowcomm_node.core.messages import Answer, Busy, Close, Confirm, Message, Offer, StreamPlan, Verdict
from lowcomm_node.core.versions import SPOKEN
from lowcomm_node.errors import LinkError, RemoteProtocolError
from lowcomm_node.units import Codec, Dtype, MeetingId, PeerId, RunId, Stream
from lowcomm_node.wire.channel import NO_CERTIFICATE
from lowcomm_node.wire.meeting import MeetingLimits

__all__ = ["main"]

_BYTES_PER_MBIT = 125_000.0
_TUNE_EVERY_S = 1.0
_SAMPLE_EVERY_S = 0.05
_RUN = RunId("00" * 32)
_PLAN = StreamPlan(stream=Stream.PARAMS, codec=Codec.DENSE, dtype=Dtype.FP32, ranks=(-1,))


class _End:
    """A link with its port and its connections, as a node has them, and a sink that knows what to say next."""

    def __init__(self, load: LinkLoad, identity: Identity) -> None:
        self._load = load
        self._identity = identity
        self._certificate = Certificate.of(identity) if load.carrier == "grpc" else None
        self._answer, self._close = secrets.token_bytes(load.answer_bytes), secrets.token_bytes(load.close_bytes)
        self._offer = secrets.token_bytes(load.offer_bytes)
        line = Line(up_bytes_per_s=load.up_mbit * _BYTES_PER_MBIT, down_bytes_per_s=load.down_mbit * _BYTES_PER_MBIT)
        introduction = Introduction(identity, SPOKEN)
        introduction.enter(_RUN)
        contacts = Contacts()
        if load.peer is not None:
            contacts.learn(_member(load.peer))
        self.channels = ChannelCache(
            contacts, introduction, allow_plaintext=self._certificate is None, window_bytes=line.window_bytes
        )
        self._doorman = ChannelService(
            identity=identity,
            run_id=_RUN,
            protocol_version=PROTOCOL_VERSION,
            certificate_sha256=self._certificate.sha256 if self._certificate is not None else NO_CERTIFICATE,
            admit=lambda _peer, _admission: math.inf,
            on_refused=_told,
        )
        self._server = GrpcServer(
            host=load.host,
            port=0,
            certificate=self._certificate,
            gate=self._doorman.gate(),
            window_bytes=line.window_bytes,
        )
        self.link = GrpcLink(
            sink=self,
            limits=MeetingLimits(
                run_id=_RUN,
                peer_id=identity.peer_id,
                protocol_version=PROTOCOL_VERSION,
                max_payload_bytes=max(1, load.payload_bytes),
                max_tensors=1,
            ),
            channels=self.channels,
            line=line,
            caller=self._doorman.caller,
        )
        self._waiting: dict[MeetingId, asyncio.Future[None]] = {}

    async def start(self) -> Whereabouts:
        """Open the port."""
        port = await self._server.start([self._doorman.handler(), self.link.handler()])
        tune_connections()  # what the listening socket has, accepted ones inherit
        certificate = self._certificate.short.hex() if self._certificate is not None else ""
        return Whereabouts(address=f"{self._load.host}:{port}", peer_id=self._identity.peer_id, certificate=certificate)

    async def stop(self) -> None:
        await self.link.stop()
        await self.channels.close()
        await self._server.stop(0.0)

    async def meet(self, offer: bytes) -> float:
        """Have one meeting that begins with this payload; seconds that it took. Raises LinkError."""
        if self._load.peer is None:
            raise LinkError("unreachable", "an end that answers dials nobody")
        peer = PeerId(self._load.peer.peer_id)
        meeting = MeetingId(secrets.token_hex(16))
        over = self._waiting[meeting] = asyncio.get_running_loop().create_future()
        message = Offer(
            meeting_id=meeting,
            run_id=_RUN,
            protocol_version=PROTOCOL_VERSION,
            sender=self._identity.peer_id,
            receiver=peer,
            plans=(_PLAN,),
            parts=(offer,),
            progress_steps=0.0,
        )
        begun_s = time.perf_counter()
        self.link.open(meeting, peer, message)
        await over
        return time.perf_counter() - begun_s

    def message_received(self, message: Message) -> None:
        meeting = message.meeting_id
        match message:
            case Offer() if self._load.answer_bytes and message.parts[0]:
                self.link.send(meeting, Answer(meeting_id=meeting, parts=(self._answer,), progress_steps=0.0))
            case Offer():
                self.link.send(meeting, Busy(meeting_id=meeting))
                self.link.close(meeting)
            case Answer():
                self.link.send(meeting, Close(meeting_id=meeting, parts=(self._close,)))
            case Close():
                self.link.send(meeting, Verdict(meeting_id=meeting, applied=True))
            case Verdict():
                self.link.send(meeting, Confirm(meeting_id=meeting))
                self._finish(meeting)
            case Confirm():
                self.link.close(meeting)
            case Busy():
                self._finish(meeting)
            case _:
                self.link_failed(meeting, type(message).__name__)

    def message_progressed(self, meeting_id: MeetingId) -> None:
        """Nobody here has deadlines."""

    def link_failed(self, meeting_id: MeetingId, reason: str) -> None:
        if (over := self._waiting.pop(meeting_id, None)) is not None:
            over.set_exception(LinkError(reason, "while the link was measured"))

    def _finish(self, meeting: MeetingId) -> None:
        self.link.close(meeting)
        self._waiting.pop(meeting).set_result(None)

    async def all_meetings(self, result: EndResult) -> None:
        """What the load says, one after the other."""
        for _ in range(self._load.meetings):
            try:
                result.meetings_s.append(await self.meet(self._offer))
            except LinkError as error:
                result.failures.append(error.reason)

    async def probe(self, result: EndResult) -> None:
        """Ask and be answered beside the payload, until cancelled."""
        while True:
            await asyncio.sleep(self._load.probe_every_s)
            with suppress(LinkError):
                result.probes_s.append(await self.meet(b""))


async def _answer(load: LinkLoad, identity: Identity) -> None:
    if load.carrier == "tcp":
        serving = await answer_plainly(load)
        async with serving:
            port = serving.sockets[0].getsockname()[1]
            _say(Whereabouts(address=f"{load.host}:{port}").to_json())
            await _until_stdin_ends()
        return
    end = _End(load, identity)
    _say((await end.start()).to_json())
    await _until_stdin_ends()
    await end.stop()


async def _initiate(load: LinkLoad, identity: Identity, result: EndResult) -> None:
    if load.carrier == "tcp":
        result.meetings_s.extend(await meet_plainly(load))
        return
    end = _End(load, identity)
    probing = asyncio.create_task(end.probe(result)) if load.probe_every_s else None
    await end.all_meetings(result)
    if probing is not None:
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)
    await end.stop()


async def _watched(work: Coroutine[Any, Any, None], result: EndResult) -> None:
    watching = [asyncio.create_task(task) for task in (_tune(), _sample(result))]
    try:
        await work
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)


async def _tune() -> None:
    """As the daemon does."""
    while True:
        tune_connections()
        await asyncio.sleep(_TUNE_EVERY_S)


async def _sample(result: EndResult) -> None:
    while (received := received_bytes()) is not None:
        result.received.append((time.monotonic(), received))
        await asyncio.sleep(_SAMPLE_EVERY_S)


def _member(peer: Whereabouts) -> Member:
    return Member(
        peer=PeerId(peer.peer_id),
        grpc_address=peer.address,
        progress_steps=0.0,
        has_state=True,
        expires_at=math.inf,
        certificate=bytes.fromhex(peer.certificate),
    )


def _told(error: RemoteProtocolError) -> None:
    sys.stderr.write(f"{error}\n")


async def _until_stdin_ends() -> None:
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> None:
    """Be one end; the result is the last line of standard output."""
    load = LinkLoad.from_json(arguments[0])
    received: list[tuple[float, int]] = []
    result = EndResult(received=received)
    with (
        tempfile.TemporaryDirectory(prefix="lcn-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        identity = load_or_create(Path(folder) / "identity.key")
        work = _answer(load, identity) if load.is_answerer else _initiate(load, identity, result)
        runner.run(_watched(work, result))
    _say(result.to_json())


if __name__ == "__main__":
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    main(sys.argv[1:])
