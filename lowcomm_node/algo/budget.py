"""How many bytes each tensor of a stream gets in a meeting: the most expected energy of the difference for the budget.

Energy is squared Frobenius norm. What a meeting at rank r captures of a tensor's difference is modelled as the first r terms
of a geometric series, e_k = e_0 q^k; e_0 and q follow the spectra of past corrections. The choice is greedy, marginal rank by
marginal rank, which is optimal for falling e_k up to what does not fit at the end. Deterministic; no torch.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan, prod, sqrt

from lowcomm_node.algo.shapes import Shapes, matrix_shape, max_paying_rank
from lowcomm_node.algo.sizes import low_rank_bytes, num_coefficients, whole_bytes
from lowcomm_node.units import Dtype, Omega

__all__ = ["EnergyModel", "choose_counts"]

_PRIOR_DECAY = 0.9
"""q before anything was seen: a random sketch of rank 8 of a 128-dim difference then captures 0.57, of rank 16 0.81."""
_MEMORY = 0.7
"""Share of the old estimate that an observation leaves."""
_DECAY_RANGE = (0.05, 0.999)
_FLOOR_RATIO = 0.01
"""A tensor is never believed to differ by less than this share of the average per number: equal replicas, as at the start of a
run, would otherwise teach an energy of 0 that no waiting can raise."""
_MAX_GROWTH = 16.0
"""Most that one observation may raise an estimate: one partner that is far off shall not claim the budget for a hundred
meetings."""
_VOID_GROWTH = 16.0
"""A difference that did not fit its format is believed to be this many times larger in energy, four times in size, until one
fits again: for good, a few partners that declare everything void could drown the differences to all others."""
_MOST_VOIDS = 16
_ENERGY_RANGE = (1e-60, 1e60)
"""Keeps the rms of a number within fp32, whatever was seen."""


@dataclass(slots=True)
class _Tensor:
    """One tensor's size and what is believed of its difference."""

    numel: int
    max_rank: int
    """Largest rank that pays; 0 for vectors and for matrices too small for it."""
    num_directions: int
    """min(m, n); 1 for vectors."""
    matrix: tuple[int, int] | None
    """m, n; None of vectors."""
    energy: float = 0.0
    """Running mean of the energy of the whole difference, once it has been seen."""
    decay: float = _PRIOR_DECAY
    is_seen: bool = False
    missed: int = 0
    """Meetings since the tensor was last part of one."""
    voids: int = 0
    """Meetings in a row in which its difference did not fit."""

    def captured(self, rank: int) -> float:
        """Expected share of ``energy`` in the first ``rank`` directions."""
        return (1 - self.decay**rank) / (1 - self.decay**self.num_directions)

    def cost(self, rank: int, dtype: Dtype, omega: Omega) -> int:
        """Bytes of the busier direction."""
        if rank == 0:
            return 0
        if rank < 0 or self.matrix is None:
            return whole_bytes(num_coefficients(self.numel, dtype), dtype).largest_direction
        return low_rank_bytes(*self.matrix, rank, dtype, omega).largest_direction


_LEARNT: Mapping[str, type] = {"energy": float, "decay": float, "is_seen": bool, "missed": int, "voids": int}


