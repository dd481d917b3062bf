"""A peer that has our meetings, a process of its own: ``python -m lowcomm_node.bench.averager_meetings LOAD``.

Plans, codecs, messages, link, TLS and port are a node's. What a node has besides is not here: decisions when to meet and whom, and
the process boundary between daemon and trainer.
"""

import asyncio
import hashlib
import os
import secrets
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import uvloop

from lowcomm_node import PROTOCOL_VERSION
from lowcomm_node.adapters.identity import Identity, load_or_create
from lowcomm_node.adapters.tcp import tune_connections
from lowcomm_node.algo import exchange
from lowcomm_node.algo.correction import Correction
from lowcomm_node.bench.averager_load import Order, PeerLoad, PeerState, Word
from lowcomm_node.bench.link_load import LinkLoad
from lowcomm_node.bench.link_node import RUN, LinkNode
from lowcomm_node.core.messages import Answer, Close, Confirm, Message, Offer, StreamPlan, Verdict
from lowcomm_node.errors import LinkError
from lowcomm_node.settings.manifest import Manifest, MeetingConfig
from lowcomm_node.settings.presets import MODELS
from lowcomm_node.train.plans import Planner
from lowcomm_node.units import LinkKind, MeetingId, PeerId, Stream

__all__ = ["CODINGS", "MeetingPeer", "main"]

_PARAMETERS_ALONE = MeetingConfig(exp_avg_every_steps=0, exp_avg_sq_every_steps=0, momentum_every_steps=0)
CODINGS = {
    "default": _PARAMETERS_ALONE,
    "whole-fp32": replace(_PARAMETERS_ALONE, codec="dense", dtype="fp32"),
    "whole-bf16": replace(_PARAMETERS_ALONE, codec="dense", dtype="bf16"),
}
"""default: what a new run's nodes do, a part of the difference; whole: all of it, at once."""
_PAIR_AVERAGE = 0.5
_HOST = "127.0.0.1"
_Result = TypeVar("_Result")


