"""How others get to this node, and what it does so that they do: bells at members that can be dialled, direct paths to others."""

import asyncio

from lowcomm_node.adapters.bells import OwnBells
from lowcomm_node.adapters.grpc_endpoints import ChannelCache
from lowcomm_node.adapters.hivemind_directory import HivemindDirectory
from lowcomm_node.adapters.meeting_link import MeetingLink
from lowcomm_node.core.commands import HangBell, SeekPath, TakeBell
from lowcomm_node.core.events import PathSought, ReachabilityMeasured
from lowcomm_node.errors import DirectoryError
from lowcomm_node.ports import NodeSink
from lowcomm_node.telemetry.logs import get_logger
from lowcomm_node.units import PeerId

__all__ = ["Outreach"]


class Outreach:
    """Carries out what the core decides about the reach of this node."""

    def __init__(self, *, dht: HivemindDirectory, channels: ChannelCache, link: MeetingLink, sink: NodeSink) -> None:
        self._dht = dht
        self._sink = sink
        self._bells = OwnBells(channels=channels, link=link, record=lambda: dht.record, on_event=sink.handle)
        self._seeking: set[asyncio.Task[None]] = set()
        self._log = get_logger("reach")

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

    async def watch(self) -> None:
        """Tell the core how others get to this node."""
        self._sink.handle(ReachabilityMeasured(reachability=self._dht.reachability))

    async def stop(self) -> None:
        """Take all bells down."""
        seeking = list(self._seeking)
        for task in seeking:
            task.cancel()
        await asyncio.gather(*seeking, self._bells.stop(), return_exceptions=True)

    async def _seek(self, peer: PeerId) -> None:
        is_direct = False
        try:
            is_direct = await self._dht.session.seek(peer)
        except DirectoryError as error:
            self._log.debug("no_path", peer=peer, detail=str(error))
        self._sink.handle(PathSought(peer=peer, is_direct=is_direct))