class EnergyModel:
    """A running estimate of each tensor's energy spectrum, and the choice of ranks that follows from it.

    A tensor that was left out is expected to differ more the longer it waits: its energy counts 1 + missed times, as of a
    random walk. So each tensor whose cheapest form fits the budget has its turn, however little it holds.
    """

    def __init__(self, shapes: Shapes) -> None:
        self._tensors = [_describe(shape) for shape in shapes]
        self._energy_per_number = 1.0

    def observe(self, ranks: Sequence[int], spectra: Sequence[Sequence[float] | None]) -> None:
        """Learn from a meeting that took place with ``ranks``: -1 where ``spectra`` has one number for the whole tensor's energy.

        ``spectra`` are a Correction's. None for a tensor of rank other than 0 is a void one: its difference was larger than
        believed. Values that are not finite are passed over. Raises ValueError when the lengths are not those of the shapes.
        """
        if not len(ranks) == len(spectra) == len(self._tensors):
            raise ValueError(f"{len(ranks)} ranks and {len(spectra)} spectra for {len(self._tensors)} tensors")
        for tensor, rank, spectrum in zip(self._tensors, ranks, spectra, strict=True):
            if rank == 0 or spectrum is None or not all(isfinite(value) for value in spectrum):
                tensor.missed += 1
                tensor.voids += rank != 0 and spectrum is None
                continue
            _learn(tensor, rank, spectrum, _MAX_GROWTH * self._expected(tensor))
        seen = [tensor for tensor in self._tensors if tensor.is_seen]
        total = sum(tensor.energy for tensor in seen)
        if total > 0:
            # Tensors never seen keep the prior, energy proportional to size, in the unit that the others turned out to have.
            self._energy_per_number = total / sum(tensor.numel for tensor in seen)

    def estimate(self, ranks: Sequence[int], spectra: Sequence[Sequence[float] | None]) -> float:
        """Energy of the whole difference as one meeting tells it, from the same arguments as ``observe``; NaN where it tells nothing.

        Exact of tensors sent whole, and unbiased where coordinates were drawn; where directions were, what the rest of a geometric series
        would hold is added; a tensor left out or void counts as many times the average number as it has numbers.
        """
        energy, numel = 0.0, 0
        for tensor, rank, spectrum in zip(self._tensors, ranks, spectra, strict=True):
            if rank and spectrum is not None:
                energy += sum(spectrum) / (tensor.captured(rank) if rank > 0 else 1.0)
                numel += tensor.numel
        return energy * sum(tensor.numel for tensor in self._tensors) / numel if numel else nan

    def export(self) -> dict[str, list[float]]:
        """What was learnt, as plain numbers for a checkpoint: after a restart integers would otherwise have to find their range anew."""
        tensors = self._tensors
        return {
            "energy_per_number": [self._energy_per_number],
            **{name: [float(getattr(tensor, name)) for tensor in tensors] for name in _LEARNT},
        }

    def recall(self, exported: Mapping[str, Sequence[float]]) -> None:
        """Replace what was learnt by what ``export`` gave. Raises ValueError for anything else."""
        lengths = {"energy_per_number": 1, **dict.fromkeys(_LEARNT, len(self._tensors))}
        if {name: len(values) for name, values in exported.items()} != lengths:
            raise ValueError(f"what was learnt of {len(self._tensors)} tensors has another form")
        if not all(isfinite(value) and value >= 0 for values in exported.values() for value in values):
            raise ValueError("what was learnt has numbers that are negative or not finite")
        (self._energy_per_number,) = exported["energy_per_number"]
        for index, tensor in enumerate(self._tensors):
            for name, kind in _LEARNT.items():
                setattr(tensor, name, kind(exported[name][index]))

    def knows(self, ranks: Sequence[int]) -> bool:
        """Was a difference of each tensor that ``ranks`` sends seen before?"""
        return all(tensor.is_seen for tensor, rank in zip(self._tensors, ranks, strict=True) if rank)

    def ranges(self) -> tuple[float, ...]:
        """Per tensor the expected rms of a number of the next difference, positive."""
        low, high = _ENERGY_RANGE
        energies = [self._expected(tensor) * (1 + tensor.missed) / max(tensor.numel, 1) for tensor in self._tensors]
        return tuple(sqrt(min(max(energy, low), high)) for energy in energies)

    def choose_ranks(self, budget_bytes: int, dtype: Dtype, omega: Omega = Omega.SEEDED) -> tuple[int, ...]:
        """Ranks for the next plan of codec ab: -1 dense, 0 left out, r > 0 low rank; never more than ``budget_bytes`` either way.

        Costs are exact, scales, ranges and checksums included. Low rank only where 2 r (m + n) < m n. Vectors go dense before
        anything else, unless that would keep out a matrix which the budget could carry; then they compete like the rest.
        """
        ranks = [0] * len(self._tensors)
        left = budget_bytes
        vectors = [index for index, tensor in enumerate(self._tensors) if tensor.matrix is None]
        vector_cost = sum(self._tensors[index].cost(-1, dtype, omega) for index in vectors)
        cheapest = [_cheapest(tensor, dtype, omega) for tensor in self._tensors if tensor.matrix is not None]
        widest = max((cost for cost in cheapest if cost <= left), default=0)
        if vector_cost + widest <= left:
            for index in vectors:
                ranks[index] = -1
            left -= vector_cost
        offers = [o for index in range(len(ranks)) if ranks[index] == 0 for o in self._offers(index, 0, dtype, omega)]
        heapq.heapify(offers)
        while offers:
            _, index, rank_before, rank, cost = heapq.heappop(offers)
            if ranks[index] != rank_before or cost > left:
                continue
            ranks[index] = rank
            left -= cost
            if rank > 0:
                for offer in self._offers(index, rank, dtype, omega):
                    heapq.heappush(offers, offer)
        return tuple(ranks)

    def _offers(self, index: int, rank: int, dtype: Dtype, omega: Omega) -> list[tuple[float, int, int, int, int]]:
        """The next steps from ``rank``: one more rank, or the whole tensor; as (-energy per byte, index, from, to, cost)."""
        tensor = self._tensors[index]
        energy = self._expected(tensor) * (1 + tensor.missed)
        captured = tensor.captured(rank)
        steps = [(-1, 1.0 - captured)]
        if rank < tensor.max_rank:
            steps.append((rank + 1, tensor.captured(rank + 1) - captured))
        spent = tensor.cost(rank, dtype, omega)
        costs = [(to, gain, tensor.cost(to, dtype, omega) - spent) for to, gain in steps]
        return [(-energy * gain / cost, index, rank, to, cost) for to, gain, cost in costs if cost > 0]

    def _expected(self, tensor: _Tensor) -> float:
        """Expected energy in a meeting that follows a meeting."""
        average = tensor.numel * self._energy_per_number
        energy = max(tensor.energy, _FLOOR_RATIO * average) if tensor.is_seen else average
        return min(energy * _VOID_GROWTH ** min(tensor.voids, _MOST_VOIDS), _ENERGY_RANGE[1])


