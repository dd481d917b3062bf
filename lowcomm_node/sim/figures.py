"""Figures of a report that are more than counts: newcomers, attacks, and what theory expects of the spread."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from lowcomm_node.sim.report import JoinFigures, Point
from lowcomm_node.sim.scenario import Level, Scenario, Speeds
from lowcomm_node.sim.tally import AttackFigures, Tally, quantile

__all__ = ["Life", "attack_figures", "expected_spread", "join_figures"]

Life = tuple[float, float, float]
"""When a newcomer had a state, its first completed meeting, and came near the mean: seconds after its start; NaN is never."""


def expected_spread(scenario: Scenario, completed: int, own_steps: int) -> float:
    """By theory (``vectors``), from completed meetings and own steps of all nodes; NaN where it says nothing."""
    is_plain = scenario.level is Level.CONSENSUS and scenario.speeds is Speeds.EQUAL
    is_disturbed = scenario.churn_per_minute or scenario.trace or scenario.hostile_ratio or scenario.partitions
    if not is_plain or is_disturbed or not completed or not own_steps:
        return math.nan
    gain = scenario.manifest.outer.mixing_gain
    return scenario.noise * (1 - 1 / scenario.nodes) / math.sqrt(completed / own_steps * gain * (2 - gain))


def join_figures(changes: Mapping[str, int], lives: Sequence[Life]) -> JoinFigures:
    """Of all newcomers; ``changes`` counts those who joined, left and were killed."""
    ready, met, informed = ([life[index] for life in lives if not math.isnan(life[index])] for index in range(3))
    return JoinFigures(
        joined=changes["joined"],
        left=changes["left"],
        killed=changes["killed"],
        ready=len(ready),
        met=len(met),
        informed=len(informed),
        ready_s=quantile(ready, 0.5),
        met_s=quantile(met, 0.5),
        met_p90_s=quantile(met, 0.9),
        informed_s=quantile(informed, 0.5),
        informed_p90_s=quantile(informed, 0.9),
    )


def attack_figures(
    tally: Tally, last: Point, avoided: Iterable[tuple[bool, bool]], *, num_hostile: int
) -> AttackFigures:
    """``avoided``: of each peer that an honest node knows, is it hostile, and is it avoided?"""
    counts = Counter(avoided)
    hostile, honest = (counts[kind, True] / max(1, counts[kind, True] + counts[kind, False]) for kind in (True, False))
    return AttackFigures(
        hostile=num_hostile,
        consensus_error=last.consensus_error,
        consensus_error_over_spread=last.consensus_error / last.spread if last.spread else math.nan,
        clipped_of_hostile=tally.share("clipped", "completed", is_with_hostile=True),
        refused_of_hostile=tally.share("refused", "all", is_with_hostile=True),
        clipped_of_honest=tally.share("clipped", "completed", is_with_hostile=False),
        refused_of_honest=tally.share("refused", "all", is_with_hostile=False),
        avoided_honest=honest,
        avoided_hostile=hostile,
        states_taken_of_hostile=tally.states[True, "taken"],
        states_refused_of_hostile=tally.states[True, "refused"],
        states_taken_of_honest=tally.states[False, "taken"],
        states_refused_of_honest=tally.states[False, "refused"],
    )
