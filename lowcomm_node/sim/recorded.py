"""A real swarm as the flight recordings of its nodes tell of it: its meetings, and what the machine it ran on is like.

Times of different nodes are compared, so all of them have to have run on one computer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from lowcomm_node.core.events import (
    AnswerEncoded,
    CloseEncoded,
    CorrectionApplied,
    EncodingRefused,
    OfferEncoded,
    StepsTaken,
)
from lowcomm_node.errors import StoreError
from lowcomm_node.sim.observed import MeetingSeen, Observation, Stage
from lowcomm_node.telemetry.flight.dump import Dump, read_dump
from lowcomm_node.telemetry.flight.recorder import Entry

__all__ = ["Machine", "RecordedSwarm", "read_recorded"]

_SERVED = (OfferEncoded, AnswerEncoded, CloseEncoded, CorrectionApplied, EncodingRefused)
_LATENCY = (Stage.ANSWER_TRAVELS, Stage.CLOSE_TRAVELS, Stage.VERDICT_TRAVELS)
"""Not the offer: its connection has to be made first, which the model counts in round trips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the simulator has to be told of a computer; means over all nodes that shared it."""

    step_s: float
    """An own step, where no meeting asked anything of the trainer."""
    serve_s: float
    """A trainer's own work for one request of a meeting, besides the wait for the end of its step."""
    latency_s: float
    """A message, from the core that sends it to the core that gets it."""


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
    observation = Observation()
    for dump in dumps.values():
        for entry in _entries(dump):
            observation.saw(entry.now, entry.event, entry.commands)
    meetings = observation.meetings()
    lives = [_life(folder / name, dump) for name, dump in dumps.items() if _entries(dump)]
    if len(lives) < 2 or not meetings:
        raise StoreError(
            f"{folder}: no recordings of two or more nodes that have met; make some with "
            f"'lowcomm-node swarm --nodes 8 --recordings {folder}'"
        )
    machine = Machine(
        step_s=fmean(step_s for step_s, _ in lives),
        serve_s=fmean(serve_s for _, serve_s in lives),
        latency_s=fmean(meeting.seconds_of(stage) for meeting in meetings for stage in _LATENCY),
    )
    seconds = meetings[-1].began_s + meetings[-1].duration_s - meetings[0].began_s
    return RecordedSwarm(nodes=len(lives), seconds=seconds, meetings=tuple(meetings), machine=machine)


def _entries(dump: Dump) -> Sequence[Entry]:
    return dump.recording.entries if dump.recording is not None else ()


def _life(path: Path, dump: Dump) -> tuple[float, float]:
    """Seconds of a quiet own step, and of a request's work."""
    entries = _entries(dump)
    if entries[0].number != 1:
        raise StoreError(f"{path}.json: the beginning is not in it; let the swarm run for fewer minutes")
    last: tuple[float, int] | None = None
    num_served = quiet_steps = 0
    quiet_s = 0.0
    is_quiet = False
    for entry in entries:
        match entry.event:
            case StepsTaken(steps=steps):
                if last is not None and is_quiet:
                    quiet_s, quiet_steps = quiet_s + entry.now - last[0], quiet_steps + steps - last[1]
                last, is_quiet = (entry.now, steps), True
            case event if isinstance(event, _SERVED):
                num_served, is_quiet = num_served + 1, False
            case _:
                pass
    status = dump.header.get("status")
    training = status.get("training") if isinstance(status, dict) else None
    exchange_s = training.get("exchange_seconds") if isinstance(training, dict) else None
    if not isinstance(exchange_s, int | float) or not num_served or quiet_steps <= 0:
        raise StoreError(f"{path}.json: this node has not trained and met long enough to tell how fast its machine is")
    return quiet_s / quiet_steps, exchange_s / num_served
