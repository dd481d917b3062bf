"""One end of a measured link: port, connections and link as a node has them, and a sink that knows at once what to say next."""

import asyncio
import math
import secrets
import sys
import time

from lowcomm_node import PROTOCOL_VERSION
from lowcomm_node.adapters.bells import HeldBells
from lowcomm_node.adapters.certificate import Certificate
from lowcomm_node.adapters.channel_service import ChannelService
from lowcomm_node.adapters.contacts import Contacts
from lowcomm_node.adapters.dht_session import PeerHandlers
from lowcomm_node.adapters.dial_back import DialBack
from lowcomm_node.adapters.grpc_endpoints import ChannelCache, GrpcServer
from lowcomm_node.adapters.grpc_meetings import grpc_dialler, meetings_handler
from lowcomm_node.adapters.hivemind_directory import HivemindDirectory
from lowcomm_node.adapters.hole_punch import HolePunch
from lowcomm_node.adapters.identity import Identity
from lowcomm_node.adapters.introduction import Introduction
from lowcomm_node.adapters.line import Line
from lowcomm_node.adapters.meeting_link import Dialler, MeetingLink
from lowcomm_node.adapters.p2p_link import p2p_dialler, p2p_handler
from lowcomm_node.adapters.tcp import received_bytes, tune_connections
from lowcomm_node.bench.link_load import LinkLoad, Whereabouts
from lowcomm_node.core.events import Member
from lowcomm_node.core.messages import Answer, Busy, Close, Confirm, Message, Offer, StreamPlan, Verdict
from lowcomm_node.core.quarantine import Quarantine
from lowcomm_node.core.versions import SPOKEN
from lowcomm_node.errors import LinkError, RefusalReason, RemoteProtocolError
from lowcomm_node.settings.manifest import SecurityConfig
from lowcomm_node.settings.node import NetworkSettings
from lowcomm_node.units import Codec, Dtype, LinkKind, MeetingId, PeerId, RunId, Stream
from lowcomm_node.wire.admission import AdmissionRule, Membership
from lowcomm_node.wire.channel import NO_CERTIFICATE
from lowcomm_node.wire.meeting import MeetingLimits

__all__ = ["RUN", "LinkNode"]

_BYTES_PER_MBIT = 125_000.0
RUN = RunId("00" * 32)
_MEMBERSHIP = Membership(
    run_id=RUN,
    manifest=b"",
    protocol_version=PROTOCOL_VERSION,
    rule=AdmissionRule.of(SecurityConfig(), RUN),
    admission=b"",
)
_PLAN = StreamPlan(stream=Stream.PARAMS, codec=Codec.DENSE, dtype=Dtype.FP32, ranks=(-1,))


