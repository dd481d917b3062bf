"""A real swarm as the flight recordings of its nodes tell of it: its meetings, and what the machine it ran on is like.

Times of different nodes are compared, so all of them have to have run on one computer.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from lowcomm_node.core.events import (
    AnswerEncoded,
    CloseEncoded,
    CorrectionApplied,
    EncodingRefused,
    Event,
    OfferEncoded,
    StepsTaken,
    TrainerLost,
)
from lowcomm_node.errors import StoreError
from lowcomm_node.sim.machine import Machine
from lowcomm_node.sim.observed import MeetingSeen, Observation, Stage
from lowcomm_node.sim.requests import Request, RequestKey, Requests
from lowcomm_node.telemetry.flight.dump import read_dump
from lowcomm_node.telemetry.flight.recorder import Entry
from lowcomm_node.units import MeetingId

__all__ = ["RecordedSwarm", "read_recorded"]

_SERVED = (OfferEncoded, AnswerEncoded, CloseEncoded, CorrectionApplied, EncodingRefused)
_ANSWERS: Mapping[Request, type[Event]] = {
    Request.OFFER: OfferEncoded,
    Request.ANSWER: AnswerEncoded,
    Request.CLOSE: CloseEncoded,
    Request.APPLY: CorrectionApplied,
    Request.SETTLE: CorrectionApplied,
}
_LATENCY = (Stage.ANSWER_TRAVELS, Stage.CLOSE_TRAVELS, Stage.VERDICT_TRAVELS)
"""Not the offer: its connection has to be made first, which the model counts in round trips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSwarm:
    """What is compared with."""

    nodes: int
    seconds: float
    """From the first to the last of its meetings."""
    meetings: tuple[MeetingSeen, ...]
    machine: Machine


def read_recorded(folder: Path) -> RecordedSwarm:
    """Read the dumps that ``swarm --recordings`` has left. Raises StoreError, OSError."""
    dumps = {path.stem: read_dump(path) for path in sorted(folder.glob("n*.json"))}
    lives = {name: dump.recording.entries for name, dump in dumps.items() if dump.recording and dump.recording.entries}
    observation, requests = Observation(), Requests()
    for entries in lives.values():
        for entry in entries:
            observation.saw(entry.now, entry.event, entry.commands)
            for command in entry.commands:
                requests.saw(command)
    meetings = observation.meetings()
    if len(lives) < 2 or not meetings:
        raise StoreError(
            f"{folder}: no recordings of two or more nodes that have met; make some with "
            f"'lowcomm-node swarm --nodes 8 --recordings {folder}'"
        )
    works_s: defaultdict[RequestKey, list[float]] = defaultdict(list)
    steps_s: list[float] = []
    for name, entries in lives.items():
        if entries[0].number != 1:
            raise StoreError(f"{folder / name}.json: the beginning is not in it; let the swarm run for fewer minutes")
        for key, work_s in _works(entries, requests):
            works_s[key].append(work_s)
        steps_s += _steps(entries)
    if not steps_s or {request for request, _ in works_s} != set(Request):
        raise StoreError(
            f"{folder}: these nodes have not trained and met long enough to tell how fast their machine is, "
            "or are of a version that did not write down how long a trainer works for a request"
        )
    machine = Machine(
        steps_s=tuple(steps_s),
        works_s={key: tuple(each) for key, each in works_s.items()},
        latency_s=fmean(meeting.seconds_of(stage) for meeting in meetings for stage in _LATENCY),
    )
    seconds = meetings[-1].began_s + meetings[-1].duration_s - meetings[0].began_s
    return RecordedSwarm(nodes=len(lives), seconds=seconds, meetings=tuple(meetings), machine=machine)


def _works(entries: Sequence[Entry], requests: Requests) -> Iterable[tuple[RequestKey, float]]:
    """What was asked of one node's trainer, and its own work for it. Of requests that were refused nothing is told."""
    asked: dict[tuple[MeetingId, type[Event]], RequestKey] = {}
    for entry in entries:
        event = entry.event
        if isinstance(event, _SERVED) and event.work_s is not None:
            key = asked.pop((event.meeting_id, type(event)), None)
            if key is not None:
                yield key, event.work_s
        for command in entry.commands:
            named = requests.named(command)
            if named is not None:
                meeting_id, key = named
                asked[meeting_id, _ANSWERS[key[0]]] = key


def _steps(entries: Sequence[Entry]) -> Iterable[float]:
    """Seconds of one node's own steps. Those that were reported together count as equally long."""
    last: tuple[float, int] | None = None
    worked_s = 0.0
    for entry in entries:
        match entry.event:
            case StepsTaken(steps=steps):
                if last is not None and steps > last[1]:
                    num_steps = steps - last[1]
                    yield from [max(0.0, entry.now - last[0] - worked_s) / num_steps] * num_steps
                last, worked_s = (entry.now, steps), 0.0
            case TrainerLost():
                last = None
            case event if isinstance(event, _SERVED):
                worked_s += event.work_s or 0.0
            case _:
                pass
