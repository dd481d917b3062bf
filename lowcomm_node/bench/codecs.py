"""What each way of coding a meeting captures of real differences, and for how many bytes: codec x format x Omega x budget.

Three replicas train on their own batches, K steps at a time, and then agree on their mean, so each difference is K steps of drift.
Nothing that is measured here is applied.
"""

import hashlib
import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lowcomm_node.algo import exchange
from lowcomm_node.algo.correction import Correction, right_factors
from lowcomm_node.algo.shapes import matrix_shape
from lowcomm_node.bench.texts import load_texts
from lowcomm_node.bench.trial import Trial
from lowcomm_node.core.messages import StreamPlan
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.directions import Directions
from lowcomm_node.train.plans import Planner
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import Codec, Dtype, Omega, Stream

__all__ = ["Case", "Finding", "all_cases", "measure_codecs"]

_CPU = torch.device("cpu")
_BUDGETS = (2048, 4096, 8192, 16384, 32768, 65536)
_FIRST_COUNTED = 4
"""Meetings before this one teach planners the size of differences and fill caches."""


@dataclass(frozen=True, slots=True)
class Case:
    """One way to code a meeting."""

    codec: Codec
    dtype: Dtype
    budget_bytes: int = 0
    """Most bytes in either direction; 0 for whole tensors, which take what they take."""
    omega: Omega = Omega.SEEDED
    is_per_pair: bool = False
    """Omega cached: from the last correction with the same partner instead of with whomever."""
    has_power_step: bool = False
    """Codec ab: once more with the directions that the first exchange has found, for as many bytes again."""

    @property
    def kind(self) -> str:
        """Codec and test matrix."""
        omega = f" {self.omega}" if self.omega is not Omega.SEEDED else ""
        pair = " per pair" if self.is_per_pair else ""
        return f"{self.codec}{omega}{pair}{' + power step' if self.has_power_step else ''}"

    @property
    def label(self) -> str:
        """All but the budget."""
        return f"{self.kind} {self.dtype}"


@dataclass(slots=True)
class Finding:
    """One case over all its meetings."""

    case: Case
    bytes_sent: list[int] = field(default_factory=list)
    """Per meeting, mean of both ends."""
    captured: list[float] = field(default_factory=list)
    """1 - |D - C|^2 / |D|^2."""
    best: list[float] = field(default_factory=list)
    """What the best factors of the same ranks would capture (truncated SVD, unquantised); codec ab."""

    def mean(self, name: str) -> float:
        """Over meetings; NaN without any."""
        values = getattr(self, name)
        return statistics.fmean(values) if values else math.nan


def all_cases() -> tuple[Case, ...]:
    """Whole tensors in each format, then coordinates and directions in each format, budget and Omega."""
    omegas = ((Omega.SEEDED, False), (Omega.CACHED, False), (Omega.CACHED, True), (Omega.DISPLACEMENT, False))
    formats = (Dtype.BF16, Dtype.INT8, Dtype.INT4)
    return (
        *(Case(Codec.DENSE, dtype) for dtype in Dtype),
        *(Case(Codec.SPARSE, dtype, budget) for dtype in formats for budget in _BUDGETS),
        *(
            Case(Codec.AB, dtype, budget, omega, is_per_pair)
            for (omega, is_per_pair), dtype, budget in itertools.product(omegas, formats, _BUDGETS)
        ),
        *(Case(Codec.AB, dtype, budget, has_power_step=True) for dtype, budget in itertools.product(formats, _BUDGETS)),
    )


def measure_codecs(
    trial: Trial, cases: Sequence[Case], *, every_steps: int, meetings: int, burn_in_steps: int
) -> Iterator[list[Finding]]:
    """Yields all findings so far after each of ``meetings`` meetings, ``every_steps`` apart.

    The trial gives model, optimizer, data and seed. Raises DataError.
    """
    torch.set_num_threads(1)
    texts = load_texts(replace(trial, replicas=3))
    replicas = [Replica(trial.manifest, _CPU) for _ in texts.streams]
    own, *partners = replicas
    benches = [_Bench(case, trial.manifest, own) for case in cases]
    for number in range(meetings):
        for _ in range(every_steps if number else burn_in_steps + every_steps):
            for replica, stream in zip(replicas, texts.streams, strict=True):
                replica.train_step(stream.batch(replica.data_cursor))
            if replicas[0].steps <= burn_in_steps:
                _agree(replicas)
        for bench in benches:
            bench.meet(number, partners[number % len(partners)])
        _agree(replicas)
        yield [bench.finding for bench in benches]