class LinkNode:
    """A node without trainer and directory, and over libp2p with a directory of two."""

    def __init__(self, load: LinkLoad, identity: Identity, *, max_tensors: int = 1) -> None:
        """Keeps sockets beside the identity's file. ``max_tensors``: of a model whose plans are exchanged."""
        self._load = load
        self._identity = identity
        self._answer, self._close = secrets.token_bytes(load.answer_bytes), secrets.token_bytes(load.close_bytes)
        self._certificate = Certificate.of(identity) if load.carrier == "grpc" else None
        line = Line(up_bytes_per_s=load.up_mbit * _BYTES_PER_MBIT, down_bytes_per_s=load.down_mbit * _BYTES_PER_MBIT)
        self._channels = _channels(load, identity, line, is_plain=self._certificate is None)
        self._doorman = ChannelService(
            identity=identity,
            membership=_MEMBERSHIP,
            quarantine=Quarantine(),
            certificate_sha256=self._certificate.sha256 if self._certificate is not None else NO_CERTIFICATE,
            on_refused=_told,
        )
        self._server = GrpcServer(
            host=load.host,
            port=0,
            certificate=self._certificate,
            gate=self._doorman.gate(),
            window_bytes=line.window_bytes,
        )
        self._directory: HivemindDirectory | None = None
        if load.carrier == "libp2p":
            self._directory = HivemindDirectory(
                identity=identity,
                settings=NetworkSettings(host=load.host),
                initial_peers=(load.peer.address,) if load.peer is not None else (),
                socket_dir=identity.path.parent / "p2p",
                versions=SPOKEN,
            )
        self._link = MeetingLink(
            sink=self,
            limits=MeetingLimits(
                run_id=RUN,
                peer_id=identity.peer_id,
                protocol_version=PROTOCOL_VERSION,
                max_payload_bytes=max(1, load.payload_bytes),
                max_tensors=max_tensors,
            ),
            diallers=self._diallers(),
            line=line,
        )
        self._waiting: dict[MeetingId, asyncio.Future[None]] = {}

    async def start(self) -> Whereabouts:
        """Open the port; over libp2p, know the other end. Raises LowcommError."""
        if (directory := self._directory) is not None:
            handler = p2p_handler(self._link, lambda _peer: True)
            punch = HolePunch(lambda: directory.session, self._identity.peer_id, lambda _peer: True)
            dial_back = DialBack(RUN, self._channels).serve
            directory.serve_peers(PeerHandlers(streams=handler, dial_back=dial_back, punch=punch.serve))
            await directory.start()
            address = (await directory.visible_addresses())[0]
            return Whereabouts(address=address, peer_id=self._identity.peer_id)
        bells = HeldBells(
            caller=self._doorman.caller,
            verify=_no_record,
            on_member=lambda _member: None,
            on_event=lambda _event: None,
            on_refused=lambda _peer, _error: None,
            max_bells=0,
        )
        handlers = [self._doorman.handler(), meetings_handler(self._link, bells, self._doorman.caller)]
        port = await self._server.start(handlers)
        tune_connections()  # what the listening socket has, accepted ones inherit
        certificate = self._certificate.short.hex() if self._certificate is not None else ""
        return Whereabouts(address=f"{self._load.host}:{port}", peer_id=self._identity.peer_id, certificate=certificate)

    def received_bytes(self) -> int | None:
        """What the kernel has received over this end's connections, which over libp2p are those of its p2pd; None where it does not tell."""
        return received_bytes(self._directory.pid if self._directory is not None else None)

    async def stop(self) -> None:
        """Leave nothing behind."""
        await self._link.stop()
        await self._channels.close()
        await self._server.stop(0.0)
        if self._directory is not None:
            await self._directory.stop()

    async def meet(self, offer: bytes) -> float:
        """Have one meeting with the other end that begins with this payload; seconds that it took. Raises LinkError."""
        if self._load.peer is None:
            raise LinkError("unreachable", "an end that answers dials nobody")
        peer = PeerId(self._load.peer.peer_id)
        meeting = MeetingId(secrets.token_hex(16))
        over = self._waiting[meeting] = asyncio.get_running_loop().create_future()
        message = Offer(
            meeting_id=meeting,
            run_id=RUN,
            protocol_version=PROTOCOL_VERSION,
            sender=self._identity.peer_id,
            receiver=peer,
            plans=(_PLAN,),
            parts=(offer,),
            progress_steps=0.0,
        )
        begun_s = time.perf_counter()
        self._link.open(meeting, peer, message, LinkKind.LIBP2P if self._directory is not None else LinkKind.GRPC)
        await over
        return time.perf_counter() - begun_s

    def message_received(self, message: Message, kind: LinkKind) -> None:  # noqa: ARG002 - all links are alike here
        """Say what comes next (``MeetingSink``)."""
        meeting = message.meeting_id
        match message:
            case Offer() if self._load.answer_bytes and message.parts[0]:
                self._link.send(meeting, Answer(meeting_id=meeting, parts=(self._answer,), progress_steps=0.0))
            case Offer():
                self._link.send(meeting, Busy(meeting_id=meeting))
                self._link.close(meeting)
            case Answer():
                self._link.send(meeting, Close(meeting_id=meeting, parts=(self._close,)))
            case Close():
                self._link.send(meeting, Verdict(meeting_id=meeting, applied=True))
            case Verdict():
                self._link.send(meeting, Confirm(meeting_id=meeting))
                self._finish(meeting)
            case Confirm():
                self._link.close(meeting)
            case Busy():
                self._finish(meeting)
            case _:
                self.link_failed(meeting, type(message).__name__)

    def message_progressed(self, meeting_id: MeetingId) -> None:
        """Nobody here has deadlines (``MeetingSink``)."""

    def link_failed(self, meeting_id: MeetingId, reason: str) -> None:
        """The meeting is over for whoever waits for it (``MeetingSink``)."""
        if (over := self._waiting.pop(meeting_id, None)) is not None:
            over.set_exception(LinkError(reason, "while the link was measured"))

    def _diallers(self) -> dict[LinkKind, Dialler]:
        if (directory := self._directory) is not None:
            return {LinkKind.LIBP2P: p2p_dialler(lambda: directory.session)}
        return {LinkKind.GRPC: grpc_dialler(self._channels)}

    def _finish(self, meeting: MeetingId) -> None:
        self._link.close(meeting)
        if (over := self._waiting.pop(meeting, None)) is not None:
            over.set_result(None)


def _channels(load: LinkLoad, identity: Identity, line: Line, *, is_plain: bool) -> ChannelCache:
    introduction = Introduction(identity, SPOKEN)
    introduction.enter(_MEMBERSHIP)
    contacts = Contacts()
    if load.peer is not None:
        member = Member(
            peer=PeerId(load.peer.peer_id),
            grpc_address=load.peer.address,
            progress_steps=0.0,
            has_state=True,
            expires_at=math.inf,
            certificate=bytes.fromhex(load.peer.certificate),
        )
        contacts.learn(member)
    return ChannelCache(contacts, introduction, Quarantine(), allow_plaintext=is_plain, window_bytes=line.window_bytes)


def _no_record(_record: bytes) -> Member:
    raise RemoteProtocolError(RefusalReason.NOT_READY, "nobody hangs bells here")


def _told(error: RemoteProtocolError) -> None:
    sys.stderr.write(f"{error}\n")
