"""The link of meetings with all the ways that it can take."""

from collections.abc import Callable

from lowcomm_node.adapters.bells import Caller, HeldBells
from lowcomm_node.adapters.dht_session import PeerHandlers
from lowcomm_node.adapters.dial_back import DialBack
from lowcomm_node.adapters.grpc_endpoints import ChannelCache
from lowcomm_node.adapters.grpc_meetings import grpc_dialler
from lowcomm_node.adapters.hivemind_directory import HivemindDirectory
from lowcomm_node.adapters.hole_punch import HolePunch
from lowcomm_node.adapters.line import Line
from lowcomm_node.adapters.meeting_link import BytesCounted, Dialler, MeetingLink
from lowcomm_node.adapters.p2p_link import p2p_dialler, p2p_handler, p2p_places
from lowcomm_node.adapters.state_streams import StateServer
from lowcomm_node.core.events import Member
from lowcomm_node.core.places import Places
from lowcomm_node.errors import RemoteProtocolError
from lowcomm_node.ports import NodeSink
from lowcomm_node.train.messages import Ready
from lowcomm_node.units import LinkKind, PeerId
from lowcomm_node.wire.admission import Membership
from lowcomm_node.wire.meeting import MeetingLimits

__all__ = ["make_link", "serve_libp2p"]

_STALL_OVER_DEADLINE = 1.5
"""A stream is given up a little after the core has lost its patience with the meeting."""
_STREAMS_PER_MEETING = 3


def make_link(
    *,
    sink: NodeSink,
    own: PeerId,
    membership: Membership,
    ready: Ready,
    channels: ChannelCache,
    dht: HivemindDirectory,
    caller: Caller,
    verify: Callable[[bytes], Member],
    line: Line,
    on_bytes: BytesCounted,
    on_refused: Callable[[PeerId, RemoteProtocolError], None],
    max_bells: int,
    deadline_s: float,
) -> tuple[MeetingLink, HeldBells]:
    """The link, and the bells at this node by which it can ring. What is asked for is said by the classes that get it."""
    bells = HeldBells(
        caller=caller,
        verify=verify,
        on_member=lambda member: sink.members_seen((member,)),
        on_event=sink.handle,
        on_refused=on_refused,
        max_bells=max_bells,
    )
    diallers: dict[LinkKind, Dialler] = {
        LinkKind.GRPC: grpc_dialler(channels),
        LinkKind.GRPC_REVERSED: bells.ring,
        LinkKind.LIBP2P: p2p_dialler(lambda: dht.session),
    }
    limits = MeetingLimits(
        run_id=membership.run_id,
        peer_id=own,
        protocol_version=membership.protocol_version,
        # Every stream whole, in fp32. The trainer checks the plan's exact sizes.
        max_payload_bytes=_STREAMS_PER_MEETING * 4 * ready.parameters,
        max_tensors=len(ready.shapes),
    )
    link = MeetingLink(
        sink=sink,
        limits=limits,
        diallers=diallers,
        line=line,
        stall_timeout_s=_STALL_OVER_DEADLINE * deadline_s,
        on_bytes=on_bytes,
        on_refused=on_refused,
    )
    return link, bells


def serve_libp2p(
    dht: HivemindDirectory,
    link: MeetingLink,
    states: StateServer,
    dial_back: DialBack,
    is_welcome: Callable[[PeerId], bool],
) -> tuple[HolePunch, Places]:
    """Answer other members over libp2p from now on; returns what gets direct connections to them, and the places for their streams."""
    punch = HolePunch(lambda: dht.session, dht.peer_id, is_welcome)
    places = p2p_places()
    streams = p2p_handler(link, is_welcome, states, places)
    dht.serve_peers(PeerHandlers(streams=streams, dial_back=dial_back.serve, punch=punch.serve))
    return punch, places
