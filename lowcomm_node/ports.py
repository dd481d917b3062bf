"""What the shell must provide: the interfaces between decisions and the world. Adapters implement them.

All methods are called from the daemon's one event loop, where nothing else is said.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from lowcomm_node.core.events import Event, FrozenNote, Member
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.core.messages import Message
from lowcomm_node.core.places import Fullness
from lowcomm_node.units import LinkKind, MeetingId, PeerId, RunId
from lowcomm_node.wire.admission import Membership

__all__ = [
    "Bounded",
    "Checkpoints",
    "ChildKind",
    "ChildLedger",
    "Clock",
    "Directory",
    "FingerprintSource",
    "GpuReading",
    "Link",
    "MeetingSink",
    "NodeSink",
    "SnapshotSource",
    "StateClient",
    "StoredCheckpoint",
    "Welcome",
]


class Bounded(Protocol):
    """Something that cannot grow for ever, and says how full it is; asked from any thread."""

    @property
    def fullness(self) -> Fullness: ...


class Clock(Protocol):
    """Two clocks: durations and deadlines are monotonic, only what others must understand is wall time."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    def wall(self) -> float:
        """Unix seconds, as the DHT uses them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """What a joiner learns from the first peer that answers."""

    run_id: RunId
    manifest: bytes
    """Canonical manifest, its SHA-256 already compared with ``run_id``."""
    member: Member
    record: bytes
    """The member's signed record, serialised."""
    clock_offset_s: float
    """The peer's clock minus ours, half the round trip taken off."""


class ChildKind(StrEnum):
    """The processes that a node starts."""

    TRAINER = "trainer"
    FOLLOWER = "follower"
    P2PD = "p2pd"


class ChildLedger(Protocol):
    """Is told of each process that the node starts, so that its next life can end what this one may leave."""

    def started(self, kind: ChildKind, pid: int, sockets: Path | None = None) -> None:
        """A child runs from now on; ``sockets`` is the folder where it keeps Unix sockets, of its own alone."""
        ...

    def ended(self, *pids: int) -> None:
        """These children are gone, and were waited for."""
        ...


class Directory(Protocol):
    """Who takes part in the run; a DHT in the daemon."""

    peer_id: PeerId

    async def hello(self, run_id: RunId | None) -> Welcome:
        """Ask the peers given at start for their run.

        Raises NoPeerError naming each address and what happened, ConfigError where they speak another protocol.
        """
        ...

    async def serve_hello(self, membership: Membership) -> None:
        """Be in this run, and answer other nodes' hello from now on."""
        ...

    async def announce(self, *, progress_steps: float, has_state: bool, frozen: FrozenNote | None) -> bytes:
        """Store this node's signed record; returns its bytes, to be carried by offers."""
        ...

    async def members(self) -> tuple[Member, ...]:
        """Look up a sample of live members, this node left out. Forged and expired records are dropped and counted."""
        ...

    def verify(self, signed_record: bytes) -> Member:
        """Check a record that came in an offer. Raises RemoteProtocolError."""
        ...

    async def withdraw(self) -> None:
        """Let this node's record expire at once."""
        ...


class MeetingSink(Protocol):
    """Where a link delivers what arrives."""

    def message_received(self, message: Message, kind: LinkKind) -> None: ...

    def message_progressed(self, meeting_id: MeetingId) -> None:
        """Bytes of a message move, either way; a few times a second at most."""
        ...

    def link_failed(self, meeting_id: MeetingId, reason: str) -> None: ...


class NodeSink(MeetingSink, Protocol):
    """Where all that happens on the network is told."""

    def handle(self, event: Event) -> None:
        """Something of which there is nothing more to say than the event itself."""
        ...

    def members_seen(self, members: tuple[Member, ...]) -> None:
        """Verified records, expiring by DHT time."""
        ...


class Link(Protocol):
    """Carries meeting messages; complete and verified messages only."""

    def open(self, meeting_id: MeetingId, peer: PeerId, message: Message, kind: LinkKind) -> None:
        """Connect to ``peer`` in the way that ``kind`` says, and send the first message; failure is reported to the sink."""
        ...

    def send(self, meeting_id: MeetingId, message: Message) -> None:
        """Send over the meeting's newest connection, if there is one."""
        ...

    def close(self, meeting_id: MeetingId) -> None:
        """Finish the meeting's connections once what was sent is out."""
        ...


SnapshotSource = Callable[[], Awaitable[tuple[Path, float]]]
"""Writes a fresh snapshot file (or returns a recent one) and its progress; called when a joiner asks."""


FingerprintSource = Callable[[], Awaitable[Fingerprint]]
"""Looks at the live state (or returns a recent look); called when a joiner asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCheckpoint:
    """One of this node's own checkpoints, as its JSON file describes it; its tensors are still unread."""

    path: Path
    progress_steps: float
    steps: int


class Checkpoints(Protocol):
    """This node's own checkpoints. Called from threads: they are files."""

    def candidates(self, run_id: RunId) -> tuple[StoredCheckpoint, ...]:
        """Those of this run, the newest first; whatever else is there is moved aside."""
        ...

    def set_aside(self, path: Path, why: str, detail: str) -> None:
        """This one cannot be used, for a reason in one word and in a sentence: keep it out of the way, and say so."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """What one GPU says of itself; None where it does not."""

    index: int
    memory_used_bytes: int | None
    memory_size_bytes: int | None
    utilization_ratio: float | None
    """0 to 1."""
    temperature_celsius: float | None
    energy_joules: float | None
    """Since the driver was loaded."""


class StateClient(Protocol):
    """Downloads a member's state."""

    async def download(
        self,
        donors: Sequence[PeerId],
        run_id: RunId,
        destination: Path,
        max_bytes: int,
        on_progress: Callable[[int, int], None],
    ) -> None:
        """Fetch a snapshot into ``destination``, each chunk verified.

        ``donors``: the first says which snapshot, and is fetched from; so are all others that hold
        the same one. What an earlier attempt has begun is finished first, if anybody still holds that snapshot; chunks
        that are already there and match are not fetched again. ``on_progress`` gets bytes done and total. Raises LinkError
        and RemoteProtocolError, and StoreError when the file cannot be kept here.
        """
        ...

    async def fingerprint(self, peer: PeerId, run_id: RunId) -> Fingerprint:
        """Ask a member what its live state looks like. Raises LinkError, RemoteProtocolError."""
        ...

    async def keep(self, path: Path, progress_steps: float) -> None:
        """Give this state file, which is known to be good, to others who want the same; it may be removed afterwards."""
        ...

    def discard(self, destination: Path) -> None:
        """Remove a download, whole or not; until then it is gone on with, even by the node's next life."""
        ...
