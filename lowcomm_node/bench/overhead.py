"""Training within nodes against bare loops: readings of both by turns, and what they say. No clock and no processes of its own."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lowcomm_node.bench.side_by_side import Effect, effect_of_ratios

__all__ = ["BARE", "EMULATOR", "LOOP", "TRAINER", "GroupFigures", "Reading", "Window", "figures_of", "window_between"]

BARE = "bare loops"
"""The group that the others are measured against."""
LOOP, TRAINER, EMULATOR = "loop", "trainer", "emulator"
"""Kinds of processes: a bare loop; a node's trainer; what carries the packets of emulated lines, which real nodes have not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Counters of one group at one moment."""

    at_s: float
    """By a monotonic clock."""
    tokens: int
    """All members together."""
    processor_s: Mapping[str, float]
    """By kind of process."""
    machine_busy_s: float
    """Processor time that all processes of this machine have taken."""
    meetings: int = 0
    """Completed, each counted once."""
    failed: int = 0
    """As each end counts them."""
    sent_bytes: int = 0
    exchange_s: float = 0.0
    """Time that trainers spent on meetings, by the clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One group training while all others stand still."""

    group: str
    turn: int
    seconds: float
    tokens_per_s: float
    processor_ms: Mapping[str, float]
    """Milliseconds a second, by kind of process."""
    others_ms: float
    """Of what else ran on this machine."""
    meetings_per_min: float
    failed_per_min: float
    bytes_per_s: float
    exchange_ms: float
    """Of trainers for meetings, by the clock; milliseconds a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFigures:
    """All windows of one group."""

    group: str
    tokens_per_s: float
    ratio: Effect
    """Tokens a second over those of the bare loops in the same turn."""
    ratio_without_emulator: float | None
    """What the middle would be if trainers had the emulator's processor time; null without one."""
    per_trainer_second: Effect
    """Tokens for each second that a trainer computed, over those of the bare loops: how much dearer a token has become in itself."""
    processor_ms: Mapping[str, float]
    others_ms: float
    meetings_per_min: float
    failed_per_min: float
    bytes_per_s: float
    exchange_ms: float
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    """Of one member, by kind of process."""


def window_between(group: str, turn: int, before: Reading, after: Reading) -> Window:
    """What happened between two readings of one group."""
    seconds = after.at_s - before.at_s
    taken = {kind: after.processor_s[kind] - before.processor_s.get(kind, 0.0) for kind in after.processor_s}
    others_s = after.machine_busy_s - before.machine_busy_s - sum(taken.values())
    return Window(
        group=group,
        turn=turn,
        seconds=seconds,
        tokens_per_s=(after.tokens - before.tokens) / seconds,
        processor_ms={kind: 1e3 * spent_s / seconds for kind, spent_s in taken.items()},
        others_ms=1e3 * others_s / seconds,
        meetings_per_min=60 * (after.meetings - before.meetings) / seconds,
        failed_per_min=60 * (after.failed - before.failed) / seconds,
        bytes_per_s=(after.sent_bytes - before.sent_bytes) / seconds,
        exchange_ms=1e3 * (after.exchange_s - before.exchange_s) / seconds,
    )


def figures_of(
    windows: Sequence[Window], group: str, memory_bytes: Mapping[str, int] | None = None
) -> GroupFigures | None:
    """Means over the windows of ``group``, and ratios turn by turn; None where it has no window."""
    own = [window for window in windows if window.group == group]
    if not own:
        return None
    bare = {window.turn: window for window in windows if window.group == BARE}
    pairs = [(window, bare[window.turn]) for window in own if window.turn in bare]
    ratio = effect_of_ratios([window.tokens_per_s / other.tokens_per_s for window, other in pairs])
    processor_ms = {kind: statistics.fmean(window.processor_ms[kind] for window in own) for kind in own[0].processor_ms}
    emulator_ms, trainers_ms = processor_ms.get(EMULATOR), processor_ms.get(TRAINER)
    return GroupFigures(
        group=group,
        tokens_per_s=statistics.fmean(window.tokens_per_s for window in own),
        ratio=ratio,
        ratio_without_emulator=(
            ratio.middle * (trainers_ms + emulator_ms) / trainers_ms if emulator_ms and trainers_ms else None
        ),
        per_trainer_second=effect_of_ratios([_per_second(window) / _per_second(other) for window, other in pairs]),
        processor_ms=processor_ms,
        others_ms=statistics.fmean(window.others_ms for window in own),
        meetings_per_min=statistics.fmean(window.meetings_per_min for window in own),
        failed_per_min=statistics.fmean(window.failed_per_min for window in own),
        bytes_per_s=statistics.fmean(window.bytes_per_s for window in own),
        exchange_ms=statistics.fmean(window.exchange_ms for window in own),
        memory_bytes=memory_bytes or {},
    )


def _per_second(window: Window) -> float:
    """Tokens for each second of processor time of what trains."""
    return 1e3 * window.tokens_per_s / window.processor_ms[LOOP if LOOP in window.processor_ms else TRAINER]
