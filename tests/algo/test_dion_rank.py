"""Dion where rank is short: bases to start from, null columns, bad condition, and what is refused."""

import math

import pytest
import torch

from lowcomm_node.algo import dion
from lowcomm_node.algo.dion import dion_step_, rank_of, seeded_basis
from tests.algo.dion_states import LR, MU, WEIGHT_DECAY, error, gradients, start, update


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("kind", ["normal", "condition 1e7", "duplicates", "one row", "zero", "tiny"])
def test_factor_is_orthonormal(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    """P^T P = I and P T = Y with T's diagonal >= 0, whatever Y is, rank or no rank."""
    generator = torch.Generator().manual_seed(3)
    Y = torch.randn(64, 12, generator=generator, dtype=torch.float64)
    if kind == "condition 1e7":
        U, _, V = torch.linalg.svd(Y, full_matrices=False)
        Y = U * torch.logspace(0, -7, 12, dtype=torch.float64) @ V
    elif kind == "duplicates":
        Y[:, 5:9] = Y[:, 4:5]
    elif kind == "one row":
        Y[:-1] = 0
    elif kind == "zero":
        Y.zero_()
    elif kind == "tiny":
        Y *= 1e-30
    Y = Y.to(dtype)

    P = dion._orthonormal(Y)

    assert P.dtype == dtype
    T = P.double().T @ Y.double()
    assert (P.double().T @ P.double() - torch.eye(12)).abs().max() < tolerance
    assert (T.diagonal() >= -tolerance * Y.double().norm()).all()
    assert (P.double() @ T - Y.double()).norm() <= 10 * tolerance * Y.double().norm()


def test_without_gradients_only_weight_decay_acts() -> None:
    """G = 0 from the start: X shrinks by 1 - lr wd a step (the bare lr), M stays 0, Q stays as it is."""
    state = start((24, 16), 4, torch.float32)
    before = state.clone()

    for _ in range(10):
        state.step(torch.zeros(24, 16))

    assert error(state.X, before.X * (1 - LR * WEIGHT_DECAY) ** 10) < 1e-6
    assert torch.equal(state.M, before.M)
    assert torch.equal(state.Q, before.Q)


@pytest.mark.parametrize("shape", [(64, 48), (48, 64)])
@pytest.mark.parametrize("num_rows", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rank_is_regained(num_rows: int, shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Gradients of k < r rows for 10 steps: the update has length sqrt(k) and leaves dead rows alone; then full rank at once."""
    r = 8
    state = start(shape, r, dtype)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-9
    for step, G in enumerate(gradients(shape, 10, dtype)):
        G[num_rows:] = 0
        before = state.X.clone()
        state.step(G, weight_decay=0.0, seed=step.to_bytes(4, "little"))

        assert float(update(before, state.X).norm()) == pytest.approx(math.sqrt(num_rows), rel=1e-3)
        assert update(before, state.X)[num_rows:].norm() < 1e-3
        assert torch.allclose(state.Q.norm(dim=0), torch.ones(r, dtype=dtype), atol=tolerance)
        assert torch.linalg.matrix_rank(state.Q) == r

    for G in gradients(shape, 2, dtype, seed=7):
        before = state.X.clone()
        state.step(G, weight_decay=0.0)

        assert float(update(before, state.X).norm()) == pytest.approx(math.sqrt(r), rel=1e-3)


def test_rank_is_regained_among_dead_rows() -> None:
    """Q on inputs that have died, and dead rows where Householder completes P: B^T P stays null for ever, were Q not re-seeded."""
    state = start((64, 48), 6)
    state.Q[:, 1:] = torch.eye(48, 5, dtype=torch.float64)
    lengths = []
    for step, G in enumerate(gradients((64, 48), 3)):
        G[:40] = 0
        G[:, :8] = 0
        before = state.X.clone()
        state.step(G, weight_decay=0.0, seed=bytes([step]))
        lengths.append(float(update(before, state.X).norm()))

    assert lengths == pytest.approx([1.0, math.sqrt(6), math.sqrt(6)], rel=1e-6)


@pytest.mark.parametrize("kind", ["duplicate rows", "duplicate columns", "condition 1e7", "one entry"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ill_conditioned_gradients_leave_finite_numbers(kind: str, dtype: torch.dtype) -> None:
    """Five steps on one bad gradient: all finite, Q's columns of length one, the update no longer than sqrt(r)."""
    (G,) = gradients((24, 16), 1)
    if kind == "duplicate rows":
        G[1:] = G[0]
    elif kind == "duplicate columns":
        G[:, 2:] = G[:, :1]
    elif kind == "condition 1e7":
        U, _, V = torch.linalg.svd(G, full_matrices=False)
        G = U * torch.logspace(0, -7, 16, dtype=torch.float64) @ V
    else:
        G.zero_()[3, 5] = 1.0
    state = start((24, 16), 6, dtype)
    state.X = state.X.float()

    for step in range(5):
        before = state.X.clone()
        state.step(G.to(dtype), weight_decay=0.0, seed=bytes([step]))

        assert all(bool(tensor.isfinite().all()) for tensor in state.tensors())
        assert torch.allclose(state.Q.float().norm(dim=0), torch.ones(6), atol=0.02)
        assert float(update(before, state.X).norm()) < math.sqrt(6) * (1 + 1e-3)


def test_small_directions_count_as_much_as_large_ones() -> None:
    """Singular values from 1 to 1e-4 in fp32, every one well above rounding: the update has them all at full length."""
    U, _, V = torch.linalg.svd(gradients((24, 16), 1)[0], full_matrices=False)
    G = U * torch.logspace(0, -4, 16, dtype=torch.float64) @ V
    state = start((24, 16), 16, torch.float32)
    before = state.X.clone()

    state.step(G.float(), weight_decay=0.0)

    assert float(update(before, state.X).norm()) == pytest.approx(4.0, rel=1e-4)


def test_first_basis_is_the_same_everywhere() -> None:
    """A golden vector of ``seeded_basis``, unit columns, and another basis for another seed or shape."""
    golden = [[0.24513828754, 0.02544948645], [0.84005999565, 0.91447860003], [-0.48394879698, 0.40383321047]]

    assert torch.equal(seeded_basis(b"lowcomm", 3, 2), torch.tensor(golden))
    assert torch.allclose(seeded_basis(b"a", 50, 50).norm(dim=0), torch.ones(50))
    assert torch.linalg.matrix_rank(seeded_basis(b"a", 50, 50)) == 50
    assert not torch.equal(seeded_basis(b"a", 50, 5), seeded_basis(b"b", 50, 5))
    assert not torch.equal(seeded_basis(b"a", 50, 5), seeded_basis(b"a", 50, 6)[:, :5])


@pytest.mark.parametrize(
    ("shape", "fraction", "multiple", "rank"),
    [
        ((64, 32), 0.25, 1, 8),
        ((32, 64), 0.25, 1, 8),
        ((64, 32), 0.25, 5, 10),
        ((64, 32), 0.25, 64, 32),
        ((64, 32), 1.0, 1, 32),
        ((64, 32), 1e-6, 1, 1),
        ((300, 100), 0.07, 1, 7),
        ((16, 3, 3, 3), 0.5, 1, 8),
    ],
)
def test_rank(shape: tuple[int, ...], fraction: float, multiple: int, rank: int) -> None:
    """A share of the short side, rounded up to a multiple, at most the whole side; 0.07 of 100 is 7, not 8."""
    assert rank_of(shape, fraction, multiple) == rank


@pytest.mark.parametrize("shape", [(), (5,), (0, 3)])
def test_no_rank_without_a_matrix(shape: tuple[int, ...]) -> None:
    """Vectors, scalars and empty matrices are refused."""
    with pytest.raises(ValueError, match="no matrix"):
        rank_of(shape, 0.5)


@pytest.mark.parametrize(
    ("X", "G", "Q", "sentence"),
    [
        ((4, 3, 2), (4, 3, 2), (3, 2), "updates matrices"),
        ((4, 3), (3, 4), (3, 2), "has not the parameter's shape"),
        ((4, 3), (4, 3), (4, 2), "basis of shape"),
        ((4, 3), (4, 3), (3, 4), "basis of shape"),
        ((4, 3), (4, 3), (3, 0), "basis of shape"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    X: tuple[int, ...], G: tuple[int, ...], Q: tuple[int, ...], sentence: str
) -> None:
    """Before anything is changed."""
    M = torch.zeros(X)

    with pytest.raises(ValueError, match=sentence):
        dion_step_(torch.ones(X), M, torch.ones(Q), torch.ones(G), lr=1.0, mu=MU, weight_decay=0.0, seed=b"")

    assert not M.any()