def choose_counts(shapes: Shapes, budget_bytes: int, dtype: Dtype) -> tuple[int, ...]:
    """Ranks for a plan of codec sparse: the same share of every tensor, at least one number, in at most ``budget_bytes`` either way.

    -1 where all of a tensor fits. A budget that has not room for one number of each leaves out the last tensors.
    """
    sizes = [prod(shape) for shape in shapes]

    def counts(share: float) -> list[int]:
        return [max(1, int(share * size)) if size else 0 for size in sizes]

    def cost(chosen: Sequence[int]) -> int:
        numbers = [
            num_coefficients(size, dtype) if count == size else count for count, size in zip(chosen, sizes, strict=True)
        ]
        return sum(whole_bytes(count, dtype).largest_direction for count in numbers if count)

    low, high = 0.0, 1.0
    if cost(counts(high)) <= budget_bytes:
        low = high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(counts(middle)) <= budget_bytes else (low, middle)
    chosen = counts(low)
    while cost(chosen) > budget_bytes:
        chosen[max(index for index, count in enumerate(chosen) if count)] = 0
    return tuple(-1 if count == size and size else count for count, size in zip(chosen, sizes, strict=True))


def _describe(shape: Sequence[int]) -> _Tensor:
    numel = prod(shape)
    matrix = matrix_shape(shape)
    if matrix is None:
        return _Tensor(numel=numel, max_rank=0, num_directions=1, matrix=None)
    return _Tensor(numel=numel, max_rank=max_paying_rank(*matrix), num_directions=max(1, min(matrix)), matrix=matrix)


def _cheapest(tensor: _Tensor, dtype: Dtype, omega: Omega) -> int:
    """Bytes of the smallest part of a matrix that can be sent."""
    return tensor.cost(1 if tensor.max_rank else -1, dtype, omega)


def _learn(tensor: _Tensor, rank: int, spectrum: Sequence[float], ceiling: float) -> None:
    """Move the estimates towards one meeting's spectrum, but no further than ``ceiling``; the first sets them."""
    old_share = _MEMORY if tensor.is_seen else 0.0
    if rank > 1:
        # Two halves of a geometric series of ratio q, ``shift`` terms apart, have sums of ratio q^shift.
        half = len(spectrum) // 2
        shift = len(spectrum) - half
        head, tail = sum(spectrum[:half]), sum(spectrum[shift:])
        if head > 0:
            low, high = _DECAY_RANGE
            fitted = min(max((tail / head) ** (1 / shift), low), high)
            tensor.decay = old_share * tensor.decay + (1 - old_share) * fitted
    whole = sum(spectrum) if rank < 0 else sum(spectrum) / tensor.captured(rank)
    if tensor.is_seen:
        whole = min(whole, ceiling)
    tensor.energy = old_share * tensor.energy + (1 - old_share) * whole
    tensor.is_seen = True
    tensor.missed = tensor.voids = 0
