"""The directory of a run's members on hivemind's DHT, inside the daemon's own event loop.

A watchdog starts p2pd anew, with the same identity and the peers it knew, when it dies.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from lowcomm_node.adapters.dht_session import DhtSession
from lowcomm_node.adapters.hello import MAX_CLOCK_OFFSET_S, no_peer, no_welcome, read_welcome
from lowcomm_node.adapters.identity import Identity
from lowcomm_node.adapters.p2p_process import P2pOptions, import_hivemind, split_address
from lowcomm_node.core.events import Member
from lowcomm_node.core.membership import (
    FULL,
    MAX_DEPTH,
    Bucket,
    buckets_to_read,
    child_of,
    next_depth,
    own_bucket,
    parent_of,
)
from lowcomm_node.core.versions import Versions
from lowcomm_node.errors import DirectoryError, LowcommError, RefusalReason, RemoteProtocolError
from lowcomm_node.ports import ChildLedger, Welcome
from lowcomm_node.settings.node import NetworkSettings
from lowcomm_node.units import RunId
from lowcomm_node.wire.admission import AdmissionRule, Membership
from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2
from lowcomm_node.wire.peer_id import peer_id_to_bytes
from lowcomm_node.wire.records import bucket_key, read_member, sign_member

__all__ = ["HivemindDirectory"]

_log = logging.getLogger(__name__)

_MAX_READ = 4 * FULL
_MAX_KNOWN = 32
_UPKEEP_S = 30.0
_ALONE_UPKEEP_S = 3.0
_FIRST_RESTART_S = 0.2
_LONGEST_RESTART_S = 30.0
_QUIET = frozenset({RefusalReason.LEAVING, RefusalReason.EXPIRED})


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
        on_restart: called with the number of restarts each time p2pd had to be started anew.
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
        on_restart: Callable[[int], None] = lambda _count: None,
        ledger: ChildLedger | None = None,
    ) -> None:
        self.peer_id = identity.peer_id
        self.grpc_address = ""
        """host:port that our record announces; set it before ``announce`` and ``serve_hello``."""
        self.record = b""
        """Our newest signed record, for offers to carry, whether or not the DHT has taken it."""
        self.has_company = False
        """Somebody answered at the start."""
        self.restarts = 0
        self._identity = identity
        self._record_ttl_s = settings.record_ttl_s
        self._initial_peers = tuple(initial_peers)
        self._versions = versions
        self._certificate = certificate
        self._on_dropped = on_dropped
        self._on_restart = on_restart
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
        self._progress_steps = 0.0
        self._has_state = False
        self._depth = 0
        self._bucket: Bucket | None = None
        self._expires_at = 0.0

    async def start(self, remembered: Sequence[str] = (), *, may_be_alone: bool = False) -> None:
        """Start p2pd and the DHT, and dial the initial peers; where none answers, those remembered too.

        May be called again after an error. ``may_be_alone``: with nobody there, begin all the same; upkeep goes on looking for all of them.

        Raises:
            DirectoryError: a port in use, an address that is none, p2pd does not start.
            NoPeerError: peers were given, and none of them, nor of those remembered, can be reached.
        """
        import_hivemind()
        others = [address for address in self._initial_peers if str(split_address(address)[0]) != self.peer_id]
        session = await DhtSession.start(self._options, others, self._answer_hello, self._rule)
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
        return tuple(sorted(addresses, key=lambda address: "/127." in address or "/ip6/::1/" in address))

    @property
    def known_addresses(self) -> tuple[str, ...]:
        """Multiaddresses of others, for the next start: those given or found at this one, those connected lately, the rest."""
        return tuple(dict.fromkeys((*self._initial_peers, *self._known, *self._remembered)))

    @property
    def pid(self) -> int:
        """Process id of p2pd."""
        return self._live.process.pid

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
                welcome = await self._ask(address, run_id)
            except (DirectoryError, RemoteProtocolError) as error:
                outcomes[address] = error
                continue
            if abs(welcome.clock_offset_s) <= MAX_CLOCK_OFFSET_S:
                return welcome
            offset_s = welcome.clock_offset_s
            outcomes[address] = f"its clock is {offset_s:+.1f} s from ours"
        raise no_welcome(outcomes, offset_s)

    async def serve_hello(self, membership: Membership) -> None:
        """Be in this run, and answer other nodes' hello from now on."""
        self._membership = membership

    async def announce(self, *, progress_steps: float, has_state: bool) -> bytes:
        """Store this node's signed record in the bucket it belongs to; returns the record.

        Gives up after half a record's life, so that the next one is made before this one has expired: offers carry it.

        Raises:
            DirectoryError: no node took it in time; it may be tried again. ``record`` is renewed all the same.
        """
        self._progress_steps, self._has_state = progress_steps, has_state
        self.record = record = self._signed(self.grpc_address)
        try:
            async with asyncio.timeout(self._record_ttl_s / 2):
                await self._walk()
                left = self._bucket
                self._bucket = own_bucket(self.peer_id, self._depth)
                await self._store(self._bucket, record)
                if left is not None and left != self._bucket:
                    await self._store_farewell(left)
        except TimeoutError:
            raise DirectoryError("the DHT takes too long to store our record") from None
        return record

    async def members(self) -> tuple[Member, ...]:
        """Look up a sample of live members, this node left out.

        Forged, foreign and expired records are dropped; all but the expired ones are counted.

        Raises:
            DirectoryError: the DHT does not answer in time.
        """
        first, *above = buckets_to_read(self._depth, secrets.randbits(MAX_DEPTH))
        found = await self._read(first)
        below = [child_of(first, secrets.randbits(1))] if len(found) > FULL // 2 else []
        for more in await asyncio.gather(*map(self._read, [*above, *below])):
            found |= more
        return tuple(found.values())

    def verify(self, signed_record: bytes) -> Member:
        """Check a record that came in an offer. Raises RemoteProtocolError."""
        return self._read_member(signed_record, time.time())

    async def withdraw(self) -> None:
        """Say in the directory that this node has left; the DHT knows no deletion."""
        if self._bucket is not None:
            bucket, self._bucket = self._bucket, None
            await self._store_farewell(bucket)

    # What follows keeps the promises above.

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

    def _read_member(self, record: bytes, now: float) -> Member:
        run = self._member
        return read_member(record, run_id=run.run_id, protocol_version=run.protocol_version, now=now, rule=run.rule)

    def _signed(self, grpc_address: str) -> bytes:
        """A new record. Each one lasts longer than the one before: in the DHT the later expiration wins."""
        self._expires_at = max(time.time() + self._record_ttl_s, self._expires_at + 0.001)
        member = Member(
            peer=self.peer_id,
            grpc_address=grpc_address,
            progress_steps=self._progress_steps,
            has_state=self._has_state,
            expires_at=self._expires_at,
            certificate=self._certificate,
        )
        return sign_member(
            member,
            run_id=self._member.run_id,
            protocol_version=self._member.protocol_version,
            sign=self._identity.sign,
            admission=self._member.admission,
        )

    async def _store(self, bucket: Bucket, record: bytes) -> None:
        key = bucket_key(self._member.run_id, bucket)
        if not await self._live.write(key, peer_id_to_bytes(self.peer_id), record, self._expires_at):
            raise DirectoryError("no node of the DHT took our record")

    async def _store_farewell(self, bucket: Bucket) -> None:
        with suppress(DirectoryError):  # it expires anyway
            await self._store(bucket, self._signed(""))

    async def _walk(self) -> None:
        """Find the depth this node belongs to, see ``core.membership``."""
        for _ in range(MAX_DEPTH):
            bucket = own_bucket(self.peer_id, self._depth)
            own = 1 + len(await self._read(bucket))
            child = parent = 0
            if own > FULL // 2:
                child = len(await self._read(own_bucket(self.peer_id, self._depth + 1)))
            if self._depth:
                parent = len(await self._read(parent_of(bucket)))
            depth = next_depth(self._depth, own=own, child=child, parent=parent)
            if depth == self._depth:
                return
            self._depth = depth

    async def _read(self, bucket: Bucket) -> dict[bytes, Member]:
        """The other members in a bucket, by subkey; at most a few hundred are looked at."""
        values = await self._live.read(bucket_key(self._member.run_id, bucket))
        members: dict[bytes, Member] = {}
        now = time.time()
        for subkey in sorted(values, key=lambda _: secrets.randbits(32))[:_MAX_READ]:
            try:
                member = self._read_member(values[subkey], now)
                if peer_id_to_bytes(member.peer) != subkey or own_bucket(member.peer, bucket.depth) != bucket:
                    raise RemoteProtocolError(RefusalReason.MALFORMED, "a record that belongs elsewhere")
            except RemoteProtocolError as error:
                if error.reason not in _QUIET:
                    self._on_dropped(error.reason)
                continue
            if member.peer != self.peer_id:
                members[subkey] = member
        return members

    async def _answer_hello(self, request: records_pb2.HelloRequest) -> records_pb2.HelloResponse:
        run = self._membership
        if run is None or not self.grpc_address:
            raise DirectoryError("this node is in no run yet; ask again in a moment")
        newest = request.protocol_version
        if run.protocol_version not in Versions(oldest=request.min_protocol_version or newest, newest=newest):
            return records_pb2.HelloResponse(protocol_version=run.protocol_version, run_id=bytes.fromhex(run.run_id))
        if request.run_id and request.run_id.hex() != run.run_id:
            raise DirectoryError(f"this node is in run {run.run_id}")
        return records_pb2.HelloResponse(
            protocol_version=run.protocol_version,
            run_id=bytes.fromhex(run.run_id),
            manifest=run.manifest,
            member=records_pb2.SignedRecord.FromString(self._signed(self.grpc_address)),
            now=time.time(),
        )

    async def _ask(self, address: str, run_id: RunId | None) -> Welcome:
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

    async def _watch(self) -> None:
        """Start p2pd anew each time it dies. Nothing is asked of the dead one."""
        while True:
            session = self._live
            code = await session.process.wait()
            self._session = None
            self.restarts += 1
            _log.warning("p2pd_died exit_code=%s restarts=%s", code, self.restarts)
            await session.stop()
            self._session = await self._revive()
            self._on_restart(self.restarts)

    async def _revive(self) -> DhtSession:
        wait_s = _FIRST_RESTART_S
        while True:
            await asyncio.sleep(wait_s)
            wait_s = min(_LONGEST_RESTART_S, wait_s * 2)
            others = [address for address in self.known_addresses if self._is_other(address)]
            try:
                return await DhtSession.start(self._options, others, self._answer_hello, self._rule)
            except Exception as error:  # noqa: BLE001 - a supervisor: without it the node would be deaf for good
                _log.warning("p2pd_restart_failed detail=%s next_try_s=%s", error, wait_s)

    async def _keep_up(self) -> None:
        """Keep the routing table fresh, remember who is there, and find back to the others after a split."""
        others = [address for address in self._initial_peers if self._is_other(address)]
        all_known = list(dict.fromkeys((*others, *self._remembered)))
        while True:
            is_alone = bool(all_known) and (self._session is None or not self._session.num_neighbours)
            await asyncio.sleep(_ALONE_UPKEEP_S if is_alone else _UPKEEP_S)
            with suppress(DirectoryError):
                session = self._live
                await session.reconnect(all_known if is_alone else others)
                await session.refresh()
                self._known = tuple(await session.connected_addresses())[:_MAX_KNOWN]
