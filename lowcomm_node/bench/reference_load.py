"""What one member of a reference run is to do, and what it says of itself. Both travel between processes as JSON."""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum

__all__ = ["MemberLoad", "Reference", "Telling"]


class Reference(StrEnum):
    """What a swarm is compared with."""

    DDP = "ddp"
    """Mean gradient of all in each step."""
    DILOCO = "diloco"
    """Own steps, and every so many of them Nesterov's momentum on the mean of all."""
    LOCAL = "local"
    """Nobody talks to anybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberLoad:
    """One process of a reference run."""

    manifest: str
    """Path of the run's file: model, data, schedule, optimizer and seed."""
    peer_id: str
    """Of the node of a swarm whose batches these are: batch k of it is taken in step k."""
    rank: int
    size: int
    rendezvous: str
    """Path where no file is yet, the same for all members."""
    reference: Reference
    diloco_every_steps: int = 0
    threads: int = 1
    eval_every_steps: int = 0
    state_dir: str
    """Where tokens are kept, the same for all members."""
    state_file: str
    """Where the last state goes."""
    data: tuple[str, ...] = ()
    tokenizer: str = ""
    patience_s: float = 600.0
    """Longest wait for the others, in each exchange."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "MemberLoad":
        """Raises TypeError and ValueError."""
        plain = json.loads(text)
        return MemberLoad(
            **plain | {"reference": Reference(plain["reference"]), "data": tuple(str(path) for path in plain["data"])}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """One look of a member at itself."""

    steps: int
    tokens: int
    """Its own, without those of the others."""
    loss: float | None
    """On held-out windows, nats per token; None where another member looks at the same weights."""
    received_bytes: int | None
    """TCP payload that its kernel has received from the others so far; None where the system does not tell."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Telling":
        """Raises TypeError and ValueError."""
        return Telling(**json.loads(text))
