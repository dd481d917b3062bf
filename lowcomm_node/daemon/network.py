"""Everything of a node that talks to other nodes: directory, gRPC server, link, state download. One life each."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import grpc

from lowcomm_node.adapters.admission_file import AdmissionFile
from lowcomm_node.adapters.certificate import Certificate
from lowcomm_node.adapters.channel_service import MAX_AT_THE_DOOR, ChannelService
from lowcomm_node.adapters.contacts import Contacts
from lowcomm_node.adapters.dial_back import DialBack
from lowcomm_node.adapters.doorkeeper import Doorkeeper
from lowcomm_node.adapters.grpc_endpoints import ChannelCache, GrpcServer
from lowcomm_node.adapters.grpc_meetings import meetings_handler
from lowcomm_node.adapters.hivemind_directory import HivemindDirectory
from lowcomm_node.adapters.identity import Identity
from lowcomm_node.adapters.introduction import Introduction
from lowcomm_node.adapters.line import Line
from lowcomm_node.adapters.meeting_link import MeetingLink
from lowcomm_node.adapters.probe import ProbeService
from lowcomm_node.core.events import FrozenNote, Member
from lowcomm_node.core.places import Fullness
from lowcomm_node.core.quarantine import Quarantine
from lowcomm_node.core.versions import SPOKEN
from lowcomm_node.daemon.admitting import own_admission
from lowcomm_node.daemon.asked import recorded
from lowcomm_node.daemon.links import make_link, serve_libp2p
from lowcomm_node.daemon.outreach import Outreach
from lowcomm_node.daemon.patience import patiently
from lowcomm_node.daemon.pulse import Pulse
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.daemon.states import States
from lowcomm_node.errors import DirectoryError, NoPeerError, RemoteProtocolError
from lowcomm_node.ports import (
    Bounded,
    ChildLedger,
    Directory,
    FingerprintSource,
    Link,
    NodeSink,
    SnapshotSource,
    Welcome,
)
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import MeetingSettings, NetworkSettings
from lowcomm_node.telemetry.logs import get_logger
from lowcomm_node.train.messages import Ready
from lowcomm_node.units import PeerId, Reachability, RunId
from lowcomm_node.wire.admission import AdmissionRule, Membership
from lowcomm_node.wire.channel import NO_CERTIFICATE
from lowcomm_node.wire.gen.lowcomm.v1.records_pb2 import DialBackRequest

__all__ = ["Network"]

_WITHDRAW_S = 3.0
_MAX_CALLS = 64  # streams and calls that are served at a time, bells apart


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
        invite: str,
        state_dir: Path,
        recorder: Recorder,
        children: ChildLedger,
    ) -> None:
        """``invite``: an invitation to the run as it was written down, or empty."""
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
            on_death=recorder.directory_died,
            on_dropped=lambda reason: recorder.rejected(reason, "a record in the directory"),
            ledger=children,
        )
        self._directory: Directory = self._dht
        self.vitals = self._dht.vitals
        if settings.inbound == "off":
            self._dht.play(Reachability.OUTBOUND_ONLY)
        self._identity = identity
        self._invite = invite
        self._admission_file = AdmissionFile(state_dir)
        self._membership: Membership | None = None
        self._contacts = Contacts()
        self._introduction = Introduction(identity, SPOKEN)
        self._quarantine = Quarantine()
        self._channels = ChannelCache(
            self._contacts,
            self._introduction,
            self._quarantine,
            window_bytes=line.window_bytes,
            allow_plaintext=self._certificate is None,
            on_refused=lambda peer, error: recorder.rejected(error.reason, f"{peer}: {error.detail}"),
        )
        self.pulse = Pulse(self._channels, line, recorder)
        self._bounded: dict[str, Bounded] = {"contacts": self._contacts, "channels": self._channels}
        self._door: ChannelService | None = None
        self._server: GrpcServer | None = None
        self._link: MeetingLink | None = None
        self._outreach: Outreach | None = None
        self._state_dir = state_dir
        self._welcome: Welcome | None = None
        self._seen: tuple[Member, ...] = ()
        self._states: States | None = None
        self._own_address = ""

    @property
    def join_address(self) -> str:
        """What others pass to --peers: an address of ours, or that of a seed where nobody can dial us; empty where none is known."""
        return self._own_address if self.reachability is Reachability.PUBLIC else self._dht.seed_address

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
    def states(self) -> States:
        """What is given of this node's state, and how that of others is got. Only after ``open``."""
        if self._states is None:
            raise DirectoryError("the node is in no run yet")
        return self._states

    async def start(self, remembered: Sequence[str] = (), *, may_be_alone: bool = False) -> bool:
        """Bring the directory up, with the help of peers remembered from an earlier life. True when somebody is there.

        Raises DirectoryError, and, unless the node may be alone, NoPeerError when none of all these peers is found in time.
        """
        try:
            await patiently(lambda: self._dht.start(remembered), self._settings.start_timeout_s)
        except NoPeerError as error:
            if not may_be_alone:
                raise
            self._log.warning("nobody_there", detail=str(error))
            await self._dht.start(remembered, may_be_alone=True)
        self._own_address = (await self._dht.visible_addresses())[0]
        return self._dht.has_company

    async def hello(self) -> Welcome:
        """Ask the given peers for their run. Raises NoPeerError, DirectoryError, ConfigError where they speak another protocol."""
        self._welcome = await patiently(lambda: self._directory.hello(None), self._settings.start_timeout_s)
        self._contacts.learn(self._welcome.member)
        return self._welcome

    async def enter(self, run: RunId, canonical: bytes, manifest: Manifest) -> None:
        """This is the run. Raises ConfigError when it does not let this node in, StoreError."""
        rule = AdmissionRule.of(manifest.security, run)
        own = self._identity.peer_id
        admission = await asyncio.to_thread(own_admission, rule, own, self._invite, self._admission_file)
        self._membership = membership = Membership(
            run_id=run,
            manifest=canonical,
            protocol_version=manifest.protocol_version,
            rule=rule,
            admission=admission,
        )
        self._introduction.enter(membership)
        if admission:
            stay_s = rule.stay_s(own, admission, time.time())
            self._log.info(
                "admitted", until=datetime.fromtimestamp(time.time() + stay_s, UTC).isoformat(timespec="minutes")
            )

    async def open(
        self,
        ready: Ready,
        sink: NodeSink,
        *,
        is_meeting: Callable[[], bool],
        snapshots: SnapshotSource,
        fingerprints: FingerprintSource,
    ) -> None:
        """Open the port for meetings and downloads, unless others are not to dial, and tell whoever asks about the run."""
        if self._membership is None:
            raise DirectoryError("the node is in no run yet")
        run = self._membership.run_id
        self._door = door = ChannelService(
            identity=self._identity,
            membership=self._membership,
            quarantine=self._quarantine,
            certificate_sha256=self._certificate.sha256 if self._certificate is not None else NO_CERTIFICATE,
            on_refused=self._recorder.turned_away,
            max_calls=_MAX_CALLS + self._settings.max_bells,
        )
        self._link, bells = make_link(
            sink=sink,
            own=self._identity.peer_id,
            membership=self._membership,
            ready=ready,
            channels=self._channels,
            dht=self._dht,
            caller=door.caller,
            verify=self.verify,
            line=self._line,
            on_bytes=self._recorder.wire_bytes,
            on_refused=self.offended,
            max_bells=self._settings.max_bells,
            deadline_s=self._patience.deadline_s,
        )
        dial_back = DialBack(run, self._channels)
        self._states = states = States(
            membership=self._membership,
            state_dir=self._state_dir,
            channels=self._channels,
            dht=self._dht,
            bells=bells,
            line=self._line,
            rate_bytes_per_s=self._settings.state_rate_bytes_per_s,
            recorder=self._recorder,
            snapshots=snapshots,
            fingerprints=fingerprints,
            is_meeting=is_meeting,
            on_refused=self.offended,
        )
        await states.take_up()
        punch, streams = serve_libp2p(self._dht, self._link, states.serve, dial_back, self._is_welcome)
        port = 0
        probe = ProbeService(self._line, caller=door.caller)
        if self._settings.inbound != "off":
            handlers = (meetings_handler(self._link, bells, door.caller), states.handler(door.caller), probe.handler())
            port = await self._listen(door, handlers)
        own_certificate = self._certificate.short if self._certificate is not None else b""
        self._outreach = Outreach(
            settings=self._settings,
            dht=self._dht,
            channels=self._channels,
            link=self._link,
            states=states.serve,
            sink=sink,
            recorder=self._recorder,
            request=DialBackRequest(run_id=bytes.fromhex(run), port=port, certificate=own_certificate),
            public_members=self._public_members,
            seek=punch.seek,
        )
        self._bounded |= {
            **door.bounded, "bells": bells, "dial_backs": dial_back, "downloads": states, "libp2p_streams": streams,
            "meetings": self._link, "rings": self._outreach, "vitals": self.vitals, "quarantine": self._quarantine, "offers": self._link.offers,
            "snapshots": states.shelf, "frozen": states.frozen, "dial_askers": dial_back.askers, "punch_askers": punch.askers, "probes": probe, "clocks": self.pulse,
        }  # fmt: skip
        await self._outreach.begin()
        await self._directory.serve_hello(self._membership)
        self._welcome = self._admitted(self._welcome)

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

    async def announce(self, *, progress_steps: float, has_state: bool, frozen: FrozenNote | None = None) -> None:
        """Renew our record and store it, if the DHT takes it this time."""
        announce = partial(self._directory.announce, progress_steps=progress_steps, has_state=has_state, frozen=frozen)
        await recorded(self._recorder, "put", announce)

    async def members(self) -> tuple[Member, ...]:
        """A sample of live members; none when the DHT does not answer this time."""
        members = self._seen = await recorded(self._recorder, "get", self._directory.members) or ()
        for member in members:
            self._contacts.learn(member)
        return members

    async def donors(self) -> tuple[Member, ...]:
        """Who might be asked for its state: of the sample, and the peer that told us of the run, those to whom there is a way now.

        Raises LinkError, with a reason for people, where there is none.
        """
        members = {member.peer: member for member in await self.members()}
        if self._welcome is not None:
            members.setdefault(self._welcome.member.peer, self._welcome.member)
        return await self.states.askable(tuple(members.values()))

    def fullness(self) -> Mapping[str, Fullness]:
        """Of everything here that is bounded, by the words of ``telemetry.catalogue``."""
        return {word: bounded.fullness for word, bounded in tuple(self._bounded.items())}

    def num_peers(self) -> tuple[int, int]:
        """Peers that this node leaves alone for what they have sent, and peers in the DHT's routing table."""
        return self._quarantine.count(asyncio.get_running_loop().time()), self._dht.num_neighbours

    async def withdraw(self) -> None:
        """Say good-bye in the directory, if that can be done quickly."""
        with suppress(DirectoryError, TimeoutError):
            async with asyncio.timeout(_WITHDRAW_S):
                await self._directory.withdraw()

    async def stop(self) -> None:
        """Close everything; bounded in time."""
        for part in (self._outreach, self._link, self._server):
            if part is not None:
                await part.stop()
        if self._states is not None:
            self._states.close()
        await self._channels.close()
        await self._dht.stop()

    def _public_members(self) -> list[PeerId]:
        """Members that others can dial, as far as we have heard."""
        told = () if self._welcome is None else (self._welcome.member,)
        return list({member.peer for member in (*told, *self._seen) if member.grpc_address})

    def _is_welcome(self, peer: PeerId) -> bool:
        """May this peer, who has proven itself to libp2p, start a meeting? As at the door of our port."""
        if self._quarantine.left_s(peer, asyncio.get_running_loop().time()) > 0:
            return False
        # Its record has been looked at by the run's rule when we learnt it; where everybody may come, none is needed.
        is_open = self._membership is not None and self._membership.rule.kind == "open"
        return is_open or self._contacts.knows(peer, time.time())

    async def _listen(self, door: ChannelService, handlers: Sequence[grpc.GenericRpcHandler]) -> int:
        settings = self._settings
        self._server = GrpcServer(
            host=settings.host,
            port=settings.grpc_port,
            certificate=self._certificate,
            gate=door.gate(),
            doorkeeper=Doorkeeper(door.doorway, self._recorder.turned_away),
            # Who has not said who he is takes no place of those who have.
            max_concurrent_rpcs=2 * MAX_AT_THE_DOOR + _MAX_CALLS + settings.max_bells,
            window_bytes=self._line.window_bytes,
        )
        port = await self._server.start([door.handler(), *handlers])
        host = settings.announce_host or settings.host
        self._dht.grpc_address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return port

    def _admitted(self, welcome: Welcome | None) -> Welcome | None:
        """Whoever told us of the run was not looked at by its rule before we knew that."""
        try:
            if welcome is not None:
                self.verify(welcome.record)
        except RemoteProtocolError as error:
            self._recorder.turned_away(error)
            return None
        return welcome

    def offended(self, peer: PeerId, error: RemoteProtocolError) -> None:
        """A peer, of whom it is proven that it is the one, has sent something that was refused."""
        self._recorder.rejected(error.reason, f"{peer}: {error.detail}")
        length_s = self._quarantine.offended(peer, error.reason, asyncio.get_running_loop().time())
        if length_s:
            self._recorder.quarantined(peer, error.reason, length_s)
            if self._door is not None:
                self._door.end(peer)
