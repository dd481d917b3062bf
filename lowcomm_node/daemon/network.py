"""Everything of a node that talks to other nodes: directory, gRPC server, link, state download. One life each."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from lowcomm_node import PROTOCOL_VERSION
from lowcomm_node.adapters.contacts import Contacts
from lowcomm_node.adapters.grpc_endpoints import ChannelCache, GrpcServer
from lowcomm_node.adapters.grpc_link import GrpcLink
from lowcomm_node.adapters.hivemind_directory import HivemindDirectory
from lowcomm_node.adapters.identity import Identity
from lowcomm_node.adapters.line import Line
from lowcomm_node.adapters.probe import ProbeService
from lowcomm_node.adapters.snapshot_shelf import SnapshotShelf
from lowcomm_node.adapters.state_client import GrpcStateClient
from lowcomm_node.adapters.state_service import StateService
from lowcomm_node.core.events import Member
from lowcomm_node.core.pacing import Pacer
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.errors import DirectoryError, NoPeerError
from lowcomm_node.ports import (
    ChildLedger,
    Directory,
    FingerprintSource,
    Link,
    MeetingSink,
    SnapshotSource,
    StateClient,
    Welcome,
)
from lowcomm_node.settings.node import MeetingSettings, NetworkSettings
from lowcomm_node.telemetry.logs import get_logger
from lowcomm_node.train.messages import Ready
from lowcomm_node.units import RunId
from lowcomm_node.wire.meeting import MeetingLimits

__all__ = ["Network"]

_FIRST_RETRY_S = 0.5
_LONGEST_RETRY_S = 5.0
_STALL_OVER_DEADLINE = 1.5
"""A stream is given up a little after the core has lost its patience with the meeting."""
_WITHDRAW_S = 3.0
_STREAMS_PER_MEETING = 3

_T = TypeVar("_T")


class Network:
    """Directory first (it finds the run), then, once the trainer knows the shapes, the rest."""

    def __init__(
        self,
        *,
        settings: NetworkSettings,
        patience: MeetingSettings,
        line: Line,
        identity: Identity,
        peers: tuple[str, ...],
        state_dir: Path,
        recorder: Recorder,
        children: ChildLedger,
    ) -> None:
        self._settings = settings
        self._patience = patience
        self._line = line
        self._recorder = recorder
        self._log = get_logger("network")
        self._dht = HivemindDirectory(
            identity=identity,
            settings=settings,
            initial_peers=peers,
            socket_dir=state_dir / "p2p",
            protocol_version=PROTOCOL_VERSION,
            on_restart=lambda _count: recorder.metrics.dht_restarted(),
            ledger=children,
        )
        self._directory: Directory = self._dht
        self._identity = identity
        self._contacts = Contacts()
        self._channels = ChannelCache(self._contacts)
        self._server: GrpcServer | None = None
        self._link: GrpcLink | None = None
        self._shelf = SnapshotShelf(state_dir / "snapshots")
        self._welcome: Welcome | None = None
        self.state_client: StateClient = GrpcStateClient(
            channels=self._channels,
            protocol_version=PROTOCOL_VERSION,
            shelf=self._shelf,
            on_received=lambda num_bytes: recorder.metrics.state_moved("received", num_bytes),
            line=line,
        )
        self.join_address = ""
        """What others pass to --peers; empty before the directory is up."""

    @property
    def grpc_address(self) -> str:
        """host:port for meetings and downloads; empty before the port is open."""
        return self._dht.grpc_address

    @property
    def link(self) -> Link:
        """The link of meetings. Only after ``open``."""
        if self._link is None:
            raise DirectoryError("the link is not open yet")
        return self._link

    async def start(self, remembered: Sequence[str] = (), *, may_be_alone: bool = False) -> bool:
        """Bring the directory up, with the help of peers remembered from an earlier life. True when somebody is there.

        Raises DirectoryError, and, unless the node may be alone, NoPeerError when none of all these peers is found in time.
        """
        try:
            await self._patiently(lambda: self._dht.start(remembered))
        except NoPeerError as error:
            if not may_be_alone:
                raise
            self._log.warning("nobody_there", detail=str(error))
            await self._dht.start(remembered, may_be_alone=True)
        self.join_address = (await self._dht.visible_addresses())[0]
        return self._dht.has_company

    async def hello(self) -> Welcome:
        """Ask the given peers for their run. Raises NoPeerError, DirectoryError."""
        self._welcome = await self._patiently(lambda: self._directory.hello(None))
        self._contacts.learn(self._welcome.member)
        return self._welcome

    async def open(
        self,
        run: RunId,
        canonical: bytes,
        ready: Ready,
        sink: MeetingSink,
        *,
        is_meeting: Callable[[], bool],
        snapshots: SnapshotSource,
        fingerprints: FingerprintSource,
    ) -> None:
        """Open the port for meetings and downloads, and tell whoever asks about the run."""
        limits = MeetingLimits(
            run_id=run,
            peer_id=self._identity.peer_id,
            protocol_version=PROTOCOL_VERSION,
            max_payload_bytes=_largest_payload_bytes(ready),
            max_tensors=len(ready.shapes),
        )
        self._link = GrpcLink(
            sink=sink,
            limits=limits,
            channels=self._channels,
            line=self._line,
            stall_timeout_s=_STALL_OVER_DEADLINE * self._patience.deadline_s,
            on_bytes=self._recorder.wire_bytes,
            on_refused=lambda reason: self._recorder.rejected(reason, "refused on the wire"),
        )
        self._server = GrpcServer(host=self._settings.host, port=self._settings.grpc_port)
        await self._shelf.take_up()
        states = StateService(
            run_id=run,
            protocol_version=PROTOCOL_VERSION,
            source=snapshots,
            fingerprint=fingerprints,
            shelf=self._shelf,
            pacer=Pacer(self._settings.state_rate_bytes_per_s),
            line=self._line,
            is_meeting=is_meeting,
            on_sent=lambda num_bytes: self._recorder.metrics.state_moved("sent", num_bytes),
        )
        handlers = [self._link.handler(), states.handler(), ProbeService(self._line).handler()]
        port = await self._server.start(handlers)
        host = self._settings.announce_host or self._settings.host
        self._dht.grpc_address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        await self._directory.serve_hello(run, canonical)

    @property
    def known_addresses(self) -> tuple[str, ...]:
        """Where other members are or were, for this node's next start."""
        return self._dht.known_addresses

    def verify(self, signed_record: bytes) -> Member:
        """Check a record that came in an offer. Raises RemoteProtocolError."""
        member = self._directory.verify(signed_record)
        self._contacts.learn(member)
        return member

    @property
    def record(self) -> bytes:
        """Our newest signed record, for offers; partners believe it even while the DHT has not taken it."""
        return self._dht.record

    async def announce(self, *, progress_steps: float, has_state: bool) -> None:
        """Renew our record and store it, if the DHT takes it this time."""
        await self._counted("put", lambda: self._directory.announce(progress_steps=progress_steps, has_state=has_state))

    async def members(self) -> tuple[Member, ...]:
        """A sample of live members; none when the DHT does not answer this time."""
        members = await self._counted("get", self._directory.members) or ()
        for member in members:
            self._contacts.learn(member)
        return members

    async def donors(self) -> tuple[Member, ...]:
        """Who might give its state: the sample, and the peer that told us of the run."""
        members = {member.peer: member for member in await self.members()}
        if self._welcome is not None:
            members.setdefault(self._welcome.member.peer, self._welcome.member)
        return tuple(members.values())

    async def withdraw(self) -> None:
        """Say good-bye in the directory, if that can be done quickly."""
        with suppress(DirectoryError, TimeoutError):
            async with asyncio.timeout(_WITHDRAW_S):
                await self._directory.withdraw()

    async def stop(self) -> None:
        """Close everything; bounded in time."""
        if self._link is not None:
            await self._link.stop()
        if self._server is not None:
            await self._server.stop()
        self._shelf.close()
        await self._channels.close()
        await self._dht.stop()

    async def _counted(self, operation: str, request: Callable[[], Awaitable[_T]]) -> _T | None:
        try:
            result = await request()
        except DirectoryError as error:
            self._recorder.metrics.dht_requested(operation, "error")
            self._log.warning("dht_request_failed", operation=operation, detail=str(error))
            return None
        self._recorder.metrics.dht_requested(operation, "ok")
        return result

    async def _patiently(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Try again while no peer answers: a whole swarm may be starting at once."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.start_timeout_s
        wait_s = _FIRST_RETRY_S
        while True:
            try:
                return await attempt()
            except NoPeerError as error:
                if loop.time() + wait_s > deadline:
                    raise
                self._log.warning("no_peer_yet", detail=str(error), next_try_s=wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(_LONGEST_RETRY_S, 2 * wait_s)


def _largest_payload_bytes(ready: Ready) -> int:
    """Most bytes one message can have: every stream whole, in fp32. The trainer checks the plan's exact sizes."""
    return _STREAMS_PER_MEETING * 4 * ready.parameters
