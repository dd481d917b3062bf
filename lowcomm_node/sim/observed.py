"""Meetings as the cores at both ends lived through them: of real nodes, from their flight recordings, and of virtual ones.

Both are looked at by the same code, so that a simulation can be compared with a real swarm meeting by meeting.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from lowcomm_node.core.commands import Command, EncodeAnswer, EncodeOffer, OpenLink, ReportMeeting, Role
from lowcomm_node.core.events import (
    AnswerEncoded,
    CloseEncoded,
    CorrectionApplied,
    Event,
    MessageReceived,
    OfferEncoded,
)
from lowcomm_node.core.messages import Answer, Close, Offer, StreamPlan, Verdict
from lowcomm_node.sim.requests import meeting_kind
from lowcomm_node.telemetry.flight.values import payload_length
from lowcomm_node.units import MeetingId

__all__ = ["MeetingSeen", "Observation", "Stage"]


class Stage(StrEnum):
    """What a completed meeting consists of, in this order; the values are the words of tables."""

    OFFER_ENCODED = "offer encoded"
    IN_VAIN = "asked in vain"
    """Partners that were busy or could not be reached."""
    OFFER_TRAVELS = "offer travels"
    ANSWER_ENCODED = "answer encoded"
    ANSWER_TRAVELS = "answer travels"
    CLOSE_ENCODED = "close encoded"
    CLOSE_TRAVELS = "close travels"
    APPLIED = "correction applied"
    VERDICT_TRAVELS = "verdict travels"
    SETTLED = "correction settled"


_INDEX = {stage: index for index, stage in enumerate(Stage)}


@dataclass(frozen=True, slots=True, kw_only=True)
class MeetingSeen:
    """One completed meeting of which both ends are known."""

    kind: str
    """As ``meeting_kind`` says it."""
    payload_bytes: tuple[int, ...]
    """Per stream; offer, answer and close together, each counted once."""
    began_s: float
    stages: tuple[float, ...]
    """Seconds, in the order of ``Stage``; their sum is the duration the initiator reported."""

    @property
    def duration_s(self) -> float:
        return sum(self.stages)

    def seconds_of(self, stage: Stage) -> float:
        return self.stages[_INDEX[stage]]


@dataclass(slots=True)
class _Track:
    """What is known of a meeting so far; each end adds its part."""

    plans: tuple[StreamPlan, ...] = ()
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    began_s: float | None = None
    ends: dict[Stage, float] = field(default_factory=dict)
    """When each stage ended."""
    is_completed: bool = False


class Observation:
    """Feed it what each core of a swarm is told and says, in any order of nodes; all times on one clock."""

    def __init__(self) -> None:
        self._tracks: defaultdict[MeetingId, _Track] = defaultdict(_Track)

    def saw(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        """One event of one node, and what its core made of it; which one, the meeting tells."""
        match event:
            case OfferEncoded():
                track = self._sized(event.meeting_id, "offer", event.parts)
                track.plans = event.plans
                track.ends[Stage.OFFER_ENCODED] = now
            case AnswerEncoded():
                self._sized(event.meeting_id, "answer", event.parts).ends[Stage.ANSWER_ENCODED] = now
            case CloseEncoded():
                self._sized(event.meeting_id, "close", event.parts).ends[Stage.CLOSE_ENCODED] = now
            case CorrectionApplied():
                self._applied(event.meeting_id, now, commands)
            case MessageReceived(message=Answer() | Close() | Verdict() as message):
                ends = {Answer: Stage.ANSWER_TRAVELS, Close: Stage.CLOSE_TRAVELS, Verdict: Stage.VERDICT_TRAVELS}
                self._tracks[message.meeting_id].ends[ends[type(message)]] = now
            case _:
                pass
        for command in commands:
            match command:
                case EncodeOffer():
                    self._tracks[command.meeting_id].began_s = now
                case OpenLink(message=Offer()):
                    self._tracks[command.meeting_id].ends[Stage.IN_VAIN] = now
                case EncodeAnswer():
                    self._tracks[command.offer.meeting_id].ends[Stage.OFFER_TRAVELS] = now
                case _:
                    pass

    def meetings(self) -> list[MeetingSeen]:
        """Completed ones that were seen from both ends, in the order in which they began."""
        seen = [_seen(track) for track in self._tracks.values() if track.is_completed and len(track.ends) == len(Stage)]
        return sorted(seen, key=lambda meeting: meeting.began_s)

    def _sized(self, meeting_id: MeetingId, message: str, parts: Iterable[bytes]) -> _Track:
        track = self._tracks[meeting_id]
        track.sizes[message] = tuple(payload_length(part) for part in parts)
        return track

    def _applied(self, meeting_id: MeetingId, now: float, commands: Sequence[Command]) -> None:
        track = self._tracks[meeting_id]
        own = [c for c in commands if isinstance(c, ReportMeeting) and c.role is Role.INITIATOR]
        if not own:
            track.ends[Stage.APPLIED] = now
        else:
            track.ends[Stage.SETTLED] = now
            track.is_completed = own[0].outcome == "completed"


def _seen(track: _Track) -> MeetingSeen:
    began_s = track.began_s if track.began_s is not None else track.ends[Stage.OFFER_ENCODED]
    times = [began_s, *(track.ends[stage] for stage in Stage)]
    return MeetingSeen(
        kind=meeting_kind(track.plans),
        payload_bytes=tuple(map(sum, zip(*track.sizes.values(), strict=True))),
        began_s=began_s,
        stages=tuple(later - earlier for earlier, later in itertools.pairwise(times)),
    )
