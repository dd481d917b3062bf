"""A simulation beside a real swarm: the bytes of each kind of meeting, and how long meetings and their stages take."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, median
from typing import Any

from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.sim.machine import Machine, machine_json
from lowcomm_node.sim.observed import MeetingSeen, Observation, Stage
from lowcomm_node.sim.perform import simulate
from lowcomm_node.sim.recorded import RecordedSwarm
from lowcomm_node.sim.report import Report, strict
from lowcomm_node.sim.scenario import Level, Scenario, Speeds

__all__ = ["MIN_JUDGED", "Comparison", "KindFigures", "Side", "compare", "comparison_json", "scenario_like"]

MIN_JUDGED = 10
"""Real meetings of a kind from which on it is said how well its duration is met; the mean of fewer is chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Meetings of one of the two. Durations in seconds, NaN of none."""

    meetings: int
    payload_bytes: tuple[tuple[int, ...], ...]
    """All that occurred: per stream; offer, answer and close together."""
    mean_s: float
    median_s: float
    stages_s: Mapping[str, float]
    """Means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KindFigures:
    """One kind of meeting on both sides."""

    kind: str
    """As MeetingSeen has it."""
    real: Side
    simulated: Side

    @property
    def is_on_both_sides(self) -> bool:
        return bool(self.real.meetings and self.simulated.meetings)

    @property
    def has_equal_bytes(self) -> bool:
        """The same sizes occur on both sides."""
        return self.real.payload_bytes == self.simulated.payload_bytes

    @property
    def is_judged(self) -> bool:
        """There are enough meetings to compare durations."""
        return self.real.meetings >= MIN_JUDGED and self.simulated.meetings > 0

    @property
    def mean_ratio(self) -> float:
        """Mean duration, simulated over real."""
        return self.simulated.mean_s / self.real.mean_s

    @property
    def median_ratio(self) -> float:
        """As ``mean_ratio``."""
        return self.simulated.median_s / self.real.median_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What came out."""

    machine: Machine
    """As measured in the real swarm, and given to the simulator."""
    total: KindFigures
    """Of all kinds together."""
    kinds: tuple[KindFigures, ...]
    """The most frequent first."""

    @property
    def has_equal_bytes(self) -> bool:
        """Of all kinds that both sides have seen; there is at least one."""
        common = [kind for kind in self.kinds if kind.is_on_both_sides]
        return bool(common) and all(kind.has_equal_bytes for kind in common)


def scenario_like(recorded: RecordedSwarm, manifest: Manifest, scenario: Scenario) -> Scenario:
    """``scenario`` with as many nodes, the same run, and the same machine; no minutes (0) become as many as were recorded."""
    return replace(
        scenario,
        level=Level.TRAINING,
        nodes=recorded.nodes,
        minutes=scenario.minutes or recorded.seconds / 60,
        manifest=manifest,
        network="loopback",
        speeds=Speeds.EQUAL,
        latency_s=recorded.machine.latency_s,
        serve_s=recorded.machine.work_s,
        step_s=recorded.machine.step_s,
        machine=recorded.machine,
    )


def compare(recorded: RecordedSwarm, scenario: Scenario) -> tuple[Report, Comparison]:
    """Simulate, and put the meetings of both side by side. Raises ConfigError, DataError."""
    observation = Observation()
    report = simulate(scenario, on_decision=observation.saw)
    sides = (recorded.meetings, tuple(observation.meetings()))
    by_kind: defaultdict[str, tuple[list[MeetingSeen], list[MeetingSeen]]] = defaultdict(lambda: ([], []))
    for index, meetings in enumerate(sides):
        for meeting in meetings:
            by_kind[meeting.kind][index].append(meeting)
    kinds = [_figures(kind, both) for kind, both in by_kind.items()]
    kinds.sort(key=lambda kind: (-kind.real.meetings, kind.kind))
    return report, Comparison(machine=recorded.machine, total=_figures("all", sides), kinds=tuple(kinds))


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """As plain JSON values; what is not known becomes null."""
    total, judged = comparison.total, [kind for kind in comparison.kinds if kind.is_judged]
    return {
        "machine": machine_json(comparison.machine),
        "total": strict(asdict(total)),
        "kinds": [strict(asdict(kind)) for kind in comparison.kinds],
        "has_equal_bytes": comparison.has_equal_bytes,
        "duration_ratios": strict({"mean": total.mean_ratio, "median": total.median_ratio}),
        "duration_ratios_by_kind": strict({kind.kind: kind.mean_ratio for kind in judged}),
    }


def _figures(kind: str, both: Iterable[Sequence[MeetingSeen]]) -> KindFigures:
    real, simulated = map(_side, both)
    return KindFigures(kind=kind, real=real, simulated=simulated)


def _side(meetings: Sequence[MeetingSeen]) -> Side:
    durations = [meeting.duration_s for meeting in meetings] or [float("nan")]
    return Side(
        meetings=len(meetings),
        payload_bytes=tuple(sorted({meeting.payload_bytes for meeting in meetings})),
        mean_s=fmean(durations),
        median_s=median(durations),
        stages_s={stage.value: fmean(meeting.seconds_of(stage) for meeting in meetings) for stage in Stage if meetings},
    )
