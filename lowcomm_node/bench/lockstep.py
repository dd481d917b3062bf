"""Methods whose replicas wait for each other: all step, then some of them or all exchange."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lowcomm_node.algo.noloco import outer_step_, reference_pair_step
from lowcomm_node.bench.examine import Examiner
from lowcomm_node.bench.methods import Family
from lowcomm_node.bench.texts import Texts, run_of
from lowcomm_node.bench.traffic import dion_numbers, pair_bytes, ring_bytes
from lowcomm_node.bench.trial import Trial
from lowcomm_node.core.chance import Chance
from lowcomm_node.settings.manifest import Manifest, OuterConfig
from lowcomm_node.settings.streams import periods
from lowcomm_node.train.batches import joined
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import Dtype, Stream

__all__ = ["LockstepRun"]

_CPU = torch.device("cpu")
_GRADIENT_BITS = Dtype.FP32.bits
_STATE_BITS = Dtype.BF16.bits
"""The authors of DiLoCo, NoLoCo and DES-LOC count and send 16 bits a number."""


class LockstepRun:
    """All replicas of one trial, and what each has sent, by formula."""

    def __init__(self, trial: Trial, texts: Texts) -> None:
        self._trial = trial
        self._texts = texts
        count = 1 if trial.family.is_synchronous else trial.replicas
        # Outer steps are taken here, on what was exchanged, and not by each replica for itself.
        inner = replace(trial.manifest, outer=OuterConfig(every_steps=0))
        self.replicas = [Replica(inner, _CPU) for _ in range(count)]
        self.bytes_per_node = 0.0
        self.duration_steps = 0.0
        """In steps of the fastest replica; all wait for the slowest."""
        self._chance = Chance(f"{run_of(trial.seed)}|pairs".encode())

    def run(self, examiner: Examiner) -> None:
        """Train to the end of the schedule."""
        trial = self._trial
        for step in range(1, trial.manifest.training.total_steps + 1):
            self._train()
            self._exchange(step)
            self.duration_steps += 1 / min(trial.replica_speeds)
            examiner.observe(self.replicas, step * trial.replicas, self.bytes_per_node)

    def _train(self) -> None:
        streams = self._texts.streams
        if self._trial.family.is_synchronous:
            # The mean gradient of all batches is the gradient of them put together: one replica is exact.
            (replica,) = self.replicas
            replica.train_step(joined([stream.batch(replica.data_cursor) for stream in streams]))
            return
        for replica, stream in zip(self.replicas, streams, strict=True):
            replica.train_step(stream.batch(replica.data_cursor))

    def _exchange(self, step: int) -> None:
        manifest, nodes = self._trial.manifest, self._trial.replicas
        num_parameters = manifest.model.num_parameters
        # Whatever the periods, weights are exchanged after the last step: its result is what a run is for.
        is_last = step == manifest.training.total_steps
        is_outer_due = manifest.outer.every_steps > 0 and (is_last or step % manifest.outer.every_steps == 0)
        match self._trial.family:
            case Family.DDP:
                self.bytes_per_node += ring_bytes(num_parameters, nodes, _GRADIENT_BITS)
            case Family.DION_SYNC:
                numbers = dion_numbers(self.replicas[0].model, manifest)
                self.bytes_per_node += ring_bytes(numbers, nodes, _GRADIENT_BITS)
            case Family.AVERAGE:
                self.bytes_per_node += _average_due(self.replicas, manifest, step, is_last=is_last)
            case Family.DILOCO if is_outer_due:
                _diloco_step(self.replicas, manifest.outer)
                self.bytes_per_node += ring_bytes(num_parameters, nodes, _STATE_BITS)
            case Family.NOLOCO if is_outer_due:
                paired = _noloco_step(self.replicas, manifest.outer, self._chance)
                self.bytes_per_node += pair_bytes(num_parameters, _STATE_BITS) * paired / nodes
            case _:
                pass


def _average_due(replicas: Sequence[Replica], manifest: Manifest, step: int, *, is_last: bool) -> float:
    """All-reduce averages of the streams that are due, as in DES-LOC (2505.22549, Algorithm 1); returns bytes per node.

    The parameters are due after the last step, too.

    Moments are averaged as they are kept: in lockstep all have the same number of updates behind them.
    """
    num_bytes = 0.0
    for period in periods(manifest):
        is_end = is_last and period.stream is Stream.PARAMS
        if period.every_steps and (is_end or step % period.every_steps == 0):
            tensors = [replica.tensors(period.stream) for replica in replicas]
            _average_(tensors)
            num_bytes += ring_bytes(sum(t.numel() for t in tensors[0]), len(replicas), _STATE_BITS)
    return num_bytes


def _average_(replicas: Sequence[Sequence[Tensor]]) -> None:
    for tensors in zip(*replicas, strict=True):
        mean = torch.stack(tensors).mean(0)
        for tensor in tensors:
            tensor.copy_(mean)


def _diloco_step(replicas: Sequence[Replica], outer: OuterConfig) -> None:
    """DiLoCo's outer step (2311.08105) with a heavy ball: D is the mean displacement of all.

    All replicas have one phi and one delta, so the mean displacement is that of the mean of the fast weights.
    """
    _average_([replica.theta for replica in replicas])
    for replica in replicas:
        for theta, phi, delta in zip(replica.theta, replica.phi, replica.delta, strict=True):
            outer_step_(theta, phi, delta, None, momentum=outer.momentum, lr=outer.lr)


def _noloco_step(replicas: Sequence[Replica], outer: OuterConfig, chance: Chance) -> int:
    """NoLoCo's outer step (2506.10911, Eq. 1-3) in random pairs; returns how many replicas had a partner.

    Computed in fp64 and kept in fp32. With an odd number one replica takes the solo step.
    """
    order = _shuffled(len(replicas), chance)
    for first, second in zip(order[::2], order[1::2], strict=False):
        i, j = replicas[first], replicas[second]
        states_i, states_j = (zip(r.theta, r.phi, r.delta, strict=True) for r in (i, j))
        for own, other in zip(states_i, states_j, strict=True):
            new_own, new_other = reference_pair_step(*own, *other, a=outer.momentum, b=outer.lr, g=outer.mixing_gain)
            for tensor, new in zip((*own, *other), (*new_own, *new_other), strict=True):
                tensor.copy_(new)
    if len(order) % 2:
        alone = replicas[order[-1]]
        for theta, phi, delta in zip(alone.theta, alone.phi, alone.delta, strict=True):
            outer_step_(theta, phi, delta, None, momentum=outer.momentum, lr=outer.lr)
    return len(order) - len(order) % 2


def _shuffled(count: int, chance: Chance) -> list[int]:
    """A uniformly random order of 0 .. count - 1 (Fisher and Yates)."""
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        other = chance.below(last + 1)
        order[last], order[other] = order[other], order[last]
    return order
