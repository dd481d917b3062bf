"""May this node use its owner's machine now? Reasons to pause, each slow to begin and slower to end.

A reason counts once what it is about has been seen at every look for some seconds, and counts no more once it has been gone
for longer: a node that pauses ends its trainer, and one that goes on starts it again, so neither may flap. What the owner
says himself, and his hours, count at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from lowcomm_node.core.allowance import Allowance

__all__ = ["GpuUse", "Owner", "OwnerRules", "PauseReason", "Seen"]

_COOLER_C = 10.0
"""So far below the limit it has to be before a node goes on."""
_OTHERS_GPU_RATIO = 0.2
"""A desktop and a video stay below it; a game and a training do not."""
_OTHERS_VRAM_SHARE = 0.1
_FREE_VRAM_SHARE = 0.05
_LESS = 0.5
"""Of a limit on others' use: less than this share of it is as good as none."""


class PauseReason(StrEnum):
    """Why a node leaves the machine to its owner. In this order they are told."""

    COMMAND = "command"
    QUIET_HOURS = "quiet_hours"
    BATTERY = "battery"
    HOT = "hot"
    GPU = "gpu"
    """Another process computes on a GPU of this node's."""
    VRAM = "vram"
    """Other processes hold memory of a GPU of this node's, and hardly any is left."""
    LOAD = "load"
    """Other processes use the processor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerRules:
    """What the owner wants; see ``settings.node.OwnerSettings``."""

    quiet_hours: tuple[tuple[int, int], ...] = ()
    """As ``settings.hours.parse_hours`` gives them."""
    pause_on_battery: bool = True
    max_temperature_c: float = 0.0
    """0 is no limit."""
    yield_gpu: bool = True
    max_others_load: float = 0.0
    """Share of all processors; 0 is no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUse:
    """Who uses a GPU on which this node has been training."""

    others_ratio: float
    """Share of time in which others compute there; 0 to 1."""
    others_bytes: int
    own_bytes: int
    """0 while this node's trainer is not there."""
    free_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One look at the machine; what it does not tell is left at its default."""

    minute_of_day: int = 0
    """By the machine's own clock."""
    on_battery: bool = False
    temperature_c: float | None = None
    """The hottest of processor and GPUs of this node's."""
    others_load: float = 0.0
    """Share of all processors that other processes used since the look before; 0 to 1."""
    gpus: Mapping[int, GpuUse] | None = None
    """By index."""


class _Latch:
    """On after it should be on for ``begins_after_s`` at a stretch, off after it may be off for ``ends_after_s``."""

    def __init__(self, begins_after_s: float = 0.0, ends_after_s: float = 0.0) -> None:
        self._waits_s = {False: begins_after_s, True: ends_after_s}
        self._since: float | None = None
        self.is_on = False

    def look(self, now: float, *, starts: bool, stays: bool) -> None:
        """``starts``: reason enough to go on; ``stays``: reason enough to remain on."""
        is_other = not stays if self.is_on else starts
        if not is_other:
            self._since = None
            return
        self._since = now if self._since is None else self._since
        if now - self._since >= self._waits_s[self.is_on]:
            self.is_on, self._since = not self.is_on, None


class Owner:
    """One node's judgement. All times are on the clock of ``now``, seconds that do not go back."""

    def __init__(self, rules: OwnerRules) -> None:
        self._rules = rules
        self._hours = Allowance(quiet_hours=rules.quiet_hours)
        self._latches = {
            PauseReason.COMMAND: _Latch(),
            PauseReason.QUIET_HOURS: _Latch(),
            PauseReason.BATTERY: _Latch(10.0, 30.0),
            PauseReason.HOT: _Latch(30.0, 60.0),
            PauseReason.GPU: _Latch(4.0, 60.0),
            PauseReason.VRAM: _Latch(4.0, 60.0),
            PauseReason.LOAD: _Latch(30.0, 60.0),
        }
        self._needs_bytes: dict[int, int] = {}
        """Memory that this node's trainer took on each GPU when it was last seen there."""

    def look(self, seen: Seen, now: float, *, is_commanded: bool) -> tuple[PauseReason, ...]:
        """Take in a look at the machine; returns why this node should pause now, nothing for no reason at all."""
        self._latch(PauseReason.COMMAND, now, starts=is_commanded)
        self._latch(PauseReason.QUIET_HOURS, now, starts=self._hours.quiet_for_min(seen.minute_of_day) > 0)
        self._latch(PauseReason.BATTERY, now, starts=self._rules.pause_on_battery and seen.on_battery)
        limit_c, found_c = self._rules.max_temperature_c, seen.temperature_c
        is_known = limit_c > 0 and found_c is not None
        self._latch(
            PauseReason.HOT,
            now,
            starts=is_known and found_c is not None and found_c >= limit_c,
            stays=is_known and found_c is not None and found_c > limit_c - _COOLER_C,
        )
        self._look_at_gpus(seen.gpus or {}, now)
        limit = self._rules.max_others_load
        self._latch(
            PauseReason.LOAD,
            now,
            starts=0 < limit < seen.others_load,
            stays=0 < _LESS * limit < seen.others_load,
        )
        return tuple(reason for reason, latch in self._latches.items() if latch.is_on)

    def _look_at_gpus(self, gpus: Mapping[int, GpuUse], now: float) -> None:
        if not self._rules.yield_gpu:
            return
        for index, use in gpus.items():
            if use.own_bytes:
                self._needs_bytes[index] = use.own_bytes
        busiest = max((use.others_ratio for use in gpus.values()), default=0.0)
        self._latch(
            PauseReason.GPU,
            now,
            starts=busiest >= _OTHERS_GPU_RATIO,
            stays=busiest >= _LESS * _OTHERS_GPU_RATIO,
        )
        self._latch(
            PauseReason.VRAM,
            now,
            starts=any(_is_short(use) for use in gpus.values()),
            stays=any(self._lacks_room(index, use) for index, use in gpus.items()),
        )

    def _lacks_room(self, index: int, use: GpuUse) -> bool:
        """Would it be short again if the trainer came back? Where others hold little it is their share, whatever we need."""
        if use.own_bytes:
            return _is_short(use)
        left = use.free_bytes - self._needs_bytes.get(index, 0)
        return use.others_bytes >= _OTHERS_VRAM_SHARE * use.size_bytes and left < _FREE_VRAM_SHARE * use.size_bytes

    def _latch(self, reason: PauseReason, now: float, *, starts: bool, stays: bool | None = None) -> None:
        self._latches[reason].look(now, starts=starts, stays=starts if stays is None else stays)


def _is_short(use: GpuUse) -> bool:
    """By what others hold: a trainer that fills a GPU of its own is in nobody's way."""
    is_shared = use.others_bytes >= _OTHERS_VRAM_SHARE * use.size_bytes
    return is_shared and use.free_bytes < _FREE_VRAM_SHARE * use.size_bytes