class MeetingPeer(LinkNode):
    """Both roles: whoever knows the partner begins."""

    def __init__(self, load: PeerLoad, link: LinkLoad, identity: Identity, state: PeerState) -> None:
        super().__init__(link, identity, max_tensors=len(state.tensors))
        self._own = identity.peer_id
        self._state = state
        shapes = {Stream.PARAMS: tuple(tuple(tensor.shape) for tensor in state.tensors)}
        base = Manifest(name="averaged", model=MODELS[load.model])
        self._planners = {name: Planner(replace(base, meeting=meeting), shapes) for name, meeting in CODINGS.items()}
        self._codec = ThreadPoolExecutor(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._coding = "default"
        self._plan: StreamPlan | None = None
        self._offer = b""
        self._half: exchange.AnswerHalf | None = None
        self._correction: Correction | None = None
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sent_bytes = 0

    async def round(self, order: Order) -> Word:
        """One meeting; at the end that answers, the one that comes. Never raises: a failure is a word."""
        self._coding, self._sent_bytes = order.coding, 0
        self._over = asyncio.get_running_loop().create_future()
        begun_s = time.monotonic()
        failure = ""
        try:
            async with asyncio.timeout(order.patience_s):
                if self._load.peer is not None:
                    await self._begin(PeerId(self._load.peer.peer_id))
                await self._over
        except TimeoutError:
            failure = "no end in time"
        except LinkError as error:
            failure = error.reason
        seconds = time.monotonic() - begun_s
        return Word(
            seconds=seconds,
            failure=failure,
            group=0 if failure else 2,
            payload_bytes=self._sent_bytes,
            sample=self._state.sample(),
        )

    async def stop(self) -> None:
        """Leave nothing behind."""
        await super().stop()
        self._codec.shutdown()

    def message_received(self, message: Message, kind: LinkKind) -> None:
        """Codecs work beside the link, as a trainer does (``MeetingSink``)."""
        del kind
        task = asyncio.get_running_loop().create_task(self._answer_to(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def link_failed(self, meeting_id: MeetingId, reason: str) -> None:
        """The round is over here (``MeetingSink``)."""
        del meeting_id
        if not self._over.done():
            self._over.set_exception(LinkError(reason, "while peers averaged"))

    async def _begin(self, peer: PeerId) -> None:
        meeting = MeetingId(secrets.token_hex(16))
        plan = self._plan = self._planners[self._coding].plan(Stream.PARAMS, is_dense=False)
        ranges = self._planners[self._coding].ranges(plan)
        self._offer = await self._work(
            lambda: exchange.encode_offer(self._state.tensors, plan, _seed(meeting), ranges=ranges)
        )
        offer = Offer(
            meeting_id=meeting,
            run_id=RUN,
            protocol_version=PROTOCOL_VERSION,
            sender=self._own,
            receiver=peer,
            plans=(plan,),
            parts=(self._offer,),
            progress_steps=0.0,
        )
        self._sent_bytes += len(self._offer)
        self._link.open(meeting, peer, offer, LinkKind.GRPC)

    async def _answer_to(self, message: Message) -> None:
        meeting, tensors = message.meeting_id, self._state.tensors
        match message:
            case Offer():
                plan = self._plan = message.plans[0]
                answer, self._half = await self._work(
                    lambda: exchange.encode_answer(tensors, plan, _seed(meeting), message.parts[0])
                )
                self._send(Answer(meeting_id=meeting, parts=(answer,), progress_steps=0.0), len(answer))
            case Answer() if self._plan is not None:
                plan, offer = self._plan, self._offer
                close, self._correction = await self._work(
                    lambda: exchange.encode_close(tensors, plan, _seed(meeting), offer, message.parts[0])
                )
                self._send(Close(meeting_id=meeting, parts=(close,)), len(close))
            case Close() if self._half is not None:
                half = self._half
                correction = await self._work(lambda: exchange.finish(half, message.parts[0]))
                await self._apply(correction, _PAIR_AVERAGE, is_own=False)
                self._send(Verdict(meeting_id=meeting, applied=True), 0)
            case Verdict() if self._correction is not None:
                await self._apply(self._correction, -_PAIR_AVERAGE, is_own=True)
                self._send(Confirm(meeting_id=meeting), 0)
                self._end(meeting)
            case Confirm():
                self._end(meeting)
            case _:
                self.link_failed(meeting, type(message).__name__)

    async def _apply(self, correction: Correction, weight: float, *, is_own: bool) -> None:
        plan = self._plan
        assert plan is not None  # a correction has one
        await self._work(lambda: correction.add_to_(self._state.tensors, weight))
        # Both ends learn how large differences are, so that either may begin.
        self._planners[self._coding].observe(plan, correction, is_own=is_own)

    def _end(self, meeting: MeetingId) -> None:
        self._link.close(meeting)
        self._offer, self._half, self._correction = b"", None, None
        if not self._over.done():
            self._over.set_result(None)

    def _send(self, message: Message, payload_bytes: int) -> None:
        self._sent_bytes += payload_bytes
        self._link.send(message.meeting_id, message)

    async def _work(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._codec, work)


def _seed(meeting: MeetingId) -> bytes:
    return hashlib.sha256(meeting.encode()).digest()


async def _serve(load: PeerLoad) -> None:
    state = PeerState(load)
    num_bytes = 5 * sum(tensor.numel() for tensor in state.tensors)
    link = LinkLoad(carrier="grpc", host=_HOST, is_answerer=True, folder=load.folder, offer_bytes=num_bytes)
    identity = load_or_create(Path(load.folder) / "identity.key")
    loop = asyncio.get_running_loop()
    peer = MeetingPeer(load, link, identity, state)
    try:
        _say(Word(where=await peer.start()))
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            order = Order.from_json(line)
            match order.what:
                case "know":
                    # Who is to dial knows whom from the start.
                    await peer.stop()
                    peer = MeetingPeer(load, replace(link, peer=order.partner), identity, state)
                    await peer.start()
                    _say(Word())
                case "drift":
                    state.drift(order.seed)
                    _say(Word(sample=state.sample()))
                case _:
                    tune_connections()
                    _say(await peer.round(order))
    finally:
        await peer.stop()


def _say(word: Word) -> None:
    sys.stdout.write(f"{word.to_json()}\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> None:
    """Obey until standard input ends."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(PeerLoad.from_json(arguments[0])))


if __name__ == "__main__":
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    main(sys.argv[1:])
