"""Rounds of averaging among the same peers by two systems: what each cost, and how far it brought the peers together."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lowcomm_node.bench.averager_load import Word

__all__ = [
    "HIVEMIND",
    "OURS",
    "Round",
    "RoundFigures",
    "figures_of",
    "needed_bytes",
    "rounds_of",
    "spread_of",
]

OURS, HIVEMIND = "meetings", "hivemind"
_NO_KILL = -1
_PROCESS_BYTES = 450 << 20
_COPIES = {"default": 1.6, "whole-bf16": 2.6, "whole-fp32": 4.3, "float16": 2.8, "none": 4.7}
"""Of the weights in fp32 that a peer has at its worst moment, measured with 29 million parameters."""


@dataclass(frozen=True, slots=True)
class Round:
    """One thing that all peers are asked to do at once."""

    side: str
    coding: str
    group: int
    is_measured: bool = True
    """The first of a kind connects and learns how large differences are."""
    is_struck: bool = False
    """One peer is killed in the middle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFigures:
    """What one round cost, all peers together where nothing else is said."""

    side: str
    coding: str
    group: int
    is_struck: bool
    wall_s: float
    """From the order until the last peer is done, or gives up."""
    median_s: float
    """Of the peers that came to an end."""
    bytes_per_peer: float | None
    """All that went over the peers' network, headers and directory included, over their number; None where nobody counted."""
    payload_per_peer: float | None
    """Sent, where peers count it themselves."""
    cpu_s: float
    """Of all processes; in a struck round the killed one's is missing."""
    memory_bytes: int
    """Largest sum of the proportional set sizes of all peers so far."""
    finished: int
    """Peers that came to the round's end."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Reason, and number of peers."""
    groups: Mapping[int, int] = field(default_factory=dict)
    """Size of group, and number of peers that were in one."""
    moved_share: float = math.nan
    """Of the weights of those who are still there: those that the round has changed."""
    spread_ratio: float = math.nan
    """Distance of the peers from their mean after the round over that before: 0 when all are equal, 0.707 after averages in pairs."""


def rounds_of(side: str, codings: Sequence[str], group: int, rounds: int) -> list[Round]:
    """Each kind ``rounds`` times, and the first of them once more before, for nothing: by then connections are there."""
    measured = [Round(side, coding, group) for coding in codings for _ in range(rounds)]
    return [replace(measured[0], is_measured=False), *measured] if measured else []


def needed_bytes(coding: str, peers: int, parameters: int) -> int:
    """Estimate of what all peers together hold at once; they are of one computer here, and of many elsewhere."""
    return peers * (_PROCESS_BYTES + int(_COPIES[coding] * 4 * parameters))


def figures_of(
    done: Round,
    words: Sequence[Word | None],
    before: Sequence[Word],
    *,
    wall_s: float,
    num_bytes: int | None,
    cpu_s: float,
    memory_bytes: int,
    killed: int = _NO_KILL,
) -> RoundFigures:
    """``words``: what each peer said of the round, None of one that said nothing in time; ``before``: their words before it."""
    asked = [word for index, word in enumerate(words) if index != killed]
    heard = [word for word in asked if word is not None]
    failures = Counter(word.failure for word in heard if word.failure)
    failures["no answer"] += len(asked) - len(heard)
    payload = sum(word.payload_bytes for word in heard)
    apart = spread_of([word.sample for word in before])
    together = spread_of([word.sample for word in heard]) if len(heard) == len(words) else math.nan
    return RoundFigures(
        side=done.side,
        coding=done.coding,
        group=done.group,
        is_struck=done.is_struck,
        wall_s=wall_s,
        median_s=statistics.median([word.seconds for word in heard if not word.failure] or [math.nan]),
        bytes_per_peer=None if num_bytes is None else num_bytes / len(words),
        payload_per_peer=payload / len(words) if payload and not done.is_struck else None,
        cpu_s=cpu_s,
        memory_bytes=memory_bytes,
        finished=sum(not word.failure for word in heard),
        failures={reason: count for reason, count in failures.items() if count},
        groups=dict(Counter(word.group for word in heard if word.group)),
        moved_share=_moved(before, words),
        spread_ratio=together / apart if apart else math.nan,
    )


def _moved(before: Sequence[Word], after: Sequence[Word | None]) -> float:
    shares = [
        sum(old != new for old, new in zip(was.sample, now.sample, strict=True)) / len(now.sample)
        for was, now in zip(before, after, strict=True)
        if now is not None and now.sample
    ]
    return statistics.fmean(shares) if shares else math.nan


def spread_of(samples: Sequence[Sequence[float]]) -> float:
    """Root mean square distance of the peers from their mean, per number."""
    if not samples:
        return math.nan
    total = sum(
        sum((number - statistics.fmean(numbers)) ** 2 for number in numbers) for numbers in zip(*samples, strict=True)
    )
    return math.sqrt(total / (len(samples) * len(samples[0])))
