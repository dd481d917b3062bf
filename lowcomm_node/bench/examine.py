"""Looks at all replicas of a run at once."""

import math
from collections.abc import Sequence

from lowcomm_node.algo.consensus import mean_state, spread
from lowcomm_node.bench.texts import Texts
from lowcomm_node.bench.trial import Point
from lowcomm_node.core.progress import learning_rate_at
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.batches import Batch
from lowcomm_node.train.evaluate import Look, look_at
from lowcomm_node.train.model import build_model, load_parameters
from lowcomm_node.train.replica import Replica

__all__ = ["LOOKS", "Examiner"]

LOOKS = 8
"""Points of a curve."""


class Examiner:
    """Draws the curve of one run: one look each time another eighth of its steps is done."""

    def __init__(self, manifest: Manifest, texts: Texts, total_steps: int) -> None:
        """``total_steps`` are those of all replicas together, in steps of one replica's batch."""
        self._manifest = manifest
        self._texts = texts
        self._total_steps = total_steps
        self._averaged = build_model(manifest)
        self.curve: list[Point] = []

    def observe(self, replicas: Sequence[Replica], steps: int, bytes_per_node: float) -> None:
        """``steps`` of all replicas together are done; look when it is time to."""
        if steps * LOOKS >= self._total_steps * (len(self.curve) + 1):
            mean, averaged, distance = self._look(replicas, self._texts.quick_validation)
            training, optimizer = self._manifest.training, self._manifest.optimizer
            progress = sum(replica.progress_steps for replica in replicas) / len(replicas)
            self.curve.append(
                Point(
                    tokens=steps * self._manifest.tokens_per_step,
                    bytes_per_node=bytes_per_node,
                    loss=mean.loss,
                    loss_averaged=averaged.loss,
                    spread=distance,
                    learning_rate=learning_rate_at(progress, training, optimizer.lr),
                )
            )

    def judge(self, replicas: Sequence[Replica]) -> tuple[Look, Look, float]:
        """Mean over replicas, the averaged model, and spread, on all held-out windows."""
        return self._look(replicas, self._texts.validation)

    def _look(self, replicas: Sequence[Replica], windows: Sequence[Batch]) -> tuple[Look, Look, float]:
        looks = [look_at(replica.model, windows, replica.loss) for replica in replicas]
        if len(looks) == 1:
            return looks[0], looks[0], 0.0
        accuracy = sum(look.accuracy for look in looks) / len(looks)
        mean = Look(
            loss=sum(look.loss for look in looks) / len(looks),
            accuracy=accuracy if math.isfinite(accuracy) else math.nan,  # one NaN, so that equal results compare equal
        )
        states = [dict(zip(replica.names, replica.theta, strict=True)) for replica in replicas]
        load_parameters(self._averaged, mean_state(states))
        return mean, look_at(self._averaged, windows, replicas[0].loss), spread(states)
