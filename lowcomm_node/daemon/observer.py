"""A run seen from outside: who takes part, and the states that its members give. An observer is no member and is never met.

It has no record in the directory, opens no port, hangs no bell and answers no hello; its DHT node only asks. Members know it as
somebody who asks for their state, as joiners do.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lowcomm_node.adapters.admission_file import AdmissionFile
from lowcomm_node.adapters.contacts import Contacts
from lowcomm_node.adapters.dht_session import StreamTopic
from lowcomm_node.adapters.grpc_endpoints import ChannelCache
from lowcomm_node.adapters.grpc_states import grpc_way
from lowcomm_node.adapters.hivemind_directory import HivemindDirectory
from lowcomm_node.adapters.hole_punch import HolePunch
from lowcomm_node.adapters.identity import Identity, load_or_create
from lowcomm_node.adapters.introduction import Introduction
from lowcomm_node.adapters.line import Line
from lowcomm_node.adapters.p2p_link import opened
from lowcomm_node.adapters.state_client import MemberStateClient
from lowcomm_node.adapters.state_streams import framed_way
from lowcomm_node.core.events import Member
from lowcomm_node.core.quarantine import Quarantine
from lowcomm_node.core.versions import SPOKEN
from lowcomm_node.daemon.admitting import own_admission
from lowcomm_node.daemon.patience import patiently
from lowcomm_node.errors import DirectoryError, LinkError, RemoteProtocolError
from lowcomm_node.ports import StateClient, Welcome
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NetworkSettings
from lowcomm_node.telemetry.logs import get_logger
from lowcomm_node.units import PeerId, Reachability, RunId
from lowcomm_node.wire.admission import AdmissionRule, Membership

__all__ = ["Observer"]

_MAX_SOUGHT = 4
"""Direct connections that are looked for at a time; each may take half a minute."""
_MAX_TRIES = 3


class Observer:
    """One look at a run: ``RunFinder`` begins it, ``donors`` and ``client`` are what it is for.

    Args:
        settings: as a node's; the port for meetings stays closed, and the DHT's is another one than a node's here.
        line: what downloads wait for where the line is capped.
        peers: addresses of members.
        invite: an invitation to the run as it was written down, or empty.
        state_dir: of this machine's node, whether it runs or not: where the run asks who somebody is, its identity says so.
        scratch: an empty folder that somebody else removes.
        num_wanted: so many members should be found; with fewer that can be dialled, direct connections to others are looked for.
    """

    def __init__(
        self,
        *,
        settings: NetworkSettings,
        line: Line,
        peers: tuple[str, ...],
        invite: str,
        state_dir: Path,
        scratch: Path,
        num_wanted: int,
    ) -> None:
        self._settings = settings
        self._line = line
        self._invite = invite
        self._state_dir = state_dir
        self._num_wanted = num_wanted
        # On the DHT it is nobody's: the node of this machine may be there at the same time.
        self._nobody = load_or_create(scratch / "identity.key")
        self._dht = HivemindDirectory(
            identity=self._nobody,
            settings=replace(settings, dht_port=0, announce_host=""),
            initial_peers=peers,
            socket_dir=scratch / "p2p",
            versions=SPOKEN,
        )
        self._dht.play(Reachability.OUTBOUND_ONLY)
        self._punch = HolePunch(lambda: self._dht.session, self._dht.peer_id, lambda _peer: False)
        self._contacts = Contacts()
        self._quarantine = Quarantine()
        self._membership: Membership | None = None
        self._welcome: Welcome | None = None
        self._channels: ChannelCache | None = None
        self._client: MemberStateClient | None = None
        self._sought: Counter[PeerId] = Counter()
        self._log = get_logger("observer")

    @property
    def known_addresses(self) -> tuple[str, ...]:
        """Multiaddresses of the DHT's nodes that were met."""
        return self._dht.known_addresses

    @property
    def client(self) -> StateClient:
        """Downloads members' states. Only after ``enter``."""
        if self._client is None:
            raise DirectoryError("the observer looks at no run yet")
        return self._client

    async def start(self, remembered: Sequence[str] = (), *, may_be_alone: bool = False) -> bool:
        """Bring the DHT up. True when somebody is there.

        Raises ConfigError for an address that is none, DirectoryError, and NoPeerError when nobody is found in time.
        """
        del may_be_alone  # alone there is nothing to be seen
        await patiently(lambda: self._dht.start(remembered), self._settings.start_timeout_s)
        return self._dht.has_company

    async def hello(self) -> Welcome:
        """Ask the given peers for their run. Raises NoPeerError, DirectoryError, ConfigError where they speak another protocol."""
        self._welcome = await patiently(lambda: self._dht.hello(None), self._settings.start_timeout_s)
        return self._welcome

    async def enter(self, run: RunId, canonical: bytes, manifest: Manifest) -> None:
        """This is the run. Raises ConfigError when it does not let this machine's node in, StoreError."""
        rule = AdmissionRule.of(manifest.security, run)
        identity, admission = await asyncio.to_thread(self._introduce, rule)
        self._membership = membership = Membership(
            run_id=run,
            manifest=canonical,
            protocol_version=manifest.protocol_version,
            rule=rule,
            admission=admission,
        )
        introduction = Introduction(identity, SPOKEN)
        introduction.enter(membership)
        self._channels = ChannelCache(
            self._contacts,
            introduction,
            self._quarantine,
            window_bytes=self._line.window_bytes,
            allow_plaintext=self._settings.tls == "off",
            on_refused=self._refused,
        )
        self._client = MemberStateClient(
            ways=(
                grpc_way(self._channels),
                framed_way(lambda peer: opened(lambda: self._dht.session, peer, StreamTopic.STATE), self._offended),
            ),
            protocol_version=membership.protocol_version,
            shelf=None,
            on_received=lambda _num_bytes: None,
            line=self._line,
            on_refused=self._offended,
        )
        await self._dht.serve_hello(membership, is_observer=True)

    async def donors(self) -> tuple[Member, ...]:
        """Members to whom there is a way. Raises LinkError, for people, where there is none to any that has a state."""
        members: dict[PeerId, Member] = {}
        with suppress(DirectoryError):
            members = {member.peer: member for member in await self._dht.members()}
        with suppress(RemoteProtocolError):  # who told us of the run was not looked at by its rule before
            if self._welcome is not None:
                told = self._dht.verify(self._welcome.record)
                members.setdefault(told.peer, told)
        for member in members.values():
            self._contacts.learn(member)
        able = [member for member in members.values() if member.has_state]
        hidden = [member.peer for member in able if not member.grpc_address]
        direct: set[PeerId] = set()
        if hidden and self._may_come_directly:
            with suppress(DirectoryError):
                direct.update(await self._dht.session.direct_peers())
                if len(able) - len(hidden) < self._num_wanted:
                    await self._seek([peer for peer in hidden if peer not in direct])
                    direct.update(await self._dht.session.direct_peers())
        found = tuple(member for member in members.values() if member.grpc_address or member.peer in direct)
        if able and not any(member.has_state for member in found):
            raise LinkError("unreachable", self._no_way(len(able)))
        return found

    async def stop(self) -> None:
        """Close everything; bounded in time."""
        if self._channels is not None:
            await self._channels.close()
        await self._dht.stop()

    def _introduce(self, rule: AdmissionRule) -> tuple[Identity, bytes]:
        """As whom we ask. Where everybody may, as nobody in particular."""
        if rule.kind == "open":
            return self._nobody, b""
        identity = load_or_create(self._state_dir / "identity.key")
        return identity, own_admission(rule, identity.peer_id, self._invite, AdmissionFile(self._state_dir))

    @property
    def _may_come_directly(self) -> bool:
        """A member lets only those in over libp2p of whom it has seen a record, but where everybody may come."""
        return self._membership is not None and self._membership.rule.kind == "open"

    async def _seek(self, hidden: Sequence[PeerId]) -> None:
        """Look for direct connections to a few members that nobody can dial, to each a few times."""
        left = [peer for peer in hidden if self._sought[peer] < _MAX_TRIES]
        wanted = sorted(left, key=self._sought.__getitem__)[:_MAX_SOUGHT]
        self._sought.update(wanted)
        for peer, outcome in zip(
            wanted, await asyncio.gather(*map(self._punch.seek, wanted), return_exceptions=True), strict=True
        ):
            if isinstance(outcome, BaseException) and not isinstance(outcome, DirectoryError):
                raise outcome
            self._log.debug("path_sought", peer=peer, outcome=str(outcome))

    def _no_way(self, num_able: int) -> str:
        if self._may_come_directly:
            return f"of {num_able} members that have a state, none can be dialled or is directly connected"
        return f"of {num_able} members that have a state, none can be dialled, and in this run only members come to the others"

    def _refused(self, peer: PeerId, error: RemoteProtocolError) -> None:
        """Another than the peer answers there, or it has refused us."""
        self._log.warning("message_rejected", peer=peer, reason=error.reason.value, detail=error.detail)

    def _offended(self, peer: PeerId, error: RemoteProtocolError) -> None:
        """A peer has sent something that cannot be used."""
        self._refused(peer, error)
        self._quarantine.offended(peer, error.reason, asyncio.get_running_loop().time())
