"""The directory of a run's members on hivemind's DHT, inside the daemon's own event loop.

A watchdog starts p2pd anew, with the same identity and the peers it knew, when it dies.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from lowcomm_node.adapters.dht_session import DhtSession, PeerHandlers
from lowcomm_node.adapters.hello import MAX_CLOCK_OFFSET_S, answer_hello, no_peer, no_welcome, read_welcome
from lowcomm_node.adapters.identity import Identity
from lowcomm_node.adapters.member_buckets import MemberBuckets
from lowcomm_node.adapters.p2p_process import P2pOptions, import_hivemind, split_address
from lowcomm_node.adapters.relays import choose_relays
from lowcomm_node.adapters.vitals_book import VitalsBook
from lowcomm_node.core.events import FrozenNote, Member
from lowcomm_node.core.membership import Bucket
from lowcomm_node.core.versions import Versions
from lowcomm_node.errors import DirectoryError, DirectoryTimeoutError, LowcommError, RefusalReason, RemoteProtocolError
from lowcomm_node.ports import ChildLedger, Welcome
from lowcomm_node.settings.node import NetworkSettings
from lowcomm_node.units import Reachability, RunId
from lowcomm_node.wire.admission import AdmissionRule, Membership
from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2
from lowcomm_node.wire.records import read_member, sign_member

__all__ = ["HivemindDirectory"]

_log = logging.getLogger(__name__)

_MAX_KNOWN = 32
_UPKEEP_S = 30.0
_ALONE_UPKEEP_S = 3.0
_FIRST_RESTART_S = 0.2
_CHANGE_S = 10.0
_LONGEST_RESTART_S = 30.0


class HivemindDirectory:
    """Implements ``ports.Directory``.

    Args:
        identity: signs our record, and is p2pd's own.
        settings: where to listen, how long a record lives.
        initial_peers: multiaddresses to join by; none to begin a swarm.
        socket_dir: folder for p2pd's Unix sockets, of this node alone.
        versions: what we speak.
        certificate: ours, for our record; empty when we speak no TLS.
        on_dropped: told the reason of each record that was read and not believed, unless it had only expired or was a farewell.
        on_death: told p2pd's exit code, and how often it has died, each time it has; it is being started anew.
        ledger: is told of each p2pd that is started and ended.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        settings: NetworkSettings,
        initial_peers: Sequence[str],
        socket_dir: Path,
        versions: Versions,
        certificate: bytes = b"",
        on_dropped: Callable[[RefusalReason], None] = lambda _reason: None,
        on_death: Callable[[int, int], None] = lambda _code, _count: None,
        ledger: ChildLedger | None = None,
    ) -> None:
        self.peer_id = identity.peer_id
        self.grpc_address = ""
        """host:port that our record announces, empty when nobody can dial us; set it before ``announce`` and ``serve_hello``."""
        self.reachability = Reachability.PUBLIC
        """As our record says; see ``play``."""
        self.record = b""
        """Our newest signed record, for offers to carry, whether or not the DHT has taken it."""
        self.vitals = VitalsBook()
        self.has_company = False
        """Somebody answered at the start."""
        self.restarts = 0
        self._identity = identity
        self._record_ttl_s = settings.record_ttl_s
        self._initial_peers = tuple(initial_peers)
        self._versions = versions
        self._certificate = certificate
        self._on_death = on_death
        self._options = P2pOptions(
            identity_path=identity.path,
            socket_dir=socket_dir,
            host=settings.host,
            port=settings.dht_port,
            announce_host=settings.announce_host,
            start_timeout_s=settings.start_timeout_s,
            ledger=ledger,
        )
        self._known: tuple[str, ...] = ()
        self._remembered: tuple[str, ...] = ()
        self._session: DhtSession | None = None
        self._keepers: list[asyncio.Task[None]] = []
        self._membership: Membership | None = None
        self._is_observer = False
        self._standing: tuple[float, bool, FrozenNote | None] = 0.0, False, None
        self._expires_at = 0.0
        self._buckets = MemberBuckets(
            own=self.peer_id,
            run_id=lambda: self._member.run_id,
            session=lambda: self._live,
            verify=self.verify,
            on_dropped=on_dropped,
        )
        self._handlers: PeerHandlers | None = None
        self._is_up = asyncio.Event()
        self._is_changing = False
        """p2pd ends because we have ended it, to start it in another role."""

    async def start(self, remembered: Sequence[str] = (), *, may_be_alone: bool = False) -> None:
        """Start p2pd and the DHT, and dial the initial peers; where none answers, those remembered too.

        May be called again after an error. ``may_be_alone``: with nobody there, begin all the same; upkeep goes on looking for all of them.

        Raises:
            DirectoryError: a port in use, an address that is none, p2pd does not start.
            NoPeerError: peers were given, and none of them, nor of those remembered, can be reached.
        """
        import_hivemind()
        others = [address for address in self._initial_peers if str(split_address(address)[0]) != self.peer_id]
        session = await self._start_session(others)
        if all(session.outcomes.values()):
            self._remembered = tuple(a for a in remembered if a not in others and self._is_other(a))
            with suppress(DirectoryError):  # a peer that answers p2pd, and then no ping
                await session.reconnect(self._remembered)
            answered = [address for address in self._remembered if not session.outcomes[address]]
            self._initial_peers = (*self._initial_peers, *answered)
        if others and all(session.outcomes.values()) and not may_be_alone:
            await session.stop()
            raise no_peer(session.outcomes)
        self.has_company = not all(session.outcomes.values())
        self._session = session
        self._is_up.set()
        self._keepers = [asyncio.create_task(self._watch()), asyncio.create_task(self._keep_up())]

    async def stop(self) -> None:
        """End p2pd; takes a few seconds at most and leaves no process and no socket."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._keepers = []
        session, self._session = self._session, None
        if session is not None:
            await session.stop()

    async def visible_addresses(self) -> tuple[str, ...]:
        """Multiaddresses others can give to --peers, those that work from other machines first."""
        addresses = await self._live.visible_addresses()
        return tuple(sorted(addresses, key=lambda a: ("/p2p-circuit" in a, "/127." in a or "/ip6/::1/" in a)))

    @property
    def known_addresses(self) -> tuple[str, ...]:
        """Multiaddresses of others, for the next start: those given or found at this one, those connected lately, the rest."""
        return tuple(dict.fromkeys((*self._initial_peers, *self._known, *self._remembered)))

    @property
    def seed_address(self) -> str:
        """Of those given or found at the start, the first that p2pd has reached in its present life; empty where there is none."""
        outcomes = self._session.outcomes if self._session is not None else {}
        return next((address for address in self._initial_peers if outcomes.get(address, "not dialled") == ""), "")

    @property
    def num_neighbours(self) -> int:
        """Peers in the DHT's routing table; none while it is being started anew."""
        return self._session.num_neighbours if self._session is not None else 0

    @property
    def pid(self) -> int:
        """Process id of p2pd."""
        return self._live.process.pid

    @property
    def session(self) -> DhtSession:
        """The DHT's present life. Raises DirectoryError while it is being started anew."""
        return self._live

    def serve_peers(self, handlers: PeerHandlers) -> None:
        """From now on, take meetings that others open over libp2p, and answer who asks to be dialled or let in."""
        self._handlers = handlers

    def play(self, reachability: Reachability) -> None:
        """How others get to this node, from now on.

        p2pd of a node that cannot be dialled holds places at relays and punches holes; that of one that can is such a relay, for a
        few bytes at a time. It is started anew when that changes, unless it has not been started yet.
        """
        self.reachability = reachability
        is_public = reachability is Reachability.PUBLIC
        if is_public != self._options.is_public:
            self._options.is_public = is_public
            self.renew()

    def renew(self) -> None:
        """Start p2pd anew, with relays that answer now, unless it is not up anyway."""
        if self._session is not None:
            self._is_changing = True
            self._is_up.clear()
            self._session.process.end()

    async def wait_up(self) -> None:
        """Return when p2pd runs in the role it was given; after a while in any case."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CHANGE_S):
                await self._is_up.wait()

    async def hello(self, run_id: RunId | None) -> Welcome:
        """Ask the peers given at start for their run, one after the other.

        Raises:
            NoPeerError: none answers with a run we can join; names each address and what happened.
            ConfigError: they answer, and their run speaks a protocol that this node does not.
            DirectoryError: they answer, but the clocks are too far apart.
        """
        outcomes: dict[str, str | LowcommError] = {}
        offset_s = 0.0
        for address in self._initial_peers:
            try:
                welcome = await self.ask(address, run_id)
            except (DirectoryError, RemoteProtocolError) as error:
                outcomes[address] = error
                continue
            if abs(welcome.clock_offset_s) <= MAX_CLOCK_OFFSET_S:
                return welcome
            offset_s = welcome.clock_offset_s
            outcomes[address] = f"its clock is {offset_s:+.1f} s from ours"
        raise no_welcome(outcomes, offset_s)

    async def ask(self, address: str, run_id: RunId | None) -> Welcome:
        """Ask the peer at one address, whatever its clock says. Raises DirectoryError, RemoteProtocolError."""
        if str(split_address(address)[0]) == self.peer_id:
            raise DirectoryError("this is our own address")
        request = records_pb2.HelloRequest(
            protocol_version=self._versions.newest,
            run_id=bytes.fromhex(run_id) if run_id else b"",
            min_protocol_version=self._versions.oldest,
        )
        session = self._live
        asked_at = time.time()
        response = await session.hello(address, request)
        welcome = read_welcome(
            response,
            run_id=run_id,
            versions=self._versions,
            between=(asked_at, time.time()),
        )
        if not session.num_neighbours:
            await session.reconnect([address])
        return welcome

    async def serve_hello(self, membership: Membership, *, is_observer: bool = False) -> None:
        """Be in this run, and answer other nodes' hello from now on; an observer looks at the run and answers nobody."""
        self._membership, self._is_observer = membership, is_observer

    async def announce(self, *, progress_steps: float, has_state: bool, frozen: FrozenNote | None = None) -> bytes:
        """Store this node's signed record in the bucket it belongs to; returns the record.

        Gives up after half a record's life, so that the next one is made before this one has expired: offers carry it.

        Raises:
            DirectoryError: no node took it in time; it may be tried again. ``record`` is renewed all the same.
        """
        self._standing = progress_steps, has_state, frozen
        self.record = record = self._signed(self.grpc_address, self.reachability)
        try:
            async with asyncio.timeout(self._record_ttl_s / 2):
                left = await self._buckets.put(record, self._expires_at)
                if left is not None:
                    await self._store_farewell(left)
        except TimeoutError:
            raise DirectoryTimeoutError("the DHT takes too long to store our record") from None
        return record

    async def members(self) -> tuple[Member, ...]:
        """Look up a sample of live members, this node left out.

        Forged, foreign and expired records are dropped; all but the expired ones are counted.

        Raises:
            DirectoryError: the DHT does not answer in time.
        """
        return await self._buckets.sample()

    def verify(self, signed_record: bytes) -> Member:
        """Check a record that came in an offer. Raises RemoteProtocolError."""
        run, version = self._member, self._member.protocol_version
        member = read_member(signed_record, run_id=run.run_id, protocol_version=version, now=time.time(), rule=run.rule)
        return self.vitals.learn(member, signed_record)

    async def withdraw(self) -> None:
        """Say in the directory that this node has left; the DHT knows no deletion."""
        bucket = self._buckets.leave()
        if bucket is not None:
            await self._store_farewell(bucket)

    # What follows keeps the promises above.

    async def _start_session(self, others: Sequence[str]) -> DhtSession:
        self._options.relays = () if self._options.is_public else await choose_relays(others)
        session = await DhtSession.start(self._options, others, self._answer_hello, lambda: self._handlers, self._rule)
        with suppress(DirectoryError):
            self._known = tuple(await session.connected_addresses())[:_MAX_KNOWN]
        return session

    def _is_other(self, address: str) -> bool:
        try:
            return str(split_address(address)[0]) != self.peer_id
        except DirectoryError:
            return False

    @property
    def _live(self) -> DhtSession:
        if self._session is None:
            raise DirectoryError("the DHT is being started")
        return self._session

    @property
    def _member(self) -> Membership:
        if self._membership is None:
            raise DirectoryError("this node is in no run yet")
        return self._membership

    def _rule(self) -> AdmissionRule | None:
        return self._membership.rule if self._membership is not None else None

    def _signed(self, grpc_address: str, reachability: Reachability) -> bytes:
        """A new record. Each one lasts longer than the one before: in the DHT the later expiration wins."""
        self._expires_at = max(time.time() + self._record_ttl_s, self._expires_at + 0.001)
        progress_steps, has_state, frozen = self._standing
        member = Member(
            peer=self.peer_id,
            grpc_address=grpc_address,
            progress_steps=progress_steps,
            has_state=has_state,
            expires_at=self._expires_at,
            reachability=reachability,
            certificate=self._certificate,
            frozen=frozen,
        )
        return sign_member(
            member,
            run_id=self._member.run_id,
            protocol_version=self._member.protocol_version,
            sign=self._identity.sign,
            admission=self._member.admission,
            vitals=self.vitals.own,
        )

    async def _store_farewell(self, bucket: Bucket) -> None:
        with suppress(DirectoryError):  # it expires anyway
            await self._buckets.store(bucket, self._signed("", Reachability.PUBLIC), self._expires_at)

    async def _answer_hello(self, request: records_pb2.HelloRequest) -> records_pb2.HelloResponse:
        if self._membership is None or self._is_observer:
            raise DirectoryError("this node is in no run yet; ask again in a moment")
        return answer_hello(request, self._membership, lambda: self._signed(self.grpc_address, self.reachability))

    async def _watch(self) -> None:
        """Start p2pd anew each time it dies. Nothing is asked of the dead one."""
        while True:
            session = self._live
            code = await session.process.wait()
            self._session = None
            has_died, self._is_changing = not self._is_changing, False
            if has_died:
                self.restarts += 1
                self._on_death(code, self.restarts)
            await session.stop()
            self._session = await self._revive()
            self._is_up.set()

    async def _revive(self) -> DhtSession:
        wait_s = _FIRST_RESTART_S
        while True:
            await asyncio.sleep(wait_s)
            wait_s = min(_LONGEST_RESTART_S, wait_s * 2)
            others = [address for address in self.known_addresses if self._is_other(address)]
            try:
                return await self._start_session(others)
            except Exception as error:  # noqa: BLE001 - a supervisor: without it the node would be deaf for good
                _log.warning("p2pd_restart_failed detail=%s next_try_s=%s", error, wait_s)

    async def _keep_up(self) -> None:
        """Keep the routing table fresh, remember who is there, and find back to the others after a split."""
        others = [address for address in self._initial_peers if self._is_other(address)]
        all_known = list(dict.fromkeys((*others, *self._remembered)))
        while True:
            is_alone = bool(all_known) and not self.num_neighbours
            await asyncio.sleep(_ALONE_UPKEEP_S if is_alone else _UPKEEP_S)
            with suppress(DirectoryError):
                session = self._live
                await session.reconnect(all_known if is_alone else others)
                await session.refresh()
                self._known = tuple(await session.connected_addresses())[:_MAX_KNOWN]
