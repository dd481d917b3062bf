"""AB-training on one replica: which stage it is in, what it holds frozen, and what a step may change there.

Tensors that are split are named by their position in the order of ``parameters()``. F is as in ``algo.frozen``.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowcomm_node.algo.correction import Correction
from lowcomm_node.algo.factors import largest_rank, tall
from lowcomm_node.algo.frozen import SplitVectors, add_expanded_, confine_, coordinates, energy_kept, split_vectors
from lowcomm_node.algo.shapes import Shapes
from lowcomm_node.algo.sizes import part_bytes
from lowcomm_node.core.ab_stages import Stage, StagePoint, cutoff_of, stage_of
from lowcomm_node.core.messages import StreamPlan
from lowcomm_node.errors import ForgivableError, RefusalReason, StoreError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.factored import factored_positions
from lowcomm_node.train.frozen_file import SplitShape
from lowcomm_node.train.messages import AbGroup, AbReport
from lowcomm_node.units import Codec, Dtype, Factor, Stream

__all__ = ["AbTraining", "Frozen"]

_HELD = 2
"""The epoch's, and those before, for meetings under way."""
_LEAST_SHARE = 0.5
"""Of R/K, the energy that an arbitrary span of R of K dimensions holds: leading vectors of weights like ours hold more than it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """What one node holds frozen in an epoch, of all split tensors."""

    epoch: int
    digest: str
    factor: Factor
    """The one it trains."""
    tensors: Mapping[int, Tensor]
    """F by position, fp32 where the replica lies: V (N x R) of who trains A, U (M x R) of who trains B."""

    @contextmanager
    def confining(self, theta: Sequence[Tensor]) -> Iterator[None]:
        """What is done to the weights inside is taken back where the span does not hold it. Memory: once the split tensors."""
        before = {position: theta[position].clone() for position in self.tensors}
        yield
        for position, F in self.tensors.items():  # noqa: N806 - as in algo
            confine_(tall(theta[position]), tall(before[position]), F, self.factor)

    def views(self, theta: Sequence[Tensor]) -> list[Tensor]:
        """All weights as a meeting in role averages them: split tensors in coordinates."""
        return [
            coordinates(tall(tensor), self.tensors[position], self.factor) if position in self.tensors else tensor
            for position, tensor in enumerate(theta)
        ]

    def shapes(self, shapes: Shapes) -> tuple[tuple[int, ...], ...]:
        """Those of ``views``, from those of the weights."""
        return tuple(
            self._coordinate_shape(position, shape) if position in self.tensors else tuple(shape)
            for position, shape in enumerate(shapes)
        )

    def apply(self, replicas: Sequence[Sequence[Tensor]], correction: Correction, weight: float) -> None:
        """The weights, and what shifts with them, += weight times a correction to ``views``."""
        first = replicas[0]
        shapes = self.shapes([tensor.shape for tensor in first])
        sums = [torch.zeros(shape, device=tensor.device) for shape, tensor in zip(shapes, first, strict=True)]
        correction.add_to_(sums, 1.0)
        for tensors in replicas:
            for position, (tensor, C) in enumerate(zip(tensors, sums, strict=True)):  # noqa: N806
                if position in self.tensors:
                    add_expanded_(tall(tensor), C, self.tensors[position], self.factor, weight)
                else:
                    tensor.add_(C, alpha=weight)

    def _coordinate_shape(self, position: int, shape: Sequence[int]) -> tuple[int, int]:
        m, n = _tall_shape(shape)
        rank = self.tensors[position].shape[1]
        return (m, rank) if self.factor is Factor.A else (rank, n)


class AbTraining:
    """The stages of one replica, and the frozen factors that it holds: the newest two."""

    def __init__(self, model: nn.Module, manifest: Manifest) -> None:
        self._manifest = manifest
        self._names = [name for name, _ in model.named_parameters()]
        self._shapes = [tuple(parameter.shape) for parameter in model.parameters()]
        self.positions = factored_positions(model, manifest, manifest.ab_training.least_side)
        """Of the tensors that are split."""
        self._held: list[Frozen] = []
        self._told: dict[str, AbReport] = {}
        """What there is to tell of the held ones, by digest."""

    def split_shapes(self) -> dict[str, SplitShape]:
        """By parameter name, what a file of frozen factors holds."""
        budget, found = self._manifest.ab_training.budget_ratio, {}
        for position in self.positions:
            m, n = _tall_shape(self._shapes[position])
            found[self._names[position]] = SplitShape(m, n, largest_rank(n, budget))
        return found

    def split(self, theta: Sequence[Tensor], epoch: int) -> dict[str, SplitVectors]:
        """Of the live weights, by parameter name, as a split that begins ``epoch`` cuts; on the CPU. Raises StoreError for weights that are not finite."""
        config = self._manifest.ab_training
        cutoff, found = cutoff_of(StagePoint(stage=Stage.FACTORS, epoch=epoch, begun_at=0.0), config), {}
        for position in self.positions:
            name = self._names[position]
            if not bool(torch.isfinite(theta[position]).all()):
                raise StoreError(f"{name} cannot be split: it is not finite")
            try:
                vectors = split_vectors(tall(theta[position]), cutoff, config.budget_ratio)
            except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
                raise StoreError(f"{name} cannot be split: {error}") from error
            found[name] = SplitVectors(vectors.U.cpu(), vectors.V.cpu())
        return found

    def frozen_of(
        self, vectors: Mapping[str, SplitVectors], theta: Sequence[Tensor], *, epoch: int, digest: str, factor: Factor
    ) -> Frozen:
        """What a verified file means to who trains this factor. Raises StoreError where it does not fit the weights at all."""
        tensors = {}
        for position in self.positions:
            weights, name = theta[position], self._names[position]
            F = vectors[name].frozen(factor).to(weights)  # noqa: N806
            within, whole = energy_kept(tall(weights), F, factor)
            if within < _LEAST_SHARE * whole * F.shape[1] / F.shape[0]:
                raise StoreError(
                    f"frozen factors refused: those of {name} hold {within / whole:.2%} of its energy, less than arbitrary ones would"
                )
            tensors[position] = F
        return Frozen(epoch=epoch, digest=digest, factor=factor, tensors=tensors)

    def blank(self, epoch: int, digest: str, factor: Factor, ranks: Sequence[int], theta: Sequence[Tensor]) -> Frozen:
        """Memory for another device's: with these ranks, in the order of ``positions``."""
        tensors = {}
        for position, rank in zip(self.positions, ranks, strict=True):
            m, n = _tall_shape(self._shapes[position])
            tensors[position] = theta[position].new_empty((n if factor is Factor.A else m, rank))
        return Frozen(epoch=epoch, digest=digest, factor=factor, tensors=tensors)

    def take(self, frozen: Frozen, theta: Sequence[Tensor]) -> None:
        """From the next step on, in their epoch, only what ``frozen`` spans is trained of the split tensors."""
        self._held = [*(held for held in self._held if held.digest != frozen.digest), frozen][-_HELD:]
        kept = {held.digest: self._told[held.digest] for held in self._held[:-1]}
        self._told = {**kept, frozen.digest: self._tell(frozen, theta)}

    def find(self, digest: str) -> Frozen | None:
        """The held ones by their digest, of whatever epoch."""
        return next((held for held in self._held if held.digest == digest), None)

    def held_for(self, plan: StreamPlan) -> Frozen:
        """By which a plan in coordinates is to be understood.

        Raises ForgivableError(NOT_READY) where this node does not hold them, or trains the other factor: it is nobody's fault.
        """
        held = self.find(plan.frozen)
        if held is None or held.factor is not plan.factor:
            ours = "another factor" if held is not None else "none of these frozen factors"
            raise ForgivableError(
                RefusalReason.NOT_READY, f"factor {plan.factor} by {plan.frozen[:16]}: we have {ours}"
            )
        return held

    def point(self, progress_steps: float) -> StagePoint:
        """The stage at this point of the run."""
        return stage_of(progress_steps, self._manifest)

    def in_use(self, progress_steps: float) -> Frozen | None:
        """By which a factor is trained at this point of the run; None while everything is."""
        point = self.point(progress_steps)
        newest = self._held[-1] if self._held else None
        is_its_time = point.stage is Stage.FACTORS and newest is not None and newest.epoch == point.epoch
        return newest if is_its_time else None

    def report(self, progress_steps: float) -> AbReport:
        """Where AB-training stands."""
        point, frozen = self.point(progress_steps), self.in_use(progress_steps)
        return AbReport(stage=point.stage, epoch=point.epoch) if frozen is None else self._told[frozen.digest]

    def _tell(self, frozen: Frozen, theta: Sequence[Tensor]) -> AbReport:
        members: defaultdict[str, list[tuple[int, int, float, float]]] = defaultdict(list)
        for position, F in frozen.tensors.items():  # noqa: N806
            _, n = _tall_shape(self._shapes[position])
            members[_kind_of(self._names[position])].append(
                (F.shape[1], n, *energy_kept(tall(theta[position]), F, frozen.factor))
            )
        groups, totals = [], [0.0, 0.0]
        for name, of_name in members.items():
            ranks, whole_ranks, within, whole = (sum(column) for column in zip(*of_name, strict=True))
            totals = [totals[0] + within, totals[1] + whole]
            groups.append(
                AbGroup(
                    name=name,
                    tensors=len(of_name),
                    rank=int(ranks),
                    whole_rank=int(whole_ranks),
                    energy_kept=_ratio(within, whole),
                )
            )
        return AbReport(
            stage=Stage.FACTORS,
            epoch=frozen.epoch,
            digest=frozen.digest,
            factor=frozen.factor,
            groups=tuple(groups),
            energy_kept=_ratio(*totals),
            compression=self._dense_bytes(self._shapes) / self._dense_bytes(frozen.shapes(self._shapes)),
        )

    def _dense_bytes(self, shapes: Shapes) -> int:
        dtype, ranks = Dtype(self._manifest.meeting.dtype), (-1,) * len(shapes)
        plan = StreamPlan(stream=Stream.PARAMS, codec=Codec.DENSE, dtype=dtype, ranks=ranks)
        return part_bytes(shapes, plan).largest_direction


def _tall_shape(shape: Sequence[int]) -> tuple[int, int]:
    m, n = shape[0], torch.Size(shape[1:]).numel()
    return max(m, n), min(m, n)


def _kind_of(name: str) -> str:
    """Which layer it is of does not matter: "blocks.3.attention.qkv.weight" is one of "blocks.*.attention.qkv"."""
    return re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name.removesuffix(".weight"))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 1.0
