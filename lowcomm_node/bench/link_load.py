"""What two ends of a link are to do to each other, and what came of it. Both travel between processes as JSON."""

import json
from dataclasses import asdict, dataclass, field

__all__ = ["EndResult", "LinkLoad", "Whereabouts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """What the answerer's record would say."""

    address: str
    """host:port, or a multiaddress."""
    peer_id: str = ""
    certificate: str = ""
    """Short form, in hexadecimal digits; empty without TLS."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Whereabouts":
        """Raises TypeError and ValueError."""
        return Whereabouts(**json.loads(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkLoad:
    """One end's part. Sizes are payload bytes of the three messages of a meeting that have payloads."""

    carrier: str
    """tcp: bare sockets, the measure of the others; grpc: the link of meetings; grpc-plain: the same without TLS;
    libp2p: the same messages over streams of two p2pds."""
    host: str
    """Own address."""
    is_answerer: bool
    folder: str = ""
    """Where it may keep its key and sockets; whoever starts it makes and removes it."""
    peer: Whereabouts | None = None
    """The answerer; only for the other end."""
    offer_bytes: int
    answer_bytes: int = 0
    """0: the offer is all there is, and the answerer says Busy."""
    close_bytes: int = 0
    meetings: int = 1
    """One after the other, over one connection."""
    up_mbit: float = 0.0
    """Cap of what this end sends; 0 is none."""
    down_mbit: float = 0.0
    probe_every_s: float = 0.0
    """A question of a few bytes beside the payload so often, over the same connection; 0 is never."""

    @property
    def payload_bytes(self) -> int:
        """Of one meeting, all messages together."""
        return self.offer_bytes + self.answer_bytes + self.close_bytes

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "LinkLoad":
        """Raises TypeError and ValueError."""
        plain = json.loads(text)
        peer = plain.pop("peer")
        return LinkLoad(**plain, peer=None if peer is None else Whereabouts(**peer))


@dataclass(frozen=True, slots=True, kw_only=True)
class EndResult:
    """What one end has seen."""

    meetings_s: list[float] = field(default_factory=list)
    """Seconds of each meeting, from the order to dial until the answerer's last word; of the end that dials."""
    probes_s: list[float] = field(default_factory=list)
    """Seconds from each question to its answer."""
    failures: list[str] = field(default_factory=list)
    received: list[tuple[float, int]] = field(default_factory=list)
    """Monotonic seconds, bytes that the kernel had received over TCP by then; of the end that answers, and only on Linux."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "EndResult":
        """Raises TypeError and ValueError."""
        return EndResult(**json.loads(text))
