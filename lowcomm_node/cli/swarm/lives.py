"""What the nodes of a swarm did, counted over their lives: counters of a killed node are kept as last seen."""

from collections import Counter
from dataclasses import dataclass, field

from lowcomm_node.wire.gen.lowcomm.v1 import control_pb2

__all__ = ["Ledger", "Life", "Status", "ddp_bytes"]

Status = control_pb2.Status

_WITH_STATE = frozenset({"training", "finished", "draining"})


@dataclass(slots=True, kw_only=True)
class Life:
    """One process life of one node. Times are seconds on the swarm's clock.

    Meeting and byte counters start at zero with each process. Step and token counters may continue from a
    checkpoint, so a later life counts from the first training status that was seen: up to one look too little.
    """

    node: str
    number: int
    started_s: float
    ending: str = ""
    """Empty while it lives; else killed, left, died."""
    last: Status | None = None
    training_from_s: float | None = None
    training_until_s: float = 0.0
    has_state: bool = False
    """It was seen to train, to have finished, or to be saving what it has."""
    _steps_at_start: int = 0
    _tokens_at_start: int = 0
    _tokens_first_seen: int = 0

    def observe(self, status: Status, now_s: float) -> None:
        """Take in a status; the newest one stays when the process ends."""
        if status.state == "training":
            if self.training_from_s is None:
                self.training_from_s = now_s
                self._tokens_first_seen = status.training.tokens
                if self.number > 0:
                    self._steps_at_start = status.training.steps
                    self._tokens_at_start = status.training.tokens
            self.training_until_s = now_s
        self.has_state = self.has_state or status.state in _WITH_STATE
        self.last = status

    @property
    def steps(self) -> int:
        """Inner steps taken in this life."""
        return 0 if self.last is None else max(0, self.last.training.steps - self._steps_at_start)

    @property
    def tokens(self) -> int:
        """Tokens trained on in this life."""
        return 0 if self.last is None else max(0, self.last.training.tokens - self._tokens_at_start)

    @property
    def has_trained(self) -> bool:
        """It was seen to train."""
        return self.training_from_s is not None

    @property
    def rate_tokens(self) -> int:
        """Tokens between the first and the last training status."""
        return 0 if self.last is None else max(0, self.last.training.tokens - self._tokens_first_seen)

    @property
    def training_s(self) -> float:
        """Seconds between the first and the last training status."""
        return 0.0 if self.training_from_s is None else self.training_until_s - self.training_from_s

    @property
    def bytes_sent(self) -> int:
        """Payload bytes sent in this life, all streams."""
        if self.last is None:
            return 0
        return sum(entry.bytes for entry in self.last.meetings.bytes if entry.direction == "sent")


@dataclass(slots=True)
class Ledger:
    """All lives of a swarm and the sums over them."""

    lives: list[Life] = field(default_factory=list)
    _current: dict[str, Life] = field(default_factory=dict)

    def begin(self, node: str, now_s: float) -> Life:
        """A process of ``node`` was started."""
        life = Life(node=node, number=self.lives_of(node), started_s=now_s)
        self.lives.append(life)
        self._current[node] = life
        return life

    def observe(self, node: str, status: Status, now_s: float) -> None:
        """A status of the node's present life arrived."""
        self._current[node].observe(status, now_s)

    def end(self, node: str, ending: str) -> None:
        """The node's present life is over; an ending that was stated before stays."""
        life = self._current[node]
        life.ending = life.ending or ending

    def current(self, node: str) -> Life:
        """The newest life of ``node``."""
        return self._current[node]

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of all nodes that were ever started, in this order."""
        return tuple(self._current)

    def lives_of(self, node: str) -> int:
        """How many lives ``node`` has had so far."""
        return sum(life.node == node for life in self.lives)

    def count(self, ending: str) -> int:
        """Lives with this ending."""
        return sum(life.ending == ending for life in self.lives)

    def steps_of(self, node: str) -> int:
        """Own inner steps of ``node`` over all its lives."""
        return sum(life.steps for life in self.lives if life.node == node)

    @property
    def steps(self) -> int:
        """Inner steps of all nodes."""
        return sum(life.steps for life in self.lives)

    @property
    def tokens(self) -> int:
        """Tokens of all nodes."""
        return sum(life.tokens for life in self.lives)

    @property
    def parameters(self) -> int:
        """Parameters of the model; 0 while no node has said."""
        return max((life.last.training.parameters for life in self.lives if life.last is not None), default=0)

    @property
    def meetings_completed(self) -> int:
        """Completed meetings, each counted once.

        Both ends count a meeting, so this is half the sum, rounded up: an end that was killed before it was looked
        at again took its count with it.
        """
        return (sum(life.last.meetings.completed for life in self.lives if life.last is not None) + 1) // 2

    @property
    def meetings_half(self) -> int:
        """Meetings that one end applied and the other may not have, as their survivors counted them."""
        return sum(life.last.meetings.half for life in self.lives if life.last is not None)

    @property
    def meetings_by_link(self) -> dict[str, int]:
        """Completed meetings by what they travelled over, as both ends counted them."""
        counts: Counter[str] = Counter()
        for life in self.lives:
            if life.last is not None:
                counts.update(dict(life.last.meetings.links))
        return {link: count for link, count in sorted(counts.items()) if count}

    @property
    def reachability(self) -> dict[str, str]:
        """What each node has last said of how others get to it."""
        said = {node: life.last.reachability for node, life in self._current.items() if life.last is not None}
        return {node: word for node, word in said.items() if word}

    @property
    def meetings_failed(self) -> dict[str, int]:
        """Failed meetings by reason, counted by each end that noticed."""
        counts: Counter[str] = Counter()
        for life in self.lives:
            if life.last is not None:
                counts.update(dict(life.last.meetings.failed))
        return {reason: count for reason, count in sorted(counts.items()) if count}

    @property
    def bytes_sent(self) -> dict[str, dict[str, int]]:
        """Payload bytes sent by all nodes: stream -> codec -> bytes."""
        sums: dict[str, dict[str, int]] = {}
        for life in self.lives:
            for entry in life.last.meetings.bytes if life.last is not None else ():
                if entry.direction == "sent" and entry.bytes:
                    codecs = sums.setdefault(entry.stream, {})
                    codecs[entry.codec] = codecs.get(entry.codec, 0) + entry.bytes
        return sums

    @property
    def bytes_sent_total(self) -> int:
        """Payload bytes sent by all nodes."""
        return sum(life.bytes_sent for life in self.lives)

    @property
    def blocked_seconds(self) -> dict[str, float]:
        """Seconds in which trainers wanted to train and waited, by cause, over all nodes."""
        sums: dict[str, float] = {"meeting": 0.0}
        for life in self.lives:
            for cause, seconds in life.last.training.blocked_seconds.items() if life.last is not None else ():
                sums[cause] = sums.get(cause, 0.0) + seconds
        return sums

    def tokens_per_second(self, node: str) -> float:
        """Tokens per second of training time of ``node``; starts and time spent dead do not count."""
        lives = [life for life in self.lives if life.node == node]
        seconds = sum(life.training_s for life in lives)
        return sum(life.rate_tokens for life in lives) / seconds if seconds > 0 else 0.0


def ddp_bytes(nodes: int, parameters: int, steps: int) -> float:
    """Bytes a synchronous run of ``nodes`` would send for ``steps`` node steps in total.

    Ring all-reduce of fp32 gradients: each node sends 2 (N - 1) / N * P * 4 bytes a step (ALGORITHMS section 6).
    """
    return 2 * (nodes - 1) / nodes * parameters * 4 * steps
