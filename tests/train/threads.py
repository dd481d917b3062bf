"""A node on two devices whose replicas are threads of the test, and take part by hand in what followers are ordered to do."""

import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from lowcomm_node.settings.manifest import Manifest, OptimizerConfig
from lowcomm_node.train.replica import Replica
from tests.train.pairs import tiny_manifest, tiny_session

CPU = torch.device("cpu")
_PATIENCE_S = 60.0
OPTIMIZERS = {
    "adamw": OptimizerConfig(kind="adamw", lr=1e-2),
    "sgd": OptimizerConfig(kind="sgd", lr=0.1, momentum=0.9),
    "muon": OptimizerConfig(kind="muon", lr=1e-2),
    "dion": OptimizerConfig(kind="dion", lr=1e-2, rank_fraction=0.5),
    "dion-bf16": OptimizerConfig(kind="dion", lr=1e-2, rank_fraction=0.5, state_dtype="bf16"),
}


class ThreadGroup:
    """A group of threads: what ``ProcessGroup`` is for processes."""

    def __init__(self, rank: int, slots: list[Tensor], barrier: threading.Barrier) -> None:
        self.rank, self.size, self._slots, self._barrier = rank, len(slots), slots, barrier

    def mean_(self, tensor: Tensor) -> None:
        self._replace(tensor, lambda slots: torch.stack(slots).sum(0) / self.size)

    def share_(self, tensor: Tensor) -> None:
        self._replace(tensor, lambda slots: slots[0].clone())

    def _replace(self, tensor: Tensor, found: Callable[[list[Tensor]], Tensor]) -> None:
        self._slots[self.rank] = tensor
        self._barrier.wait(_PATIENCE_S)
        result = found(self._slots)
        self._barrier.wait(_PATIENCE_S)
        tensor.copy_(result)


class Node:
    """Two replicas that train as one node."""

    def __init__(self, manifest: Manifest) -> None:
        barrier, slots = threading.Barrier(2), [torch.empty(0)] * 2
        self.session = tiny_session(manifest)
        self.replicas = [Replica(manifest, CPU, ThreadGroup(rank, slots, barrier)) for rank in range(2)]

    def all(self, do: Callable[[Replica, int], object]) -> None:
        """Do something on both at once."""
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(do, self.replicas, range(2)))

    def step(self, steps: int) -> None:
        def train(replica: Replica, rank: int) -> None:
            for _ in range(steps):
                replica.train_step(self.session.stream.batch(replica.data_cursor + rank))

        self.all(train)

    def gather(self) -> None:
        self.all(lambda replica, _: replica.gather())

    def differing(self) -> list[str]:
        """Names of state that is not the same in both."""
        one, other = (replica.state().tensors for replica in self.replicas)
        return [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]


def manifest_of(kind: str, grad_clip: float = 1.0) -> Manifest:
    """The tiny run with this optimizer."""
    manifest = tiny_manifest(optimizer=OPTIMIZERS[kind])
    return dataclasses.replace(manifest, training=dataclasses.replace(manifest.training, grad_clip=grad_clip))
