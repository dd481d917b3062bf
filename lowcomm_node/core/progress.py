"""What a node's point in the run decides: learning rate, end, and the dense last phase.

The clock of a run is *swarm progress*: each own inner step adds 1, each meeting averages the number with the
partner's. So the swarm's mean progress grows by one whenever the average node has taken a step, and a fast node,
a slow node and a late joiner read nearly the same point of the schedule.
"""

import math

from lowcomm_node.settings.manifest import Manifest, TrainingConfig

__all__ = ["is_cooldown", "is_dense_acceptable", "is_finished", "is_plausible", "learning_rate_at", "mark_of"]

_COOLDOWN_SLACK_RATIO = 0.02
"""Share of the run by which a partner may be ahead of us when it starts to meet densely."""
_MARKS = 20
_MARK_STEPS = 100
_PLAUSIBLE_RATIO = 1.1
_PLAUSIBLE_STEPS = 100.0


def learning_rate_at(progress_steps: float, training: TrainingConfig, lr: float) -> float:
    """Learning rate of the inner step that starts at ``progress_steps``.

    Linear warm-up to ``lr`` over ``warmup_steps`` (the first step already learns), then a cosine that reaches
    ``min_lr_ratio * lr`` at ``total_steps`` and stays there.
    """
    if progress_steps < training.warmup_steps:
        return lr * (progress_steps + 1) / (training.warmup_steps + 1)
    done_ratio = (progress_steps - training.warmup_steps) / (training.total_steps - training.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(done_ratio, 1.0)))
    return lr * (training.min_lr_ratio + (1 - training.min_lr_ratio) * cosine)


def mark_of(progress_steps: float, training: TrainingConfig) -> int:
    """Number of the newest mark that this progress has passed, from 0; marks lie a twentieth of the run apart, 100 steps at most.

    What nodes measure when they pass a mark they measure at the same point of the run, however fast each of them is.
    """
    return int(progress_steps // max(1, min(_MARK_STEPS, training.total_steps // _MARKS)))


def is_finished(progress_steps: float, training: TrainingConfig) -> bool:
    """Is there nothing left to train? May turn false again when a meeting averages with a node that lies behind."""
    return progress_steps >= training.total_steps


def is_cooldown(progress_steps: float, manifest: Manifest) -> bool:
    """Is this the last phase (meeting.dense_last_ratio), in which nodes offer whole tensors to agree closely?"""
    ratio = manifest.meeting.dense_last_ratio
    return ratio > 0 and progress_steps >= (1 - ratio) * manifest.training.total_steps


def is_dense_acceptable(progress_steps: float, manifest: Manifest) -> bool:
    """May a partner offer whole tensors, whatever the byte budget? True a little before our own last phase."""
    ratio = manifest.meeting.dense_last_ratio
    return ratio > 0 and progress_steps >= (1 - ratio - _COOLDOWN_SLACK_RATIO) * manifest.training.total_steps


def is_plausible(progress_steps: float, training: TrainingConfig) -> bool:
    """Can an honest node of this run stand here?

    Nodes stop at ``total_steps``, and averages of such numbers cannot lie beyond; the slack covers steps taken
    between an offer and its settlement. Without the bound one absurd number would end the run for its partner.
    NaN and infinities are not plausible.
    """
    return 0.0 <= progress_steps <= _PLAUSIBLE_RATIO * training.total_steps + _PLAUSIBLE_STEPS