def _agree(replicas: Sequence[Replica]) -> None:
    """Parameters go to their mean; optimizers keep what they have."""
    for tensors in zip(*(replica.theta for replica in replicas), strict=True):
        mean = torch.stack(tensors).mean(0)
        for tensor in tensors:
            tensor.copy_(mean)


class _Bench:
    """One case: what its initiator has learnt, and what it has found."""

    def __init__(self, case: Case, base: Manifest, initiator: Replica) -> None:
        meeting = replace(
            base.meeting,
            codec=case.codec.value,
            dtype=case.dtype.value,
            omega=case.omega.value,
            budget_bytes=case.budget_bytes or base.meeting.budget_bytes,
        )
        manifest = replace(base, meeting=meeting)
        self._initiator = initiator
        self._planner = Planner(manifest, {stream: initiator.shapes_of(stream) for stream in initiator.streams})
        self._directions: dict[int, Directions] = {}
        self.finding = Finding(case)

    def meet(self, number: int, partner: Replica) -> None:
        """Measure one meeting, and learn from it as a node would."""
        case, i, j = self.finding.case, self._initiator.theta, partner.theta
        plan = self._planner.plan(Stream.PARAMS, is_dense=False)
        seed = hashlib.sha256(f"bench codecs|{number}".encode()).digest()
        whom = id(partner) if case.is_per_pair else 0
        directions = self._directions.setdefault(whom, Directions(case.omega, self._initiator.views))
        ranges = self._planner.ranges(plan)
        correction, num_bytes = _exchange(i, j, plan, seed, ranges, directions.bases(plan, seed))
        if case.has_power_step:
            again = replace(plan, omega=Omega.CACHED)
            power, _ = _exchange(i, j, again, seed, ranges, right_factors(correction))
            self._record(number, plan, power, 2 * num_bytes, partner)
        else:
            self._record(number, plan, correction, num_bytes, partner)
        self._planner.observe(plan, correction, is_own=True)
        directions.corrected(Stream.PARAMS, correction)

    def _record(self, number: int, plan: StreamPlan, correction: Correction, num_bytes: int, partner: Replica) -> None:
        if number < _FIRST_COUNTED:
            return
        gaps = [a - b for a, b in zip(self._initiator.theta, partner.theta, strict=True)]
        total = sum(float(gap.square().sum()) for gap in gaps)
        if self.finding.case.codec is Codec.AB:
            held = sum(_best(gap, rank) for gap, rank in zip(gaps, plan.ranks, strict=True))
            self.finding.best.append(held / total)
        correction.add_to_(gaps, -1.0)
        self.finding.captured.append(1 - sum(float(gap.square().sum()) for gap in gaps) / total)
        self.finding.bytes_sent.append(num_bytes)


def _exchange(
    i: Sequence[Tensor],
    j: Sequence[Tensor],
    plan: StreamPlan,
    seed: bytes,
    ranges: Sequence[float] | None,
    bases: Sequence[Tensor | None] | None,
) -> tuple[Correction, int]:
    """C, and the payload bytes of one end, mean of both."""
    offer = exchange.encode_offer(i, plan, seed, ranges=ranges, bases=bases)
    answer, _ = exchange.encode_answer(j, plan, seed, offer)
    close, correction = exchange.encode_close(i, plan, seed, offer, answer)
    return correction, (len(offer) + len(answer) + len(close)) // 2


def _best(gap: Tensor, rank: int) -> float:
    """Energy of the best approximation of this rank; all of it for a tensor that is sent whole."""
    if rank == 0:
        return 0.0
    if rank < 0 or matrix_shape(gap.shape) is None:
        return float(gap.square().sum())
    return float(torch.linalg.svdvals(gap.reshape(gap.shape[0], -1))[:rank].square().sum())
