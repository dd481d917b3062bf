"""Everything of a node that talks to other nodes: directory, gRPC server, link, state download. One life each."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import grpc

from lowcomm_node.adapters.bells import HeldBells
from lowcomm_node.adapters.certificate import Certificate
from lowcomm_node.adapters.channel_service import ChannelService
from lowcomm_node.adapters.contacts import Contacts
from lowcomm_node.adapters.dial_back import DialBack
from lowcomm_node.adapters.grpc_endpoints import ChannelCache, GrpcServer
from lowcomm_node.adapters.grpc_meetings import grpc_dialler, meetings_handler
from lowcomm_node.adapters.hivemind_directory import HivemindDirectory
from lowcomm_node.adapters.identity import Identity
from lowcomm_node.adapters.introduction import Introduction
from lowcomm_node.adapters.line import Line
from lowcomm_node.adapters.meeting_link import Dialler, MeetingLink
from lowcomm_node.adapters.p2p_link import p2p_dialler, p2p_handler
from lowcomm_node.adapters.snapshot_shelf import SnapshotShelf
from lowcomm_node.adapters.state_client import GrpcStateClient
from lowcomm_node.adapters.state_service import StateService
from lowcomm_node.core.events import Member
from lowcomm_node.core.pacing import Pacer
from lowcomm_node.core.versions import SPOKEN
from lowcomm_node.daemon.outreach import Outreach
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.errors import DirectoryError, NoPeerError, RemoteProtocolError
from lowcomm_node.ports import (
    ChildLedger,
    Directory,
    FingerprintSource,
    Link,
    NodeSink,
    SnapshotSource,
    StateClient,
    Welcome,
)
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import MeetingSettings, NetworkSettings
from lowcomm_node.telemetry.logs import get_logger
from lowcomm_node.train.messages import Ready
from lowcomm_node.units import LinkKind, PeerId, Reachability, RunId
from lowcomm_node.wire.channel import NO_CERTIFICATE
from lowcomm_node.wire.gen.lowcomm.v1.records_pb2 import DialBackRequest
from lowcomm_node.wire.meeting import MeetingLimits

__all__ = ["Network"]

_FIRST_RETRY_S = 0.5
_LONGEST_RETRY_S = 5.0
_STALL_OVER_DEADLINE = 1.5
"""A stream is given up a little after the core has lost its patience with the meeting."""
_WITHDRAW_S = 3.0
_STREAMS_PER_MEETING = 3
_MAX_RPCS = 64
"""Streams and calls that are served at a time, bells apart."""

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
        self._certificate = Certificate.of(identity) if settings.tls == "on" else None
        self._dht = HivemindDirectory(
            identity=identity,
            settings=settings,
            initial_peers=peers,
            socket_dir=state_dir / "p2p",
            versions=SPOKEN,
            certificate=self._certificate.short if self._certificate is not None else b"",
            on_restart=lambda _count: recorder.metrics.dht_restarted(),
            ledger=children,
        )
        self._directory: Directory = self._dht
        if settings.inbound == "off":
            self._dht.play(Reachability.OUTBOUND_ONLY)
        self._identity = identity
        self._contacts = Contacts()
        self._introduction = Introduction(identity, SPOKEN)
        self._channels = ChannelCache(
            self._contacts,
            self._introduction,
            window_bytes=line.window_bytes,
            allow_plaintext=self._certificate is None,
            on_refused=self._refused_by,
        )
        self._server: GrpcServer | None = None
        self._link: MeetingLink | None = None
        self._outreach: Outreach | None = None
        self._shelf = SnapshotShelf(state_dir / "snapshots")
        self._welcome: Welcome | None = None
        self._seen: tuple[Member, ...] = ()
        self._state_client: StateClient | None = None
        self.join_address = ""
        """What others pass to --peers; empty before the directory is up."""

    @property
    def grpc_address(self) -> str:
        """host:port for meetings and downloads; empty before the port is open, and where nobody can dial it."""
        return self._dht.grpc_address

    @property
    def reachability(self) -> Reachability:
        """How others get to this node, as far as it is known."""
        return self._dht.reachability

    @property
    def outreach(self) -> Outreach:
        """What sees to it that others can start meetings with this node. Only after ``open``."""
        if self._outreach is None:
            raise DirectoryError("the link is not open yet")
        return self._outreach

    @property
    def link(self) -> Link:
        """The link of meetings. Only after ``open``."""
        if self._link is None:
            raise DirectoryError("the link is not open yet")
        return self._link

    @property
    def state_client(self) -> StateClient:
        """Downloads other members' state. Only after ``open``."""
        if self._state_client is None:
            raise DirectoryError("the node is in no run yet")
        return self._state_client

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
        manifest: Manifest,
        ready: Ready,
        sink: NodeSink,
        *,
        is_meeting: Callable[[], bool],
        snapshots: SnapshotSource,
        fingerprints: FingerprintSource,
    ) -> None:
        """Open the port for meetings and downloads, unless others are not to dial, and tell whoever asks about the run."""
        protocol_version = manifest.protocol_version
        self._introduction.enter(run)
        doorman = ChannelService(
            identity=self._identity,
            run_id=run,
            protocol_version=protocol_version,
            certificate_sha256=self._certificate.sha256 if self._certificate is not None else NO_CERTIFICATE,
            admit=lambda _peer, _admission: math.inf,
            on_refused=lambda error: self._recorder.rejected(error.reason, error.detail),
        )
        limits = MeetingLimits(
            run_id=run,
            peer_id=self._identity.peer_id,
            protocol_version=protocol_version,
            max_payload_bytes=_largest_payload_bytes(ready),
            max_tensors=len(ready.shapes),
        )
        bells = HeldBells(
            caller=doorman.caller,
            verify=self.verify,
            on_member=lambda member: sink.members_seen((member,)),
            on_event=sink.handle,
            on_refused=lambda reason: self._recorder.rejected(reason, "refused at a bell"),
            max_bells=self._settings.max_bells,
        )
        diallers: dict[LinkKind, Dialler] = {
            LinkKind.GRPC: grpc_dialler(self._channels),
            LinkKind.GRPC_REVERSED: bells.ring,
            LinkKind.LIBP2P: p2p_dialler(lambda: self._dht.session),
        }
        self._link = MeetingLink(
            sink=sink,
            limits=limits,
            diallers=diallers,
            line=self._line,
            stall_timeout_s=_STALL_OVER_DEADLINE * self._patience.deadline_s,
            on_bytes=self._recorder.wire_bytes,
            on_refused=lambda reason: self._recorder.rejected(reason, "refused on the wire"),
        )
        self._dht.serve_peers(p2p_handler(self._link), DialBack(run, self._channels).serve)
        await self._shelf.take_up()
        states = StateService(
            run_id=run,
            protocol_version=protocol_version,
            source=snapshots,
            fingerprint=fingerprints,
            shelf=self._shelf,
            pacer=Pacer(self._settings.state_rate_bytes_per_s),
            line=self._line,
            is_meeting=is_meeting,
            on_sent=lambda num_bytes: self._recorder.metrics.state_moved("sent", num_bytes),
            caller=doorman.caller,
        )
        port = 0
        if self._settings.inbound != "off":
            port = await self._listen(doorman, (meetings_handler(self._link, bells, doorman.caller), states.handler()))
        own_certificate = self._certificate.short if self._certificate is not None else b""
        self._outreach = Outreach(
            settings=self._settings,
            dht=self._dht,
            channels=self._channels,
            link=self._link,
            sink=sink,
            request=DialBackRequest(run_id=bytes.fromhex(run), port=port, certificate=own_certificate),
            public_members=self._public_members,
        )
        await self._outreach.begin()
        self._state_client = GrpcStateClient(
            channels=self._channels,
            protocol_version=protocol_version,
            shelf=self._shelf,
            on_received=lambda num_bytes: self._recorder.metrics.state_moved("received", num_bytes),
            line=self._line,
        )
        await self._directory.serve_hello(run, canonical, protocol_version)

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
        members = self._seen = await self._counted("get", self._directory.members) or ()
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
        if self._outreach is not None:
            await self._outreach.stop()
        if self._link is not None:
            await self._link.stop()
        if self._server is not None:
            await self._server.stop()
        self._shelf.close()
        await self._channels.close()
        await self._dht.stop()

    def _public_members(self) -> list[PeerId]:
        """Members that others can dial, as far as we have heard."""
        told = [self._welcome.member] if self._welcome is not None else []
        return list({member.peer for member in (*told, *self._seen) if member.grpc_address})

    async def _listen(self, doorman: ChannelService, handlers: Sequence[grpc.GenericRpcHandler]) -> int:
        settings = self._settings
        self._server = GrpcServer(
            host=settings.host,
            port=settings.grpc_port,
            certificate=self._certificate,
            gate=doorman.gate(),
            max_concurrent_rpcs=_MAX_RPCS + settings.max_bells,
            window_bytes=self._line.window_bytes,
        )
        port = await self._server.start([doorman.handler(), *handlers])
        host = settings.announce_host or settings.host
        self._dht.grpc_address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return port

    def _refused_by(self, peer: PeerId, error: RemoteProtocolError) -> None:
        """A peer has shown something wrong, or will have nothing to do with us: whoever looks after this node should know."""
        self._recorder.rejected(error.reason, f"{peer}: {error.detail}")

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
