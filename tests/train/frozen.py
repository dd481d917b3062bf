"""A tiny run by AB-training: 200 steps, whole for 20, then two epochs of 80 steps in factors and 10 of rebound, the last 10 dense."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lowcomm_node.algo.factors import tall
from lowcomm_node.settings.ab_training import AbTrainingConfig
from lowcomm_node.settings.manifest import Manifest, MeetingConfig, OptimizerConfig, OuterConfig
from lowcomm_node.train.frozen import Frozen
from lowcomm_node.train.frozen_requests import serve_frozen
from lowcomm_node.train.messages import FrozenTaken, FrozenWritten, SplitWeights, TakeFrozen
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import Factor
from tests.train.pairs import RUN, tiny_manifest, tiny_meeting

DIGEST = "0f" * 32
OTHER_DIGEST = "e1" * 32


def ab_manifest(
    meeting: MeetingConfig | None = None, optimizer: OptimizerConfig | None = None, **config: float
) -> Manifest:
    """The tiny run, which keeps half of the rank in every split."""
    scheme = AbTrainingConfig(warm_up_ratio=0.1, epochs=2, rebound_ratio=0.05, ramp_ratio=0.02, budget_ratio=0.5)
    manifest = tiny_manifest(meeting or tiny_meeting(), OuterConfig(method="ab", every_steps=0), optimizer)
    return dataclasses.replace(manifest, ab_training=dataclasses.replace(scheme, **config))  # type: ignore[arg-type]


def write_split(replica: Replica, folder: Path, epoch: int = 1) -> Path:
    """The file of a split of the live weights."""
    path = folder / f"frozen-{epoch}.safetensors"
    request = SplitWeights(epoch=epoch, path=str(path))
    assert serve_frozen(replica, request, RUN) == FrozenWritten(epoch=epoch, path=str(path))
    return path


def take(replicas: Sequence[Replica], path: Path, factor: Factor, epoch: int = 1, digest: str = DIGEST) -> None:
    """Have these train ``factor`` by the file."""
    for replica in replicas:
        request = TakeFrozen(epoch=epoch, path=str(path), digest=digest, factor=factor)
        taken = serve_frozen(replica, request, RUN)
        assert taken == FrozenTaken(epoch=epoch, digest=digest, factor=factor)


def held(replica: Replica, digest: str = DIGEST) -> Frozen:
    """What it has taken."""
    assert replica.ab is not None
    found = replica.ab.find(digest)
    assert found is not None
    return found


def copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """In fp64."""
    return [tensor.double().clone() for tensor in tensors]


def parts(change: Sequence[Tensor], frozen: Frozen) -> tuple[list[Tensor], list[Tensor]]:
    """Of a list like the weights: the split tensors' parts within the span and outside of it, tall."""
    inside, outside = [], []
    for position, F in frozen.tensors.items():  # noqa: N806 - as in algo
        dW, P = tall(change[position]), F.double() @ F.double().T  # noqa: N806
        within = dW @ P if frozen.factor is Factor.A else P @ dW
        inside.append(within)
        outside.append(dW - within)
    return inside, outside


def size(tensors: Sequence[Tensor]) -> float:
    """Frobenius norm over all."""
    return float(torch.stack([tensor.double().square().sum() for tensor in tensors]).sum() ** 0.5)


def minus(after: Sequence[Tensor], before: Sequence[Tensor]) -> list[Tensor]:
    """The difference of two lists, in fp64."""
    return [a.double() - b.double() for a, b in zip(after, before, strict=True)]
