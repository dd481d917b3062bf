"""What was measured of links, in figures that can be compared: rates, shares of the line, and how late control is beside a payload."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lowcomm_node.bench.link_load import EndResult
from lowcomm_node.errors import ConfigError

__all__ = ["CapFigures", "MeetingFigures", "cap_figures", "meeting_figures"]

_MIB = 1 << 20
_BITS_PER_MBIT = 1e6
_STEADY_FROM, _STEADY_TO = 0.15, 0.95
"""Shares of the bytes between which a rate is taken: the windows are full then, and not yet empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeetingFigures:
    """Meetings over one carrier in one place."""

    place: str
    """loopback, or the line's words."""
    carrier: str
    payload_bytes: int
    """Of one meeting: offer, answer and close together."""
    first_s: float
    """Median of the meetings that had to connect."""
    later_s: float
    """Median of those over a connection that was there."""
    first_efficiency: float | None
    """Payload bits over time and the line's rate; null without a line."""
    later_efficiency: float | None
    of_tcp: float | None
    """``later_s`` of bare TCP in the same run over this one; null without it."""
    meetings: int
    failed: int

    @property
    def later_mib_per_s(self) -> float:
        """Payload, over a connection that was there."""
        return self.payload_bytes / self.later_s / _MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class CapFigures:
    """One payload against a limit of its rate."""

    place: str
    carrier: str
    direction: str
    """up: the sender is capped; down: the receiver; line: nobody, the line is the limit."""
    cap_mbit: float
    rate_mbit: float
    """What the receiver's kernel took in."""
    most_in_a_second_mbit: float
    """The busiest second, at the start as a rule, when windows fill that nobody has read from."""
    probes: int
    """Questions of a few bytes asked beside the payload over the same connection."""
    probe_median_s: float
    probe_max_s: float
    idle_probe_s: float
    """The same question without a payload."""

    @property
    def of_cap(self) -> float:
        """Measured rate over the cap."""
        return self.rate_mbit / self.cap_mbit


def meeting_figures(
    place: str,
    carrier: str,
    payload_bytes: int,
    results: Sequence[EndResult],
    *,
    rate_mbit: float | None,
    tcp_later_s: float | None,
) -> MeetingFigures:
    """``results``: of the dialling end, one for each connection, each of two meetings or more. ``rate_mbit``: the line's."""
    whole = [result.meetings_s for result in results if len(result.meetings_s) > 1]
    first_s = statistics.median(seconds[0] for seconds in whole)
    later_s = statistics.median(second for seconds in whole for second in seconds[1:])
    line_s = payload_bytes * 8 / (rate_mbit * _BITS_PER_MBIT) if rate_mbit else None
    return MeetingFigures(
        place=place,
        carrier=carrier,
        payload_bytes=payload_bytes,
        first_s=first_s,
        later_s=later_s,
        first_efficiency=line_s / first_s if line_s else None,
        later_efficiency=line_s / later_s if line_s else None,
        of_tcp=tcp_later_s / later_s if tcp_later_s else None,
        meetings=sum(len(result.meetings_s) for result in results),
        failed=sum(len(result.failures) for result in results),
    )


def cap_figures(
    place: str, carrier: str, direction: str, cap_mbit: float, received: Sequence[tuple[float, int]], *,
    probes_s: Sequence[float], idle_probe_s: float,
) -> CapFigures:  # fmt: skip
    """``received``: seconds and bytes at the kernel of the end that takes the payload in. Raises ConfigError where they tell no rate."""
    return CapFigures(
        place=place,
        carrier=carrier,
        direction=direction,
        cap_mbit=cap_mbit,
        rate_mbit=_steady_rate(received) * 8 / _BITS_PER_MBIT,
        most_in_a_second_mbit=_most_in_a_second(received) * 8 / _BITS_PER_MBIT,
        probes=len(probes_s),
        probe_median_s=statistics.median(probes_s),
        probe_max_s=max(probes_s),
        idle_probe_s=idle_probe_s,
    )


def _steady_rate(received: Sequence[tuple[float, int]]) -> float:
    """Bytes per second between two shares of all bytes."""
    total = max(count for _, count in received)  # the last sample may come after the connection's end
    (from_s, before), (until_s, after) = (
        next(sample for sample in received if sample[1] >= share * total) for share in (_STEADY_FROM, _STEADY_TO)
    )
    if until_s == from_s:
        raise ConfigError(
            "all of it lay in buffers at once, so there is no rate: take a larger payload or a lower limit"
        )
    return (after - before) / (until_s - from_s)


def _most_in_a_second(received: Sequence[tuple[float, int]]) -> float:
    most = first = 0
    for at_s, count in received:
        while at_s - received[first][0] > 1.0:
            first += 1
        most = max(most, count - received[first][1])
    return float(most)
