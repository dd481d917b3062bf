"""The average of several replicas, how far they lie apart, and sketches from which the latter can be told without the weights."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["RunningMean", "count_sketch", "mean_state", "spread"]

State = Mapping[str, Tensor]
"""Tensors by name, as in a state dict."""

_CHUNK = 1 << 20
"""Coordinates hashed at a time; bounds the memory of a sketch."""

# Multipliers and shifts of the finaliser of splitmix64 (Steele, Lea, Flood 2014), as signed 64-bit numbers.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


@torch.no_grad()
def mean_state(states: Sequence[State]) -> dict[str, Tensor]:
    """The plain average of replicas, tensor by tensor: summed in fp64, returned in each tensor's own type.

    Raises ValueError for no states, or when names or shapes differ.
    """
    _check_alike(states)
    mean: dict[str, Tensor] = {}
    for name, first in states[0].items():
        total = first.double()
        for state in states[1:]:
            total = total + state[name].double()
        mean[name] = (total / len(states)).to(first.dtype)
    return mean


@torch.no_grad()
def spread(states: Sequence[State]) -> float:
    """Root mean square distance of N replicas from their mean, per parameter: sqrt(sum_i |theta_i - mean|^2 / (N P)).

    NoLoCo's (2506.10911) standard deviation between replicas, over all P parameters at once. Raises ValueError as ``mean_state``.
    """
    _check_alike(states)
    squared = 0.0
    num_parameters = 0
    for name, first in states[0].items():
        stack = torch.stack([state[name].double() for state in states])
        squared += float((stack - stack.mean(0)).square().sum())
        num_parameters += first.numel()
    return math.sqrt(squared / (len(states) * max(num_parameters, 1)))


class RunningMean:
    """``mean_state`` and ``spread`` of replicas that come one after another, none of which is kept.

    Sums are fp64. The squares are Welford's (1962): with m_k the mean of the first k, sum_i |x_i - m_n|^2 grows by
    (x_k - m_{k-1}) (x_k - m_k) with each. Memory: 8 bytes a number, and one tensor more while a replica is taken in.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, Tensor] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._squared = 0.0

    @torch.no_grad()
    def add(self, state: State) -> None:
        """Take in one more. Raises ValueError, and takes in nothing of it, when its names or shapes differ from the others'."""
        if self.count:
            _check_alike((self._sums, state))
        for name, tensor in state.items():
            new = tensor.double()
            before = self._sums.get(name)
            if before is None:
                self._sums[name], self._dtypes[name] = new.clone(), tensor.dtype
                continue
            away = new - before / self.count
            before += new
            self._squared += float(away.mul_(new - before / (self.count + 1)).sum())
        self.count += 1

    @torch.no_grad()
    def mean(self) -> dict[str, Tensor]:
        """As ``mean_state``, the same numbers. Raises ValueError before the first replica."""
        if not self.count:
            raise ValueError("no replicas to average")
        return {name: (total / self.count).to(self._dtypes[name]) for name, total in self._sums.items()}

    @property
    def spread(self) -> float:
        """As ``spread``, to rounding; 0.0 of nothing."""
        num_parameters = sum(total.numel() for total in self._sums.values())
        return math.sqrt(max(0.0, self._squared) / max(1, self.count * num_parameters))


@torch.no_grad()
def count_sketch(tensors: Iterable[Tensor], dim: int = 64, seed: int = 0) -> Tensor:
    """A linear map of all parameters to ``dim`` numbers (fp32, CPU), the same map on every node that uses the same seed.

    Each coordinate goes with a sign to one of ``dim`` sums, both taken from a hash of (seed, tensor's position, coordinate)
    in integer arithmetic (Charikar, Chen, Farach-Colton 2002). For any x, |sketch(x)|^2 has mean |x|^2 over seeds, with
    a relative standard deviation of about sqrt(2 / dim). Summed in fp64.
    """
    sums = torch.zeros(dim, dtype=torch.float64)
    for position, tensor in enumerate(tensors):
        flat = tensor.reshape(-1)
        key = _mix(_mix(torch.tensor([seed])) + position)
        for start in range(0, flat.numel(), _CHUNK):
            part = flat[start : start + _CHUNK]
            index = torch.arange(start, start + part.numel(), device=part.device)
            mixed = _mix(index + key.to(part.device))
            sign = (mixed & 1).mul_(2).sub_(1)
            bucket = _shift_right(mixed, 1).remainder_(dim)
            local = torch.zeros(dim, dtype=torch.float64, device=part.device)
            sums += local.index_add_(0, bucket, part.double() * sign).cpu()
    return sums.to(torch.float32)


def _check_alike(states: Sequence[State]) -> None:
    if not states:
        raise ValueError("no replicas to compare")
    shapes = {name: tensor.shape for name, tensor in states[0].items()}
    for state in states[1:]:
        if {name: tensor.shape for name, tensor in state.items()} != shapes:
            raise ValueError("replicas differ in names or shapes")


def _mix(value: Tensor) -> Tensor:
    """A bijective scrambling of int64; multiplication wraps modulo 2^64 on every device."""
    value = (value + 1) * _GOLDEN
    value = (value ^ _shift_right(value, 30)) * _MIX_1
    value = (value ^ _shift_right(value, 27)) * _MIX_2
    return value ^ _shift_right(value, 31)


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Shift as if unsigned: torch's own shift copies the sign bit."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
