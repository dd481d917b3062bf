"""The ring: the last events of a core, what it was when the first of them came, and what it said to each.

Recording costs microseconds an event: payloads are replaced by marks at once, everything else is kept as it is (events
and commands are frozen) and written out only when somebody asks. The ring is made of two segments, each of which begins
with the core's whole memory; when the newer one is full the older one goes, so that there is always a state to start
from, and at least half of the entries the ring may hold.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cache
from typing import Any, TypeVar, cast, get_args, get_type_hints

from lowcomm_node.core.commands import Command
from lowcomm_node.core.events import Event
from lowcomm_node.core.node import NodeCore
from lowcomm_node.telemetry.flight.state import Draws, State, draws_since, state_of
from lowcomm_node.telemetry.flight.values import field_names, stand_in

__all__ = ["Entry", "FlightRecorder", "Recording", "without_payload"]

_MAX_BYTES = 32 << 20
"""Of all entries together, as estimated: a node's own word on what it may remember, whatever peers send."""
_OBJECT_BYTES = 64

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One event and what the core made of it."""

    number: int
    """From 1, in this life of the node."""
    now: float
    """The time the core was told."""
    event: Event
    commands: tuple[Command, ...] = ()
    raised: str = ""
    """Class of the exception the core ended with instead of giving commands; a bug of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What the ring holds: enough to run all of it again."""

    states: tuple[tuple[int, State], ...]
    """The core's memory before the event of this number: before the first entry, now and then, and after the last."""
    draws: Draws
    entries: tuple[Entry, ...]


@dataclass(slots=True)
class _Segment:
    state: State
    first: int
    entries: list[Entry] = field(default_factory=list)
    num_bytes: int = 0


class FlightRecorder:
    """Stands between a shell and its core: ``handle`` is the core's own, and is written down.

    ``on_failure`` is told of an exception of the core, after it was written down and before it goes on its way.
    """

    def __init__(
        self,
        core: NodeCore,
        *,
        max_entries: int,
        max_bytes: int = _MAX_BYTES,
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        self._core = core
        self._segment_entries = max(1, max_entries // 2)
        self._segment_bytes = max_bytes // 2
        self._on_failure = on_failure
        self._number = 0
        self._segments = deque([_Segment(state_of(core), 1)], maxlen=2)

    def handle(self, event: Event, now: float) -> list[Command]:
        """Let the core decide."""
        segment = self._segments[-1]
        if len(segment.entries) >= self._segment_entries or segment.num_bytes >= self._segment_bytes:
            segment = _Segment(state_of(self._core), self._number + 1)
            self._segments.append(segment)
        try:
            commands = self._core.handle(event, now)
        except Exception as error:
            self._add(segment, event, now, [], type(error).__name__)
            if self._on_failure is not None:
                self._on_failure(error)
            raise
        self._add(segment, event, now, commands)
        return commands

    def recording(self) -> Recording:
        """Everything that is held, as of now; nothing in it changes any more."""
        first = self._segments[0].state
        return Recording(
            states=(*((s.first, s.state) for s in self._segments), (self._number + 1, state_of(self._core))),
            draws=draws_since(first, self._core),
            entries=tuple(entry for segment in self._segments for entry in segment.entries),
        )

    def size(self) -> tuple[int, int]:
        """Entries held, and bytes they take, roughly."""
        return sum(len(s.entries) for s in self._segments), sum(s.num_bytes for s in self._segments)

    def _add(self, segment: _Segment, event: Event, now: float, commands: list[Command], raised: str = "") -> None:
        self._number += 1
        kept = tuple([without_payload(command) for command in commands])
        entry = Entry(number=self._number, now=now, event=without_payload(event), commands=kept, raised=raised)
        segment.entries.append(entry)
        segment.num_bytes += _OBJECT_BYTES + _weight(entry.event) + _weight(entry.commands)


def without_payload(value: _T) -> _T:
    """The same event or command (or a part of one) with marks in place of payload bytes."""
    if isinstance(value, bytes):
        return cast("_T", stand_in(value))
    if isinstance(value, tuple):
        return cast("_T", tuple([without_payload(item) for item in value]))
    cls: Any = type(value)
    names = _names_with_bytes(cls)
    if not names:
        return value
    changed = replace(cast("Any", value), **{name: without_payload(getattr(value, name)) for name in names})
    return cast("_T", changed)


@cache
def _names_with_bytes(cls: type) -> tuple[str, ...]:
    """Fields of a dataclass in which payload may be, at any depth."""
    if not is_dataclass(cls):
        return ()
    return tuple(name for name, hint in get_type_hints(cls).items() if _has_bytes(hint))


def _has_bytes(hint: object) -> bool:
    if hint is bytes:
        return True
    if isinstance(hint, type) and is_dataclass(hint):
        return bool(_names_with_bytes(hint))
    return any(map(_has_bytes, get_args(hint)))


def _weight(value: object) -> int:
    """Bytes that an event or a part of one takes, roughly and rather too many."""
    if isinstance(value, str | bytes):
        return _OBJECT_BYTES + len(value)
    if isinstance(value, tuple):
        if value and isinstance(value[0], int):  # ranks: hundreds of small numbers, which exist once
            return _OBJECT_BYTES + 8 * len(value)
        return _OBJECT_BYTES + sum(map(_weight, value)) + 8 * len(value)
    if is_dataclass(value):
        cls: Any = type(value)
        return _OBJECT_BYTES + sum(_weight(getattr(value, name)) for name in field_names(cls))
    return 32
