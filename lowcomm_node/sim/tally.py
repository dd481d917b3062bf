"""What is counted while a world runs, and the figures that come of it."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lowcomm_node.core.commands import ReportMeeting, Role
from lowcomm_node.core.messages import Answer, Busy, Close, Message, Offer, StreamPlan
from lowcomm_node.errors import RefusalReason
from lowcomm_node.units import Codec, MeetingId

__all__ = ["AttackFigures", "MeetingFigures", "Tally", "TrafficFigures", "quantile"]

_REFUSALS = frozenset(
    reason.value for reason in (RefusalReason.NONFINITE, RefusalReason.MALFORMED, RefusalReason.OVERSIZED)
)
"""Reasons that say that a partner's numbers are not believed."""
_MAX_OPEN = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class MeetingFigures:
    """Meetings as their initiators saw them; each counts once."""

    started: int
    completed: int
    failed: dict[str, int]
    """By reason, most frequent first."""
    half: dict[str, int]
    """By reason: one end applied, and the other cannot be known to have done so."""
    half_as_seen_by_answerers: dict[str, int]
    completed_ratio: float
    per_node_minute: float
    """Completed."""
    duration_s: float
    """Mean over completed ones, from the wish to the settlement."""
    duration_p95_s: float
    busy_ratio: float
    """Offers that were turned away because the partner was in another meeting."""
    engaged_ratio: float
    """Share of a node's time in which it is in a meeting, its own or another's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficFigures:
    """What meetings send. Frames and payloads; the transport's own headers are not counted."""

    bytes_per_node_minute: float
    bytes_per_completed: float
    """All bytes over all completed meetings: what was sent in vain is in it."""
    by_message: dict[str, int]
    payload_per_completed: dict[str, float]
    """Payload of completed meetings by "stream/codec", mean over those that had the stream; both directions together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackFigures:
    """How honest nodes fared among hostile ones. Errors in units of the spread at the same time."""

    hostile: int
    consensus_error: float
    """Distance that hostile partners have moved the mean of the honest nodes by, rms per number."""
    consensus_error_over_spread: float
    clipped_of_hostile: float
    """Share of completed meetings with hostile partners that were scaled down."""
    refused_of_hostile: float
    """Share of all meetings with hostile partners that ended with a refusal of their numbers."""
    clipped_of_honest: float
    """False clips: completed meetings between honest nodes that were scaled down."""
    refused_of_honest: float
    """False refusals: meetings between honest nodes that ended with one."""
    avoided_honest: float
    """Share of honest members in the honest nodes' samples that are avoided at the end, falsely."""
    avoided_hostile: float
    """Share of hostile ones that are avoided at the end."""
    states_taken_of_hostile: int
    """States that honest nodes were given by attackers and have taken for good, from the attack on."""
    states_refused_of_hostile: int
    """Those, and attackers, that were refused by their fingerprints."""
    states_taken_of_honest: int
    states_refused_of_honest: int
    """Falsely, or because a state had gone astray. Both before the attack too."""


