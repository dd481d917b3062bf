"""What taking part in a run costs one node, by the day and by the month: arithmetic on sizes and speeds, nothing is measured here.

Reckoned for the average node: others ask it for as many meetings as it starts itself. Who trains faster than the others is asked
less often than it asks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from lowcomm_node.units import Stream

__all__ = ["DAY_S", "MONTH_DAYS", "Circumstances", "Costs", "Flow", "Traffic", "Weight", "reckon"]

DAY_S = 86_400.0
MONTH_DAYS = 30
_DHT_BYTES_PER_S = 2300.0
"""Each way, IP packets and all: 2.1 to 2.4 kB were counted between four idle nodes with the settings as they come."""
_BYTES_PER_MBIT = 125_000.0
_BYTES_PER_GB = 1e9
_JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Bytes of one meeting as its initiator sees them; its answerer sends what this end receives."""

    sent: int
    received: int

    @property
    def both(self) -> int:
        """What either end of the line moves in one direction by one meeting that it starts and one that it answers."""
        return self.sent + self.received


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One stream, where it is met for alone. Streams that are due together share a connection and part of the framing."""

    stream: Stream
    every_steps: int
    """K: own steps between two meetings that a node starts for it."""
    payload: Flow
    framing: Flow
    """Headers of messages and chunks, verdict and confirmations; what TCP and TLS add is not in it."""
    last_payload: Flow
    """In the dense last phase of the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """The machine, the line and what their owner allows."""

    steps_per_s: float
    hours_per_day: float = 24.0
    """In which the node runs."""
    training_share: float = 1.0
    """Of that time, outside of the owner's quiet hours."""
    open_share: float = 1.0
    """Of the training time in which the line is open, too."""
    up_mbit_per_s: float = 0.0
    """What the line, or its cap, lets out; 0 is not known."""
    down_mbit_per_s: float = 0.0
    monthly_gb: float = 0.0
    """bandwidth.monthly_gb, both directions; 0 is no limit."""
    joins_per_day: float = 1.0
    """How often a node begins with a state from others, on average: each fetches so many, and so gives as many."""
    state_bytes: int = 0
    total_steps: int = 1
    last_ratio: float = 0.0
    """Share of the run, at its end, in which meetings are dense."""
    watts: float = 0.0
    """0 is not known."""
    price_per_kwh: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Of one phase of the run. Bytes are each way: on average a node sends as many as it receives."""

    meetings_per_day: float
    """That this node starts; as many it answers. As often as line and budget allow, where they do not allow what the manifest asks for."""
    payload_per_day: dict[Stream, float]
    framing_per_day: float
    states_per_day: float
    """Downloads, given and fetched."""
    wished_per_day: float
    """All of it, as the manifest asks for it and whatever line and budget allow."""
    stretch: float
    """So many times longer than the manifest's are the periods that bandwidth.monthly_gb pays for: 1 where it pays for all of them,
    infinite where it does not even pay for the states."""
    crowding: float
    """Share of the time in which the line is open that the meetings asked for would take; from 1 on they come later than they are
    due. 0 where the line's speed is not known."""
    bytes_per_day: float
    """All of it, as line_bytes_total counts."""
    bytes_per_month: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What comes of it."""

    steps_per_day: float
    days: float
    """Until the schedule's end, if the average node is as fast as this one."""
    last_days: float
    """Of them, in the dense last phase."""
    usual: Traffic
    last: Traffic
    """In the dense last phase."""
    dht_per_day: float
    """Bytes each way beside all others: records, look-ups, and what keeps connections open."""
    meeting_s: float
    """On the line, the usual one of the stream that is met for most often, with a partner whose line is like this one; 0: not known."""
    kwh_per_day: float
    """0: not known."""
    money_per_day: float
    run_bytes: float
    """Each way, from the first step of the run to its last."""


def reckon(weights: Sequence[Weight], around: Circumstances) -> Costs:
    """The costs of meetings with these ``weights`` around here. A node that does not train at all pays nothing, and has no end."""
    train_s = _train_s(around)
    steps = around.steps_per_s * train_s
    often = min(weights, key=lambda weight: weight.every_steps)
    days = around.total_steps / steps if steps else inf
    usual = _traffic(weights, [weight.payload for weight in weights], around)
    last = _traffic(weights, [weight.last_payload for weight in weights], around)
    last_days = around.last_ratio * days
    kwh = around.watts * train_s / _JOULES_PER_KWH
    return Costs(
        steps_per_day=steps,
        days=days,
        last_days=last_days,
        usual=usual,
        last=last,
        dht_per_day=3600.0 * around.hours_per_day * _DHT_BYTES_PER_S,
        meeting_s=_line_s(often.payload.both + often.framing.both, around),
        kwh_per_day=kwh,
        money_per_day=kwh * around.price_per_kwh,
        run_bytes=(days - last_days) * usual.bytes_per_day + last_days * last.bytes_per_day if steps else 0.0,
    )


def _traffic(weights: Sequence[Weight], payloads: Sequence[Flow], around: Circumstances) -> Traffic:
    open_s = _train_s(around) * around.open_share
    started = [around.steps_per_s * open_s / weight.every_steps for weight in weights]
    payload = [count * flow.both for count, flow in zip(started, payloads, strict=True)]
    framing = sum(count * weight.framing.both for count, weight in zip(started, weights, strict=True))
    meetings, states = sum(payload) + framing, around.joins_per_day * around.state_bytes
    crowding = 2 * _line_s(meetings, around) / open_s if open_s else 0.0
    stretch = _stretch(meetings, states, around.monthly_gb * _BYTES_PER_GB / (2 * MONTH_DAYS))
    slower = max(1.0, crowding, stretch)
    moved = meetings / slower + states
    return Traffic(
        meetings_per_day=sum(started) / slower,
        payload_per_day={weight.stream: num_bytes / slower for weight, num_bytes in zip(weights, payload, strict=True)},
        framing_per_day=framing / slower,
        states_per_day=states,
        wished_per_day=meetings + states,
        stretch=stretch,
        crowding=crowding,
        bytes_per_day=moved,
        bytes_per_month=MONTH_DAYS * moved,
    )


def _train_s(around: Circumstances) -> float:
    """Seconds of training a day."""
    return 3600.0 * around.hours_per_day * around.training_share


def _line_s(num_bytes: float, around: Circumstances) -> float:
    """How long these bytes take: what comes in is what somebody sends whose line is like this one."""
    known = [rate for rate in (around.up_mbit_per_s, around.down_mbit_per_s) if rate]
    return num_bytes / (min(known) * _BYTES_PER_MBIT) if known else 0.0


def _stretch(meetings: float, states: float, limit: float) -> float:
    """``limit``: bytes a day and direction; 0 is none."""
    if not limit or meetings + states <= limit:
        return 1.0
    return meetings / (limit - states) if limit > states else inf
