"""Home lines between nodes as arithmetic: what rate, queue, delay and loss do to each packet. No clock and no sockets of its own."""

import heapq
import re
from collections import deque
from dataclasses import dataclass
from math import inf
from random import Random

from lowcomm_node.errors import ConfigError

__all__ = ["Internet", "LineShape", "Traffic", "parse_line"]

_BYTES_PER_MBIT = 125_000.0
_LEAST_MBIT = 0.1
_MOST_MBIT = 1000.0
_MOST_MS = 5000.0
_FORM = "RATE[,ROUND TRIP[,LOSS]], as in 20mbit,100ms,1% or 50/10mbit,40ms (down/up)"
_RATE = re.compile(r"(?:(\d+(?:\.\d+)?)/)?(\d+(?:\.\d+)?)mbit")
_DELAY = re.compile(r"(\d+(?:\.\d+)?)ms(?:~(\d+(?:\.\d+)?)ms)?")
_LOSS = re.compile(r"(\d+(?:\.\d+)?)%")


@dataclass(frozen=True, slots=True, kw_only=True)
class LineShape:
    """One node's line."""

    down_mbit: float
    up_mbit: float
    round_trip_ms: float = 0.0
    """Between two nodes with such lines, without load; half of it is made by each of them."""
    jitter_ms: float = 0.0
    """A packet comes up to so much later; none overtakes another."""
    loss: float = 0.0
    """Share of the packets sent that do not arrive, in [0, 1)."""
    queue_ms: float = 200.0
    """Longest wait in each of its two queues; what would wait longer is dropped."""


@dataclass(slots=True)
class Traffic:
    """What a line has carried. Bytes are of whole IP packets."""

    sent_bytes: int = 0
    """Given to the line by its node, lost ones included."""
    received_bytes: int = 0
    lost: int = 0
    """Packets lost by chance."""
    dropped: int = 0
    """Packets that found a queue full."""


def parse_line(text: str) -> LineShape:
    """``20mbit,100ms,1%``; also ``50/10mbit`` (down/up) and ``40ms~5ms`` (jitter). Raises ConfigError."""
    words = text.replace(" ", "").lower().split(",")
    rate = _RATE.fullmatch(words[0])
    delay = _DELAY.fullmatch(words[1]) if len(words) > 1 else None
    loss = _LOSS.fullmatch(words[2]) if len(words) > 2 else None
    if not rate or (len(words) > 1 and not delay) or (len(words) > 2 and not loss) or len(words) > 3:
        raise ConfigError(f"--line {text} is not allowed; allowed: {_FORM}")
    up_mbit = float(rate[2])
    shape = LineShape(
        down_mbit=float(rate[1] or up_mbit),
        up_mbit=up_mbit,
        round_trip_ms=float(delay[1]) if delay else 0.0,
        jitter_ms=float(delay[2] or 0.0) if delay else 0.0,
        loss=float(loss[1]) / 100 if loss else 0.0,
    )
    if not _LEAST_MBIT <= min(shape.down_mbit, shape.up_mbit) <= max(shape.down_mbit, shape.up_mbit) <= _MOST_MBIT:
        raise ConfigError(f"--line {text}: the rate is not allowed; allowed: {_LEAST_MBIT:g} to {_MOST_MBIT:g} mbit")
    if shape.round_trip_ms > _MOST_MS or shape.jitter_ms > _MOST_MS or shape.loss >= 1:
        raise ConfigError(f"--line {text} is not allowed; allowed: at most {_MOST_MS:g} ms, and less than 100% of loss")
    return shape


class _Line:
    def __init__(self, shape: LineShape, seed: str) -> None:
        self.up_s_per_byte, self.down_s_per_byte = (
            1 / (mbit * _BYTES_PER_MBIT) for mbit in (shape.up_mbit, shape.down_mbit)
        )
        self.delay_s = shape.round_trip_ms / 4e3
        self.jitter_s = shape.jitter_ms / 1e3
        self.loss = shape.loss
        self.queue_s = shape.queue_ms / 1e3
        self.chance = Random(seed)
        self.up_free_at = self.down_free_at = self.last_arrival = 0.0
        self.leaving: deque[tuple[float, bytes]] = deque()
        self.is_cut = False
        self.deaf_to: set[int] = set()
        self.traffic = Traffic()


class Internet:
    """Lines by number, and the packets that are on their way between them.

    Each packet waits for its sender's line, travels, and waits for its receiver's line. The caller hands in packets and asks
    for those that are due in the order of time; equal seeds and equal packets lose the same ones.
    """

    def __init__(self, shapes: list[LineShape], seed: int) -> None:
        self._lines = [_Line(shape, f"line|{seed}|{number}") for number, shape in enumerate(shapes)]
        self._travelling: list[tuple[float, int, int, bytes]] = []
        self._num_sent = 0

    def send(self, source: int, target: int, packet: bytes, now: float) -> None:
        """A packet leaves ``source`` for ``target``. ``now``: monotonic seconds."""
        line, other = self._lines[source], self._lines[target]
        size = len(packet)
        line.traffic.sent_bytes += size
        begins = max(now, line.up_free_at)
        if begins - now > line.queue_s:
            line.traffic.dropped += 1
            return
        line.up_free_at = begins + size * line.up_s_per_byte
        if line.loss and line.chance.random() < line.loss:
            line.traffic.lost += 1
            return
        if line.is_cut or other.is_cut or target in line.deaf_to:
            return
        arrives = line.up_free_at + line.delay_s + other.delay_s
        if line.jitter_s:
            line.last_arrival = arrives = max(line.last_arrival, arrives + line.jitter_s * line.chance.random())
        self._num_sent += 1
        heapq.heappush(self._travelling, (arrives, self._num_sent, target, packet))

    def due(self, now: float) -> list[tuple[int, bytes]]:
        """The packets that reach their target's node by now, each with the target's number."""
        travelling = self._travelling
        while travelling and travelling[0][0] <= now:
            arrived, _, target, packet = heapq.heappop(travelling)
            line = self._lines[target]
            begins = max(arrived, line.down_free_at)
            if begins - arrived > line.queue_s:
                line.traffic.dropped += 1
                continue
            line.down_free_at = begins + len(packet) * line.down_s_per_byte
            line.leaving.append((line.down_free_at, packet))
        delivered = []
        for number, line in enumerate(self._lines):
            while line.leaving and line.leaving[0][0] <= now:
                _, packet = line.leaving.popleft()
                line.traffic.received_bytes += len(packet)
                delivered.append((number, packet))
        return delivered

    @property
    def next_at(self) -> float:
        """When something will be due; infinite while nothing is on its way."""
        heads = [line.leaving[0][0] for line in self._lines if line.leaving]
        if self._travelling:
            heads.append(self._travelling[0][0])
        return min(heads, default=inf)

    def traffic(self, number: int) -> Traffic:
        """What this line has carried so far."""
        return self._lines[number].traffic

    def cut(self, number: int, *, is_cut: bool) -> None:
        """Nothing gets in or out of a line that is cut; its own node notices nothing."""
        self._lines[number].is_cut = is_cut

    def lose(self, source: int, target: int, *, is_lost: bool) -> None:
        """Whatever ``source`` sends to ``target`` is lost on the way."""
        (self._lines[source].deaf_to.add if is_lost else self._lines[source].deaf_to.discard)(target)
