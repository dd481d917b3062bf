"""Dion over several replicas: what they average makes them one, whatever each has in its own gradient and momentum."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lowcomm_node.algo.dion import dion_rounds, dion_step_, distributed_dion_step_, seeded_basis
from lowcomm_node.algo.group import ALONE, mean_all_

_LR, _MU, _WEIGHT_DECAY = 0.02, 0.95, 0.1
_REPLICAS = 4
_FP64 = 1e-10
_BASIS_FP64 = 1e-8
"""Q's columns for close singular values are less certain than X, in which they count little."""


def _error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).mean(0)


class Shared:
    """X and Q of a group, and an M for each of its replicas."""

    def __init__(self, shape: tuple[int, int], r: int, num_replicas: int, dtype: torch.dtype = torch.float64) -> None:
        self.X = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
        self.Q = seeded_basis(b"start", min(shape), r).to(dtype)
        self.Ms = [torch.zeros_like(self.X) for _ in range(num_replicas)]

    def step(self, Gs: Sequence[Tensor], seed: bytes = b"null") -> None:
        distributed_dion_step_(self.X, self.Ms, self.Q, Gs, lr=_LR, mu=_MU, weight_decay=_WEIGHT_DECAY, seed=seed)


class Replica:
    """One replica with everything of its own, stepping in lockstep with others."""

    def __init__(self, shape: tuple[int, int], r: int, dtype: torch.dtype) -> None:
        shared = Shared(shape, r, 1, dtype)
        self.X, self.Q, self.M = shared.X, shared.Q, shared.Ms[0]


def _step_together(replicas: Sequence[Replica], Gs: Sequence[Tensor], seed: bytes) -> None:
    """Every replica takes its own step, halted for the means; all get the same bits, as over a network."""
    rounds = [
        dion_rounds(one.X, [one.M], one.Q, [G], lr=_LR, mu=_MU, weight_decay=_WEIGHT_DECAY, seed=seed)
        for one, G in zip(replicas, Gs, strict=True)
    ]
    for parts in zip(*rounds, strict=True):
        mean = _mean(parts)
        for part in parts:
            part.copy_(mean)


def _unequal_gradients(
    shape: tuple[int, int], count: int, dtype: torch.dtype = torch.float64, num_replicas: int = _REPLICAS
) -> list[list[Tensor]]:
    """Per step one gradient for each replica: something common, and what the replica's own data adds every time."""
    generator = torch.Generator().manual_seed(2)
    shards = [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(num_replicas)]
    return [[shard + torch.randn(shape, generator=generator, dtype=dtype) for shard in shards] for _ in range(count)]


@pytest.mark.parametrize("shape", [(24, 16), (16, 24)])
def test_group_equals_one_replica_with_the_mean_gradient(shape: tuple[int, int]) -> None:
    """200 steps of four replicas with unequal gradients: X, Q and the mean of M_i are those of central Dion."""
    group, central = Shared(shape, 4, _REPLICAS), Shared(shape, 4, 1)

    for Gs in _unequal_gradients(shape, 200):
        group.step(Gs)
        central.step([_mean(Gs)])

    assert _error(group.X, central.X) < _FP64
    assert _error(group.Q, central.Q) < _BASIS_FP64
    assert _error(_mean(group.Ms), central.Ms[0]) < _FP64


def test_deviations_of_momentum_are_what_gradients_differed_by() -> None:
    """M_i - mean M = sum over steps of G_i - mean G: never damped, and hence a monitor of drift."""
    group = Shared((24, 16), 4, _REPLICAS)
    expected = [torch.zeros(24, 16, dtype=torch.float64) for _ in range(_REPLICAS)]

    for Gs in _unequal_gradients((24, 16), 50):
        group.step(Gs)
        expected = [total + G - _mean(Gs) for total, G in zip(expected, Gs, strict=True)]

    for M, total in zip(group.Ms, expected, strict=True):
        assert _error(M - _mean(group.Ms), total) < _FP64


