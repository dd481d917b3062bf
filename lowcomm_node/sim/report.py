"""What a simulation found, as plain data. It holds nothing of the machine it ran on: a scenario gives one report, to the bit."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from lowcomm_node import __version__
from lowcomm_node.settings.canonical import run_id
from lowcomm_node.sim.machine import machine_json
from lowcomm_node.sim.scenario import Scenario
from lowcomm_node.sim.tally import AttackFigures, MeetingFigures, TrafficFigures

__all__ = ["DirectoryFigures", "JoinFigures", "Point", "Report", "report_json", "strict"]

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One look at the swarm."""

    at_s: float
    nodes: int
    """Alive, with or without state."""
    spread: float
    """Root mean square distance of honest nodes from their mean, per number."""
    progress_spread: float
    """Standard deviation of progress, in steps."""
    consensus_error: float
    """As in AttackFigures, at this time."""
    completed_per_node_minute: float
    """Since the last look."""
    extra: dict[str, float]
    """loss, loss_averaged and progress_steps of level training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryFigures:
    """What the directory costs a node. One operation takes the DHT O(log N) messages."""

    gets_per_node_minute: float
    puts_per_node_minute: float
    largest_bucket: int
    """Records in the fullest bucket that was read."""
    depth: int
    """Of the deepest bucket in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinFigures:
    """Newcomers, and how long it took them from their start, in seconds; NaN when none got so far."""

    joined: int
    left: int
    killed: int
    ready: int
    """Newcomers that got a state."""
    met: int
    """Newcomers that completed a meeting."""
    informed: int
    """Newcomers that came within twice the spread of the mean."""
    ready_s: float
    """Median until the state is there."""
    met_s: float
    """Median until the first completed meeting."""
    met_p90_s: float
    informed_s: float
    """Median until within twice the spread; looked at when ready and after each meeting."""
    informed_p90_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All figures of one run."""

    scenario: Scenario
    spread: float
    """Mean over the second half of the run."""
    expected_spread: float
    """By theory, from the measured rate of meetings (``vectors``); NaN where machines differ, or there is an attack, churn or training."""
    own_steps: float
    """Per node of the whole run."""
    meetings: MeetingFigures
    traffic: TrafficFigures
    directory: DirectoryFigures
    joins: JoinFigures
    attack: AttackFigures | None
    heals: dict[str, int]
    """Honest nodes that have found their state unfit and downloaded another one, by reason; "gave_up" ended for good."""
    refused_frames: dict[str, int]
    """What the readers found wrong with frames."""
    timeline: tuple[Point, ...]


def report_json(report: Report) -> dict[str, Any]:
    """As plain JSON values; what is not finite becomes null."""
    plain: dict[str, Any] = asdict(report)
    scenario = plain["scenario"]
    # The manifest is named, and of the settings only what the simulator looks at is told.
    scenario["manifest"] = run_id(report.scenario.manifest)
    if report.scenario.machine is not None:
        scenario["machine"] = machine_json(report.scenario.machine)
    scenario["settings"] = {name: scenario["settings"][name] for name in ("network", "meeting")}
    return {"format": _FORMAT, "version": __version__, "title": report.scenario.describe(), **strict(plain)}


def strict(value: Any) -> Any:  # noqa: ANN401 - JSON is anything
    """The same as strict JSON has it: null for what is not finite, lists for tuples."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: strict(part) for key, part in value.items()}
        case list() | tuple():
            return [strict(part) for part in value]
    return value
