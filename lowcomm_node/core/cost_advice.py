"""What stands in the way of taking part, by what it costs, and the line of a settings file or manifest that would change it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from lowcomm_node.core.costs import DAY_S, MONTH_DAYS, Costs

__all__ = ["Advice", "Room", "Whose", "advise"]

_LONG_DAYS = 30.0
_CROWDED = 0.5
"""Share of the line's time from which on partners often find each other busy, and nobody else's evening is spared."""
_SPARED = 0.9
"""Of the line: what is left keeps it usable for others."""
_MUCH_WRITTEN_PER_DAY = 200e9
"""A consumer's disk stands some hundred terabytes in all."""
_SMALL_WIDTH = 96
"""Of the model that a manifest has when it says nothing: half a gigabyte of memory is enough for it."""
_BYTES_PER_GB = 1e9
_NICE_S = (600, 1800, 3600, 7200, 14400, 43200, 86400)


class Whose(StrEnum):
    """In which document a line stands."""

    SETTINGS = "settings"
    """The volunteer's."""
    MANIFEST = "manifest"
    """The organiser's, before the run begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One thing that is in the way, and a way around it."""

    why: str
    line: str
    """As it stands in a file, in the form section.key = value."""
    whose: Whose


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What the machine has, what is wanted of it, and what its settings say. Bytes; 0 is not known."""

    memory_bytes: int = 0
    memory_free_bytes: int = 0
    fitting_micro_batches: int = 0
    """Parts of a batch with which it would fit; 0: with none."""
    fitting_layers: int = 0
    """Layers of the manifest's model with which it would fit; 0: with none, or it has other parts."""
    disk_bytes: int = 0
    disk_free_bytes: int = 0
    state_bytes: int = 0
    keep: int = 1
    checkpoint_every_s: float = 0.0
    params_every_steps: int = 1
    total_steps: int = 1
    monthly_gb: float = 0.0
    up_mbit_per_s: float = 0.0
    """Of the line."""
    up_cap_mbit_per_s: float = 0.0
    """bandwidth.up_mbit_per_s."""


def advise(costs: Costs, room: Room) -> tuple[Advice, ...]:
    """What to change, the most pressing first; nothing where nothing is in the way."""
    return (
        *_memory(room),
        *_disk(room),
        *_writing(room),
        *_month(costs, room),
        *_line(costs, room),
        *_length(costs, room),
    )


def _memory(room: Room) -> Iterator[Advice]:
    if not room.memory_free_bytes or room.memory_bytes <= room.memory_free_bytes:
        return
    why = f"training takes {_gb(room.memory_bytes)} of memory, and {_gb(room.memory_free_bytes)} are free"
    if room.fitting_micro_batches:
        line = f"device.micro_batches = {room.fitting_micro_batches}"
        yield Advice(why=f"{why}; the node finds smaller parts by itself, too", line=line, whose=Whose.SETTINGS)
    elif room.fitting_layers:
        why = f"{why}, however small the parts of a batch"
        yield Advice(why=why, line=f"model.num_layers = {room.fitting_layers}", whose=Whose.MANIFEST)
    else:
        why = f"{why}: too little, whatever the number of layers"
        yield Advice(why=why, line=f"model.d_model = {_SMALL_WIDTH}", whose=Whose.MANIFEST)


def _disk(room: Room) -> Iterator[Advice]:
    if not room.disk_free_bytes or room.disk_bytes <= room.disk_free_bytes:
        return
    why = f"checkpoints and downloads take {_gb(room.disk_bytes)} of the disk, and {_gb(room.disk_free_bytes)} are free"
    spare = room.disk_bytes - room.disk_free_bytes
    if room.keep > 1 and spare <= (room.keep - 1) * room.state_bytes:
        keep = room.keep - math.ceil(spare / room.state_bytes)
        yield Advice(why=why, line=f"checkpoint.keep = {keep}", whose=Whose.SETTINGS)
    else:
        yield Advice(why=why, line='state_dir = "/a/larger/disk"', whose=Whose.SETTINGS)


def _writing(room: Room) -> Iterator[Advice]:
    if not room.checkpoint_every_s or not room.state_bytes:
        return
    written = room.state_bytes * DAY_S / room.checkpoint_every_s
    if written <= _MUCH_WRITTEN_PER_DAY:
        return
    wished_s = room.state_bytes * DAY_S / _MUCH_WRITTEN_PER_DAY
    every_s = next((seconds for seconds in _NICE_S if seconds >= wished_s), _NICE_S[-1])
    why = f"checkpoints write {_gb(written)} a day to the disk; rarer ones cost more work after a power cut"
    if every_s > room.checkpoint_every_s:
        yield Advice(why=why, line=f"checkpoint.every_s = {every_s}", whose=Whose.SETTINGS)


def _month(costs: Costs, room: Room) -> Iterator[Advice]:
    usual = costs.usual
    if usual.stretch <= 1:
        return
    wished_gb = math.ceil(2 * MONTH_DAYS * usual.wished_per_day / _BYTES_PER_GB)
    why = f"the run asks for {wished_gb:,} GB a month, both directions, and bandwidth.monthly_gb = {room.monthly_gb:g} allows less: "
    if math.isinf(usual.stretch):
        why += "not even the states of those who join"
    else:
        why += f"meetings come {usual.stretch:.3g} times more rarely, and replicas drift further apart"
    yield Advice(why=why, line=f"bandwidth.monthly_gb = {wished_gb}", whose=Whose.SETTINGS)
    if math.isfinite(usual.stretch):
        steps = math.ceil(room.params_every_steps * usual.stretch)
        why = "for the whole run to ask for no more than that"
        yield Advice(why=why, line=f"meeting.params_every_steps = {steps}", whose=Whose.MANIFEST)


def _line(costs: Costs, room: Room) -> Iterator[Advice]:
    usual = costs.usual
    # Periods that the month's budget pays for may be long enough already.
    if usual.crowding > _CROWDED * usual.stretch:
        steps = math.ceil(room.params_every_steps * usual.crowding / _CROWDED)
        late = "later than they are due, and " if usual.crowding >= 1 else ""
        why = f"meetings take {100 * usual.crowding:.0f} % of the line's time: they come {late}often find their partner busy"
        yield Advice(why=why, line=f"meeting.params_every_steps = {steps}", whose=Whose.MANIFEST)
    if room.up_mbit_per_s and not room.up_cap_mbit_per_s and costs.meeting_s > 1:
        why = f"each meeting fills the line for {costs.meeting_s:.0f} s; a cap a little below its rate keeps it usable for others"
        cap = f"{_SPARED * room.up_mbit_per_s:.3g}"
        yield Advice(why=why, line=f"bandwidth.up_mbit_per_s = {cap}", whose=Whose.SETTINGS)


def _length(costs: Costs, room: Room) -> Iterator[Advice]:
    if costs.days <= _LONG_DAYS or math.isinf(costs.days):
        return
    steps = math.floor(room.total_steps * _LONG_DAYS / costs.days)
    why = (
        f"at this machine's pace the schedule takes {costs.days:,.0f} days. More nodes do not shorten it, they train more tokens "
        f"meanwhile; a smaller model does. In {_LONG_DAYS:.0f} days there is time for"
    )
    yield Advice(why=why, line=f"training.total_steps = {steps}", whose=Whose.MANIFEST)


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / _BYTES_PER_GB:,.3g} GB"
