"""What a swarm's size costs each of its nodes: counters of all nodes at two moments, for one size after the other."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["SizeFigures", "SizeReading", "dht_requests", "figures_between", "growth"]

_DHT = re.compile(rb'^lowcomm_dht_requests_total\{[^}]*operation="(get|put)"[^}]*\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeReading:
    """Counters of all nodes together at one moment."""

    at_s: float
    """By a monotonic clock."""
    nodes: int
    daemon_s: float
    """Processor time."""
    p2pd_s: float
    trainer_s: float
    exchange_s: float
    """Time of trainers for meetings, by the clock."""
    meeting_ends: int
    """Completed meetings, counted at both ends."""
    failed: int
    sent_bytes: int
    """Payload of meetings."""
    dht_gets: int
    dht_puts: int
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeFigures:
    """One size: what one node does and spends, on average."""

    nodes: int
    seconds: float
    meetings_per_min: float
    failed_per_min: float
    steps_per_s: float
    kb_per_meeting: float
    """Payload that one end sends in a completed meeting, those that came to nothing included."""
    daemon_ms_per_meeting: float
    """Processor time of the daemon for each completed meeting of its node, with all else that it does."""
    p2pd_ms_per_meeting: float
    exchange_ms_per_meeting: float
    daemon_ms_per_s: float
    p2pd_ms_per_s: float
    dht_gets_per_min: float
    dht_puts_per_min: float
    memory_mib: float
    """Daemon, trainer and p2pd, proportional."""


def figures_between(before: SizeReading, after: SizeReading, memory_bytes: int) -> SizeFigures:
    """``memory_bytes``: of one node. Where nobody met, what is for each meeting is NaN."""
    seconds, nodes = after.at_s - before.at_s, after.nodes
    ends = after.meeting_ends - before.meeting_ends
    per_end = 1 / ends if ends else float("nan")
    per_s = 1 / (nodes * seconds)
    daemon_ms, p2pd_ms = 1e3 * (after.daemon_s - before.daemon_s), 1e3 * (after.p2pd_s - before.p2pd_s)
    return SizeFigures(
        nodes=nodes,
        seconds=seconds,
        meetings_per_min=60 * ends * per_s,
        failed_per_min=60 * (after.failed - before.failed) * per_s,
        steps_per_s=(after.steps - before.steps) * per_s,
        kb_per_meeting=(after.sent_bytes - before.sent_bytes) / 1e3 * per_end,
        daemon_ms_per_meeting=daemon_ms * per_end,
        p2pd_ms_per_meeting=p2pd_ms * per_end,
        exchange_ms_per_meeting=1e3 * (after.exchange_s - before.exchange_s) * per_end,
        daemon_ms_per_s=daemon_ms * per_s,
        p2pd_ms_per_s=p2pd_ms * per_s,
        dht_gets_per_min=60 * (after.dht_gets - before.dht_gets) * per_s,
        dht_puts_per_min=60 * (after.dht_puts - before.dht_puts) * per_s,
        memory_mib=memory_bytes / (1 << 20),
    )


def dht_requests(exposition: bytes) -> tuple[int, int]:
    """Reads and writes of the directory, whatever came of them, in the text of /metrics."""
    counts = {b"get": 0.0, b"put": 0.0}
    for operation, value in _DHT.findall(exposition):
        counts[operation] += float(value)
    return int(counts[b"get"]), int(counts[b"put"])


def growth(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The largest size's value over that of the smallest; NaN where that is 0."""
    first, last = values[sizes.index(min(sizes))], values[sizes.index(max(sizes))]
    return last / first if first else float("nan")
