"""How others get to this node, and what it does so that they do: bells at members that can be dialled, direct paths to others."""

import asyncio
import ipaddress
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

from lowcomm_node.adapters.bells import OwnBells
from lowcomm_node.adapters.dial_back import DIAL_S, ask_to_dial
from lowcomm_node.adapters.grpc_endpoints import ChannelCache
from lowcomm_node.adapters.hivemind_directory import HivemindDirectory
from lowcomm_node.adapters.meeting_link import MeetingLink
from lowcomm_node.adapters.state_streams import StateServer
from lowcomm_node.core.commands import HangBell, SeekPath, TakeBell
from lowcomm_node.core.events import PathSought, ReachabilityMeasured
from lowcomm_node.core.places import Fullness
from lowcomm_node.core.reach import DialledBack, judge
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.errors import DirectoryError
from lowcomm_node.ports import NodeSink
from lowcomm_node.settings.node import NetworkSettings
from lowcomm_node.telemetry.logs import get_logger
from lowcomm_node.units import PeerId, Reachability
from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2

__all__ = ["Outreach"]


_MAX_ASKED = 3
_ANSWER_S = DIAL_S + 2.0
"""Whoever tries has its answer by then. A start waits no longer, and who does not answer keeps nobody else's answer from counting."""
_DOUBTFUL_AGAIN_S = 15.0
"""Nobody could tell, or a few times only that we cannot be dialled: whoever tried may have been overloaded."""
_DOUBTFUL_TIMES = 3
_CLOSED_AGAIN_S = 120.0
_OPEN_AGAIN_S = 900.0
_CIRCUIT = "/p2p-circuit"


class Outreach:
    """Finds out how others get to this node, and carries out what the core decides about it.

    Args:
        settings: may others dial, and where.
        dht: knows whom to ask, and is told what has come of it.
        channels: connections to other nodes.
        link: answers meetings for which we are rung.
        states: answers who rings to ask about our state.
        sink: is told of bells and paths.
        recorder: is told how others get to this node, once that is known and whenever it changes.
        request: what to ask of a member that is to try; its port is 0 while none is open.
        public_members: who might try.
        seek: gets a direct libp2p connection to a member, if it can; raises DirectoryError.
    """

    def __init__(
        self,
        *,
        settings: NetworkSettings,
        dht: HivemindDirectory,
        channels: ChannelCache,
        link: MeetingLink,
        states: StateServer,
        sink: NodeSink,
        recorder: Recorder,
        request: records_pb2.DialBackRequest,
        public_members: Callable[[], list[PeerId]],
        seek: Callable[[PeerId], Awaitable[bool]],
    ) -> None:
        self._settings = settings
        self._dht = dht
        self._sink = sink
        self._recorder = recorder
        self._request = request
        self._public_members = public_members
        self._seek_path = seek
        self._is_known = settings.inbound != "auto"
        self._num_closed = 0
        """Measurements in a row that have found no way in."""
        self._has_punched = False
        self._has_place = False
        """At a relay, when it was looked at last."""
        self._bells = OwnBells(
            channels=channels, link=link, states=states, record=lambda: dht.record, on_event=sink.handle
        )
        self._seeking: set[asyncio.Task[None]] = set()
        self._log = get_logger("reach")

    @property
    def fullness(self) -> Fullness:
        """Of rings that are answered."""
        return self._bells.fullness

    def carry_out(self, command: HangBell | TakeBell | SeekPath) -> None:
        """Begin; what comes of it is told to the sink."""
        match command:
            case HangBell():
                self._bells.hang(command.peer)
            case TakeBell():
                self._bells.take(command.peer)
            case SeekPath():
                task = asyncio.create_task(self._seek(command.peer))
                self._seeking.add(task)
                task.add_done_callback(self._seeking.discard)

    async def begin(self) -> None:
        """Have somebody try before we announce an address, if there is somebody. Bounded in time."""
        await self._measure()
        await self._dht.wait_up()

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Tell the core how others get to this node, now and whenever it has changed; ``on_change``: our record has."""
        known: Reachability | None = None
        while True:
            reachability = self._dht.reachability
            if known is not reachability:
                self._recorder.reached(reachability, is_measured=self._is_known)
                self._sink.handle(ReachabilityMeasured(reachability=reachability))
                if known is not None:
                    on_change()
                known = reachability
            await asyncio.sleep(self._pause_s())
            await self._measure()

    def _pause_s(self) -> float:
        if not self._is_known or 0 < self._num_closed < _DOUBTFUL_TIMES:
            return _DOUBTFUL_AGAIN_S
        return _OPEN_AGAIN_S if self._dht.reachability is Reachability.PUBLIC else _CLOSED_AGAIN_S

    async def _measure(self) -> None:
        """Ask a few members to dial us, and see what else leads here. Nobody there to tell changes nothing."""
        if self._settings.inbound == "on":
            return
        answer = None
        if self._settings.inbound == "auto":
            members = self._public_members()
            answer = judge(await self._ask(random.sample(members, min(_MAX_ASKED, len(members)))))
            if answer is None:
                return
            self._is_known = True
        self._num_closed = 0 if answer is not None and answer.is_reachable else self._num_closed + 1
        if answer is not None and answer.is_reachable:
            self._dht.grpc_address = self._address(answer.host)
            self._dht.play(Reachability.PUBLIC)
        else:
            self._dht.grpc_address = ""
            self._dht.play(await self._closed_reachability())
        await self._dht.wait_up()

    async def _ask(self, peers: list[PeerId]) -> list[DialledBack]:
        """What these find who answer in time."""
        asking = [asyncio.create_task(self._ask_one(peer), name=f"dial back by {peer}") for peer in peers]
        try:
            if asking:
                await asyncio.wait(asking, timeout=_ANSWER_S)
            return [told for task in asking if task.done() and (told := task.result()) is not None]
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def _ask_one(self, peer: PeerId) -> DialledBack | None:
        try:
            return await ask_to_dial(self._dht.session, peer, self._request)
        except DirectoryError:
            return None

    async def _closed_reachability(self) -> Reachability:
        """What leads to a node that cannot be dialled."""
        has_place = False
        with suppress(DirectoryError):
            has_place = any(_CIRCUIT in address for address in await self._dht.session.visible_addresses())
            if self._has_place and not has_place:
                # All its relays have gone, and to those that come back p2pd does not turn again for an hour.
                self._log.info("relays_lost")
                self._dht.renew()
            self._has_place = has_place
        if self._has_punched:
            return Reachability.HOLEPUNCHED
        return Reachability.RELAYED if has_place else Reachability.OUTBOUND_ONLY

    def _address(self, seen_host: str) -> str:
        """What to announce: what the settings say, else the address that was bound, else where others see us."""
        host = self._settings.announce_host or self._settings.host
        with suppress(ValueError):
            if ipaddress.ip_address(host).is_unspecified:
                host = seen_host
        return f"[{host}]:{self._request.port}" if ":" in host else f"{host}:{self._request.port}"

    async def stop(self) -> None:
        """Take all bells down."""
        seeking = list(self._seeking)
        for task in seeking:
            task.cancel()
        await asyncio.gather(*seeking, self._bells.stop(), return_exceptions=True)

    async def _seek(self, peer: PeerId) -> None:
        is_direct = False
        try:
            is_direct = await self._seek_path(peer)
            self._has_punched |= is_direct and self._dht.reachability is not Reachability.PUBLIC
        except DirectoryError as error:
            self._log.debug("no_path", peer=peer, detail=str(error))
        self._sink.handle(PathSought(peer=peer, is_direct=is_direct))