@given(seed=st.integers(0, 1000))
def test_averaging_momentum_in_pairs_is_neutral(seed: int) -> None:
    """Any two replicas may average their M between any two steps: X and Q do not notice."""
    generator = torch.Generator().manual_seed(seed)
    plain, gossip = Shared((12, 8), 3, _REPLICAS), Shared((12, 8), 3, _REPLICAS)

    for Gs in _unequal_gradients((12, 8), 20):
        plain.step(Gs)
        gossip.step(Gs)
        i, j = torch.randperm(_REPLICAS, generator=generator)[:2].tolist()
        mean = (gossip.Ms[i] + gossip.Ms[j]) / 2
        gossip.Ms[i].copy_(mean)
        gossip.Ms[j].copy_(mean)

    assert _error(gossip.X, plain.X) < _FP64
    assert _error(gossip.Q, plain.Q) < _FP64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_replicas_stay_identical_bit_for_bit(dtype: torch.dtype) -> None:
    """Each with X and Q of its own, one without any gradient, rank lost for a while: X and Q are the same bits on all."""
    shape, r = (24, 16), 6
    replicas = [Replica(shape, r, dtype) for _ in range(_REPLICAS)]

    for step, Gs in enumerate(_unequal_gradients(shape, 20, torch.float32)):
        Gs[0].zero_()
        if 5 <= step < 10:  # null columns, to be filled alike by all
            for one, G in zip(replicas, Gs, strict=True):
                one.M.zero_()
                G[2:] = 0
        _step_together(replicas, Gs, seed=bytes([step]))

        assert all(torch.equal(one.X, replicas[0].X) and torch.equal(one.Q, replicas[0].Q) for one in replicas)
    assert not torch.equal(replicas[0].M, replicas[1].M)


def test_list_form_is_the_lockstep_of_replicas() -> None:
    """One process with four momenta does what four replicas do that exchange means."""
    shape = (16, 24)
    replicas, shared = [Replica(shape, 4, torch.float64) for _ in range(_REPLICAS)], Shared(shape, 4, _REPLICAS)

    for Gs in _unequal_gradients(shape, 20):
        _step_together(replicas, Gs, seed=b"")
        shared.step(Gs)

    assert _error(shared.X, replicas[0].X) < _FP64
    assert _error(shared.Q, replicas[0].Q) < _FP64
    for M, one in zip(shared.Ms, replicas, strict=True):
        assert _error(M, one.M) < _FP64


def test_gradients_that_cancel_move_nothing() -> None:
    """Mean gradient 0: X only decays and Q stays, though every replica has a momentum; nothing is decided on its own."""
    group = Shared((24, 16), 4, 2)
    X, Q = group.X.clone(), group.Q.clone()
    (G,) = _unequal_gradients((24, 16), 1)[0][:1]

    group.step([G, -G])

    assert torch.equal(group.Q, Q)
    assert _error(group.X, X * (1 - _LR * _WEIGHT_DECAY)) < _FP64
    assert torch.equal(group.Ms[0], G)
    assert torch.equal(group.Ms[1], -G)


class _Doubler:
    """A group of two whose other member always has three times of everything, so that means are twice one's own."""

    size = 2

    def __init__(self) -> None:
        self.num_calls = 0

    def mean_(self, tensor: Tensor) -> None:
        assert tensor.is_contiguous()
        self.num_calls += 1
        tensor.mul_(2)


@pytest.mark.parametrize("shape", [(24, 16), (16, 24)])
def test_step_asks_the_group_for_two_means(shape: tuple[int, int]) -> None:
    """B Q and R go through the group: with a partner of thrice the gradient, the step is that of twice the gradient."""
    ours, expected, group = Shared(shape, 4, 1), Shared(shape, 4, 1), _Doubler()
    ((G,),) = _unequal_gradients(shape, 1, num_replicas=1)

    dion_step_(ours.X, ours.Ms[0], ours.Q, G, lr=_LR, mu=_MU, weight_decay=_WEIGHT_DECAY, seed=b"", group=group)
    expected.step([2 * G])

    assert group.num_calls == 2
    assert _error(ours.X, expected.X) < _FP64
    assert _error(ours.Ms[0] - G, expected.Ms[0] - 2 * G) < _FP64  # the common P R^T, not one's own


def test_many_tensors_in_one_message() -> None:
    """``mean_all_`` gives every tensor its mean by a single call, and alone does nothing."""
    tensors = [torch.ones(3, 2), torch.full((4,), 2.0), torch.zeros(1, 5)]
    group = _Doubler()

    mean_all_(group, tensors)
    mean_all_(group, [])
    mean_all_(ALONE, tensors)

    assert group.num_calls == 1
    assert [tensor.unique().tolist() for tensor in tensors] == [[2.0], [4.0], [0.0]]
    assert [tensor.shape for tensor in tensors] == [(3, 2), (4,), (1, 5)]


def test_every_replica_has_a_gradient() -> None:
    """As many gradients as momenta, and at least one."""
    for num_momenta, num_gradients in ((2, 1), (0, 0)):
        group = Shared((4, 3), 2, num_momenta)

        with pytest.raises(ValueError, match="every replica has one of each"):
            group.step([torch.ones(4, 3, dtype=torch.float64)] * num_gradients)
