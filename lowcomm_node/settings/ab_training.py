"""AB-training (arXiv 2405.01067): what a run of it is made of.

Lengths are shares of the run, so that a short run has the shape of a long one. Defaults are those of the authors' runs
(shares of 150 epochs of ResNet-50, ViT-B/16 and VGG16), where small models do not want another.
"""

from dataclasses import dataclass
from typing import Annotated

from lowcomm_node.settings.rules import Between, OneOf, fail

__all__ = ["ONLY_LEARNED", "WITH_STALE", "AbReferenceConfig", "AbTrainingConfig"]

WITH_STALE = "with-stale"
ONLY_LEARNED = "only-learned"


@dataclass(frozen=True, slots=True, kw_only=True)
class AbTrainingConfig:
    """Stages and ranks of AB-training (2405.01067), with outer.method = "ab"."""

    warm_up_ratio: Annotated[float, Between(0.0, 1.0)] = 0.2
    """Share of the run, at its start, in which everything is trained whole (theirs: 0.21 to 0.29)."""
    epochs: Annotated[int, Between(1, 1_000_000)] = 12
    """The rest of the run is so many times the same: split, factors, join, rebound (theirs: 12 to 15)."""
    rebound_ratio: Annotated[float, Between(0.0, 1.0)] = 0.005
    """Share of the run in which everything is trained whole at the end of each epoch (theirs: 0.004 to 0.007)."""
    ramp_ratio: Annotated[float, Between(0.0, 1.0)] = 0.017
    """Share of the run over which the learning rate comes back after each change of stage (theirs: 0.017 to 0.018)."""
    cutoff: Annotated[float, Between(0.0, 0.999)] = 0.15
    """Singular values up to this share of the largest one are cut off in every split but the first (theirs: 0.1 to 0.4)."""
    budget_ratio: Annotated[float, Between(0.001, 1.0)] = 1.0
    """Largest share of its whole rank that a matrix keeps in any split, whatever the cutoff; 1 is no limit."""
    least_side: Annotated[int, Between(2, 65536)] = 8
    """Matrices with fewer rows or columns stay whole."""

    def check(self) -> None:
        if self.epochs * self.rebound_ratio > 1 - self.warm_up_ratio:
            fail(
                "ab_training.rebound_ratio",
                self.rebound_ratio,
                f"at most (1 - warm_up_ratio) / epochs = {(1 - self.warm_up_ratio) / self.epochs:.4g}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AbReferenceConfig(AbTrainingConfig):
    """What the reference scheme, in lockstep, has besides: groups and joins."""

    join: Annotated[str, OneOf(WITH_STALE, ONLY_LEARNED)] = WITH_STALE
    """with-stale: each factor becomes the mean over all nodes, frozen copies included, so that the model makes the mean of the
    two updates; only-learned: the mean over those that have trained it, so that it makes their sum."""
    group_size: Annotated[int, Between(1, 65536)] = 1
    """Nodes that average their gradients in each step while factors are trained; their group was one machine of four GPUs, so 1."""