class Tally:
    """Counters; nothing in it grows with the length of a run but one number per completed meeting."""

    def __init__(self, codec_of: Callable[[StreamPlan], Codec]) -> None:
        """``codec_of``: under which codec the bytes of a planned stream are counted."""
        self._codec_of = codec_of
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.answerers_half: Counter[str] = Counter()
        self.states: Counter[tuple[bool, str]] = Counter()
        """What honest nodes made of a donor: (did it attack?, "taken" or "refused")."""
        self.bytes_by_message: Counter[str] = Counter()
        self.offers = 0
        self.busy = 0
        self.engaged_s = 0.0
        self.durations = array("d")
        self.pairs: Counter[tuple[bool, str]] = Counter()
        """(with a hostile partner, what happened), of honest nodes in both roles."""
        self._payloads: dict[MeetingId, tuple[tuple[StreamPlan, ...], list[int]]] = {}
        self._completed_payloads: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])

    def sent(self, message: Message, num_bytes: int, part_bytes: Sequence[int]) -> None:
        """A message goes out, whatever becomes of it; ``part_bytes`` are what its payload parts weigh."""
        self.bytes_by_message[type(message).__name__.lower()] += num_bytes
        match message:
            case Offer():
                self.offers += 1
                known = self._payloads.get(message.meeting_id)
                # An offer that goes to somebody else is paid for again.
                earlier = known[1] if known is not None else [0] * len(part_bytes)
                total = [old + new for old, new in zip(earlier, part_bytes, strict=True)]
                self._payloads[message.meeting_id] = (message.plans, total)
                if len(self._payloads) > _MAX_OPEN:  # nobody reports the meetings of a machine that is gone
                    del self._payloads[next(iter(self._payloads))]
            case Answer() | Close():
                known = self._payloads.get(message.meeting_id)
                if known is not None:
                    for index, size in enumerate(part_bytes[: len(known[1])]):
                        known[1][index] += size
            case Busy():
                self.busy += 1

    def reported(self, report: ReportMeeting) -> None:
        """A meeting is over for one end."""
        self.engaged_s += report.duration_s
        if report.role is Role.ANSWERER:
            if report.outcome == "half":
                self.answerers_half[report.reason] += 1
            return
        payload = self._payloads.pop(report.meeting_id, None)
        self.outcomes[report.outcome, report.reason] += 1
        if report.outcome == "completed":
            self.durations.append(report.duration_s)
            if payload is not None:
                for plan, size in zip(*payload, strict=True):
                    entry = self._completed_payloads[f"{plan.stream}/{self._codec_of(plan)}"]
                    entry[0] += 1
                    entry[1] += size

    def judged(self, report: ReportMeeting, *, is_with_hostile: bool) -> None:
        """The same, as an honest end with a known partner saw it."""
        self.pairs[is_with_hostile, "all"] += 1
        if report.outcome == "completed":
            self.pairs[is_with_hostile, "completed"] += 1
            self.pairs[is_with_hostile, "clipped"] += any(scale < 1 for _, scale in report.scales)
        elif report.reason in _REFUSALS:
            self.pairs[is_with_hostile, "refused"] += 1

    @property
    def completed(self) -> int:
        """Completed meetings."""
        return len(self.durations)

    def meetings(self, node_minutes: float) -> MeetingFigures:
        """Of the whole run."""
        started = self.outcomes.total()
        return MeetingFigures(
            started=started,
            completed=self.completed,
            failed=_by_reason(self.outcomes, "failed"),
            half=_by_reason(self.outcomes, "half"),
            half_as_seen_by_answerers=dict(self.answerers_half.most_common()),
            completed_ratio=_ratio(self.completed, started),
            per_node_minute=_ratio(self.completed, node_minutes),
            duration_s=_ratio(sum(self.durations), self.completed),
            duration_p95_s=quantile(self.durations, 0.95),
            busy_ratio=_ratio(self.busy, self.offers),
            engaged_ratio=_ratio(self.engaged_s, 60 * node_minutes),
        )

    def traffic(self, node_minutes: float) -> TrafficFigures:
        """Of the whole run."""
        total = self.bytes_by_message.total()
        return TrafficFigures(
            bytes_per_node_minute=_ratio(total, node_minutes),
            bytes_per_completed=_ratio(total, self.completed),
            by_message=dict(self.bytes_by_message.most_common()),
            payload_per_completed={
                key: size / count for key, (count, size) in sorted(self._completed_payloads.items())
            },
        )

    def share(self, what: str, of: str, *, is_with_hostile: bool) -> float:
        """Of the meetings of honest nodes with one kind of partner."""
        return _ratio(self.pairs[is_with_hostile, what], self.pairs[is_with_hostile, of])


def quantile(values: Sequence[float], q: float) -> float:
    """The value that a share ``q`` does not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")


def _by_reason(outcomes: Counter[tuple[str, str]], outcome: str) -> dict[str, int]:
    return {reason: count for (kind, reason), count in outcomes.most_common() if kind == outcome}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
