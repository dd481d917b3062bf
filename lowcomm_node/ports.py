"""What the shell must provide: the interfaces between decisions and the world. Adapters implement them.

All methods are called from the daemon's one event loop.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lowcomm_node.core.events import Member
from lowcomm_node.core.messages import Message
from lowcomm_node.units import MeetingId, PeerId, RunId

__all__ = ["Clock", "Directory", "Link", "MeetingSink", "SnapshotSource", "StateClient", "Welcome"]


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
    clock_offset_s: float
    """The peer's clock minus ours, half the round trip taken off."""


class Directory(Protocol):
    """Who takes part in the run; a DHT in the daemon."""

    peer_id: PeerId

    async def hello(self, run_id: RunId | None) -> Welcome:
        """Ask the peers given at start for their run. Raises NoPeerError naming each address and what happened."""
        ...

    async def serve_hello(self, run_id: RunId, manifest: bytes) -> None:
        """Answer other nodes' hello from now on."""
        ...

    async def announce(self, *, progress_steps: float, has_state: bool) -> bytes:
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

    def message_received(self, message: Message) -> None: ...

    def message_progressed(self, meeting_id: MeetingId) -> None:
        """Bytes of a message move, either way; a few times a second at most."""
        ...

    def link_failed(self, meeting_id: MeetingId, reason: str) -> None: ...


class Link(Protocol):
    """Carries meeting messages; complete and verified messages only."""

    def open(self, meeting_id: MeetingId, grpc_address: str, message: Message) -> None:
        """Dial and send the first message; failure is reported to the sink."""
        ...

    def send(self, meeting_id: MeetingId, message: Message) -> None:
        """Send over the meeting's newest connection, if there is one."""
        ...

    def close(self, meeting_id: MeetingId) -> None:
        """Finish the meeting's connections once what was sent is out."""
        ...


SnapshotSource = Callable[[], Awaitable[tuple[Path, float]]]
"""Writes a fresh snapshot file (or returns a recent one) and its progress; called when a joiner asks."""


class StateClient(Protocol):
    """Downloads a member's state."""

    async def download(
        self,
        grpc_address: str,
        run_id: RunId,
        destination: Path,
        max_bytes: int,
        on_progress: Callable[[int, int], None],
    ) -> float:
        """Fetch a donor's snapshot into ``destination``, each chunk verified; returns the donor's progress.

        Chunks that are already there and match are not fetched again. ``on_progress`` gets bytes done and total.
        Raises LinkError or RemoteProtocolError.
        """
        ...
