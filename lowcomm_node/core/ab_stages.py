"""AB-training (arXiv 2405.01067): what is trained at a point of the run, at which learning rate, and what a factor counts in a join.

    warm-up     everything is trained whole
    factors     the matrices are split; some nodes train the factors A, the others the factors B
    rebound     the factors are joined, and everything is trained whole

Factors and rebound are an epoch, and epochs fill the run after the warm-up. Everything here is a function of progress, so that
nodes that know their progress agree about the rest.

Differs from the authors' code: there the first stretch of factors is shorter than the others, for joins lie at multiples of their
distance; and the ramp is towards the learning rate at the change of stage, here towards the schedule's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from lowcomm_node.core.progress import is_cooldown
from lowcomm_node.settings.ab_training import WITH_STALE, AbTrainingConfig
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.units import Factor

__all__ = [
    "Stage",
    "StagePoint",
    "cutoff_of",
    "join_weights",
    "ramp_at",
    "ramp_of",
    "stage_at",
    "stage_of",
    "trained_factor",
]


class Stage(StrEnum):
    """What is trained."""

    WARM_UP = "warm-up"
    FACTORS = "factors"
    REBOUND = "rebound"


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePoint:
    """Where a run stands. Two points are equal when no change of stage lies between them."""

    stage: Stage
    epoch: int
    """From 1; 0 in the warm-up."""
    begun_at: float
    """Progress at which the stage began."""


def stage_at(progress_steps: float, total_steps: int, config: AbTrainingConfig) -> StagePoint:
    """The stage of the step that starts at ``progress_steps``; beyond the end of the run that of its last step."""
    first = config.warm_up_ratio * total_steps
    length = (total_steps - first) / config.epochs
    if progress_steps < first or length == 0:
        return StagePoint(stage=Stage.WARM_UP, epoch=0, begun_at=0.0)
    epoch = min(int((progress_steps - first) / length), config.epochs - 1)
    begun_at = first + epoch * length
    rebound_at = begun_at + length - config.rebound_ratio * total_steps
    if config.rebound_ratio and progress_steps >= rebound_at:
        return StagePoint(stage=Stage.REBOUND, epoch=epoch + 1, begun_at=rebound_at)
    return StagePoint(stage=Stage.FACTORS, epoch=epoch + 1, begun_at=begun_at)


def ramp_at(progress_steps: float, total_steps: int, config: AbTrainingConfig) -> float:
    """What the schedule's learning rate is multiplied with, in (0, 1]: linear from the last change of stage on, the first step learns.

    A ramp may be longer than a rebound, which then ends below the schedule (as with the authors').
    """
    return _ramp(stage_at(progress_steps, total_steps, config), progress_steps, total_steps, config)


def stage_of(progress_steps: float, manifest: Manifest) -> StagePoint:
    """The stage of a swarm: as ``stage_at``, but its dense last phase is all rebound, for then replicas are to agree in everything."""
    total_steps, config = manifest.training.total_steps, manifest.ab_training
    if not is_cooldown(progress_steps, manifest):
        return stage_at(progress_steps, total_steps, config)
    last_phase = (1 - manifest.meeting.dense_last_ratio) * total_steps
    point = stage_at(last_phase, total_steps, config)
    if point.stage is not Stage.FACTORS:
        return point
    return StagePoint(stage=Stage.REBOUND, epoch=point.epoch, begun_at=last_phase)


def ramp_of(progress_steps: float, manifest: Manifest) -> float:
    """``ramp_at`` of a swarm's stages; 1 in a run without them."""
    if manifest.outer.method != "ab":
        return 1.0
    point = stage_of(progress_steps, manifest)
    return _ramp(point, progress_steps, manifest.training.total_steps, manifest.ab_training)


def _ramp(point: StagePoint, progress_steps: float, total_steps: int, config: AbTrainingConfig) -> float:
    if point.stage is Stage.WARM_UP:
        return 1.0
    taken = max(0.0, progress_steps - point.begun_at)
    return min(1.0, (taken + 1) / (config.ramp_ratio * total_steps + 1))


def cutoff_of(point: StagePoint, config: AbTrainingConfig) -> float:
    """Below which share of the largest singular value the split that begins ``point`` cuts: nothing in the first one."""
    return 0.0 if point.epoch <= 1 else config.cutoff


def trained_factor(group: int, groups: int) -> Factor:
    """What group ``group`` of ``groups`` trains in every epoch: A in the first half of them, which has the odd one."""
    return Factor.A if 2 * group < groups else Factor.B


def join_weights(trained: Sequence[Factor], sizes: Sequence[int], join: str) -> dict[Factor, list[float]]:
    """Per factor, what each group's copy of it counts in a join; sums to 1.

    ``trained``: by each group; ``sizes``: its nodes; ``join`` as in the configuration. Needs a group for each factor.
    """
    weights = {}
    for factor in Factor:
        counted = [size if join == WITH_STALE or own is factor else 0 for own, size in zip(trained, sizes, strict=True)]
        weights[factor] = [count / sum(counted) for count in counted]
    return weights
