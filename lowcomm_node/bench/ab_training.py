"""AB-training (arXiv 2405.01067) in lockstep: everybody whole, then groups that train one factor each, then the join.

While everything is whole all replicas are equal, and one of them steps with the batches of all, as in ``lockstep``'s data
parallel. While factors are trained each group has a replica, which steps with its members' batches.

Differs from the authors' code: a join averages the moments of whole tensors with them. There they stay each group's own, and
replicas that should be equal drift apart in every rebound.
"""

from collections import defaultdict

from lowcomm_node.algo.factors import join
from lowcomm_node.bench.examine import Examiner
from lowcomm_node.bench.factored import FactoredReplica
from lowcomm_node.bench.texts import Texts
from lowcomm_node.bench.traffic import handed_on_bytes, ring_bytes
from lowcomm_node.bench.trial import Trial
from lowcomm_node.core.ab_stages import Stage, StagePoint, cutoff_of, join_weights, ramp_at, stage_at, trained_factor
from lowcomm_node.settings.ab_training import WITH_STALE
from lowcomm_node.train.batches import joined
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import Dtype, Factor

__all__ = ["AbTrainingRun"]

_BITS = Dtype.FP32.bits
"""As data parallel: the authors send gradients and factors as they are kept."""


class AbTrainingRun:
    """All replicas of one trial, and what each node has sent, by formula."""

    def __init__(self, trial: Trial, texts: Texts) -> None:
        self._trial = trial
        self._texts = texts
        self._config = trial.ab_training
        size = self._config.group_size
        self._members = [range(first, min(first + size, trial.replicas)) for first in range(0, trial.replicas, size)]
        """Nodes of each group."""
        groups = len(self._members)
        self.groups = [
            FactoredReplica(trial.manifest, trained_factor(index, groups), self._config.least_side)
            for index in range(groups)
        ]
        sizes = [len(members) for members in self._members]
        self._weights = join_weights([group.trained for group in self.groups], sizes, self._config.join)
        self._shares = [size / trial.replicas for size in sizes]
        self._point = StagePoint(stage=Stage.WARM_UP, epoch=0, begun_at=0.0)
        self.bytes_by_part: defaultdict[str, float] = defaultdict(float)
        """Of ``bytes_per_node``: warm-up, rebound, groups (gradients of factors), joins."""
        self.rank_ratio = 1.0
        """Rank after the newest split as a share of the whole rank, mean over the tensors that are split."""
        self.duration_steps = 0.0
        """In steps of the fastest replica; all wait for the slowest, if only at the next join."""
        self._is_split = False

    @property
    def replicas(self) -> list[Replica]:
        """One of each group; only the first while the others would be copies of it."""
        is_over = self.groups[0].replica.steps >= self._trial.manifest.training.total_steps
        return [group.replica for group in (self.groups if self._is_split or is_over else self.groups[:1])]

    @property
    def bytes_per_node(self) -> float:
        """Sent until now, mean over nodes."""
        return sum(self.bytes_by_part.values())

    def run(self, examiner: Examiner) -> None:
        """Train to the end of the schedule. What is split then is joined: the result is one model."""
        trial, total_steps = self._trial, self._trial.manifest.training.total_steps
        for step in range(total_steps):
            self._change(stage_at(step, total_steps, self._config))
            self._train(step)
            if step + 1 == total_steps:
                self._finish()
            self.duration_steps += 1 / min(trial.replica_speeds)
            examiner.observe(self.replicas, (step + 1) * trial.replicas, self.bytes_per_node)

    def _change(self, point: StagePoint) -> None:
        if point == self._point:
            return
        self._point = point
        if self._is_split:
            self._join()
        if point.stage is Stage.FACTORS:
            self._split(cutoff_of(point, self._config))

    def _train(self, step: int) -> None:
        nodes, total_steps = self._trial.replicas, self._trial.manifest.training.total_steps
        batches = [stream.batch(step) for stream in self._texts.streams]
        ramp = ramp_at(step, total_steps, self._config)
        if not self._is_split:
            # The mean gradient of all batches is the gradient of them put together.
            self.groups[0].train_step(joined(batches), ramp)
            numbers = sum(theta.numel() for theta in self.groups[0].replica.theta)
            self.bytes_by_part[self._point.stage.value] += ring_bytes(numbers, nodes, _BITS)
            return
        for group, members, share in zip(self.groups, self._members, self._shares, strict=True):
            group.train_step(joined([batches[node] for node in members]), ramp)
            numbers = self._numbers(group.trained) + sum(group.replica.theta[index].numel() for index in group.whole)
            self.bytes_by_part["groups"] += share * ring_bytes(numbers, len(members), _BITS)

    def _split(self, cutoff: float) -> None:
        """Everybody has the same weights and splits them alone; what is sent is the rank, of which the largest counts for all."""
        first, *others = self.groups
        factors = first.split(cutoff, self._config.budget_ratio)
        for group in others:
            group.take_over(first)
        for group in self.groups:
            group.take_factors(factors)
        self._is_split = True
        ratios = [own.rank / own.B.shape[1] for own in factors]
        self.rank_ratio = sum(ratios) / len(ratios) if ratios else 1.0
        if cutoff > 0:
            self.bytes_by_part["joins"] += ring_bytes(len(factors), self._trial.replicas, _BITS)

    def _join(self) -> None:
        self._count_join()
        means = [join(copies, self._weights) for copies in zip(*(group.factors for group in self.groups), strict=True)]
        for tensors in zip(*(group.whole_tensors() for group in self.groups), strict=True):
            mean = sum(share * tensor for share, tensor in zip(self._shares, tensors, strict=True))
            for tensor in tensors:
                tensor.copy_(mean)
        for group in self.groups:
            group.take_joined(means)
        self._is_split = False

    def _finish(self) -> None:
        """Leave all replicas equal."""
        if self._is_split:
            self._join()
        for group in self.groups[1:]:
            group.take_over(self.groups[0])

    def _count_join(self) -> None:
        nodes = self._trial.replicas
        whole = sum(tensor.numel() for tensor in self.groups[0].whole_tensors())
        sent = ring_bytes(whole, nodes, _BITS)
        for factor in Factor:
            numbers = self._numbers(factor)
            if self._config.join == WITH_STALE:
                sent += ring_bytes(numbers, nodes, _BITS)
            else:
                trainers = sum(
                    len(members)
                    for group, members in zip(self.groups, self._members, strict=True)
                    if group.trained is factor
                )
                sent += handed_on_bytes(numbers, trainers, nodes, _BITS)
        self.bytes_by_part["joins"] += sent

    def _numbers(self, factor: Factor) -> int:
        """In all copies of one factor that a node has."""
        return sum(factors.of(factor).numel() for factors in self.groups[0].factors)
