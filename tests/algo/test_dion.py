"""Dion's step for one replica: equal to the equations, and the properties that follow from them."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lowcomm_node.algo import dion
from lowcomm_node.algo.dion import dion_rounds, dion_step_, rank_of, reference_dion_step, seeded_basis

_SHAPES = [(24, 16), (16, 24), (20, 20), (30, 3)]
_LR, _MU, _WEIGHT_DECAY = 0.02, 0.95, 0.1
_FP64 = 1e-12
_FP32 = 1e-4
"""Relative; Q's smaller columns are the ones that come near it."""


@dataclass
class State:
    """X, M and Q of one matrix."""

    X: Tensor
    M: Tensor
    Q: Tensor

    def clone(self) -> "State":
        return State(self.X.clone(), self.M.clone(), self.Q.clone())

    def step(self, G: Tensor, *, lr: float = _LR, weight_decay: float = _WEIGHT_DECAY, seed: bytes = b"null") -> None:
        dion_step_(self.X, self.M, self.Q, G, lr=lr, mu=_MU, weight_decay=weight_decay, seed=seed)

    def factors(self, G: Tensor, *, lr: float = _LR) -> tuple[Tensor, Tensor]:
        """P and R of the step that this takes."""
        rounds = dion_rounds(self.X, [self.M], self.Q, [G], lr=lr, mu=_MU, weight_decay=_WEIGHT_DECAY, seed=b"")
        P = dion._orthonormal(next(rounds))
        R = next(rounds).clone()
        assert list(rounds) == []
        return P, R

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.X, self.M, self.Q


def _start(shape: tuple[int, int], r: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> State:
    X = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    return State(X, torch.zeros_like(X), seeded_basis(b"start", min(shape), r).to(dtype))


def _gradients(shape: tuple[int, int], count: int, dtype: torch.dtype = torch.float64, seed: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def _error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def _update(before: Tensor, after: Tensor) -> Tensor:
    """P Q^T as it was applied, without weight decay."""
    m, n = before.shape
    return (before - after).double() / (_LR * math.sqrt(m / n))


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, _FP64), (torch.float32, _FP32)])
def test_fast_form_equals_the_equations(shape: tuple[int, int], dtype: torch.dtype, tolerance: float) -> None:
    """Twenty steps, tall, wide, square and thin: X, M and Q follow the fp64 form within rounding."""
    ours = _start(shape, rank_of(shape, 0.4), dtype)
    reference = ours.clone().tensors()

    for G in _gradients(shape, 20, dtype):
        ours.step(G)
        reference = reference_dion_step(*reference, G, lr=_LR, mu=_MU, weight_decay=_WEIGHT_DECAY)

        for tensor, expected in zip(ours.tensors(), reference, strict=True):
            assert tensor.dtype == dtype
            assert _error(tensor, expected) < tolerance


def test_state_may_be_coarser_than_the_arithmetic() -> None:
    """With M and Q kept in bf16 the step is the fp64 one up to bf16 rounding of what is kept, X's included when it is bf16."""
    coarse = _start((24, 16), 4, torch.bfloat16)
    mixed = State(coarse.X.float(), coarse.M.clone(), coarse.Q.clone())
    (G,) = _gradients((24, 16), 1, torch.bfloat16)
    expected = reference_dion_step(*coarse.clone().tensors(), G, lr=_LR, mu=_MU, weight_decay=_WEIGHT_DECAY)

    for state in (coarse, mixed):
        state.step(G)

        assert state.M.dtype == state.Q.dtype == torch.bfloat16
        for tensor, theirs in zip(state.tensors(), expected, strict=True):
            assert _error(tensor, theirs) < 0.005
    assert mixed.X.dtype is torch.float32
    assert _error(mixed.X, expected[0]) < _FP32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_repeat_bit_for_bit(dtype: torch.dtype) -> None:
    """A run that is stopped, copied and gone on with ends in the same bits."""
    first, gradients = _start((24, 16), 4, dtype), _gradients((24, 16), 10, dtype)
    for G in gradients[:5]:
        first.step(G)
    second = first.clone()

    for G in gradients[5:]:
        first.step(G)
        second.step(G)

    for ours, theirs in zip(first.tensors(), second.tensors(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, _FP64), (torch.float32, 1e-6)])
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


@given(m=st.integers(1, 20), n=st.integers(1, 20), data=st.data())
def test_update_has_the_length_of_its_rank(m: int, n: int, data: st.DataObject) -> None:
    """|P Q^T|_F = sqrt(r) and 1 <= |P Q^T|_op <= sqrt(r), whatever the shape, the rank and the gradient's size."""
    r = data.draw(st.integers(1, min(m, n)))
    scale = data.draw(st.sampled_from([1e-12, 1.0, 1e12]))
    state = _start((m, n), r, seed=m * 100 + n)
    before = state.X.clone()

    state.step(_gradients((m, n), 1, seed=r)[0] * scale, weight_decay=0.0)

    update = _update(before, state.X)
    assert float(update.norm()) == pytest.approx(math.sqrt(r), rel=1e-9)
    assert 1 - 1e-9 <= float(torch.linalg.matrix_norm(update, 2)) <= math.sqrt(r) * (1 + 1e-9)
    assert torch.allclose(state.Q.norm(dim=0), torch.ones(r, dtype=torch.float64))


def test_error_feedback_keeps_what_was_not_used() -> None:
    """On span(P) mu of B stays in M, and outside it all of B; at full rank M = mu B."""
    for r in (4, 16):
        state = _start((24, 16), r)
        state.M += _gradients((24, 16), 1, seed=5)[0]
        (G,) = _gradients((24, 16), 1)
        B = state.M + G

        P, _ = state.factors(G)

        captured = P @ P.T
        assert _error(captured @ state.M, _MU * captured @ B) < 1e-14
        assert float((state.M - captured @ state.M - (B - captured @ B)).norm()) < 1e-14 * float(B.norm())
        assert r < 16 or _error(state.M, _MU * B) < 1e-14


@pytest.mark.parametrize("shape", [(24, 16), (16, 24)])
def test_nothing_is_lost_or_counted_twice(shape: tuple[int, int]) -> None:
    """M_T = sum G - (1 - mu) sum P R^T over 200 steps, across a checkpoint and a step that broke off half-way."""
    state = _start(shape, 4)
    expected = torch.zeros(shape, dtype=torch.float64)

    for index, G in enumerate(_gradients(shape, 200)):
        if index == 100:
            state = state.clone()
        if index == 150:  # the other members of a group went away after the first of two means
            before = state.clone()
            next(dion_rounds(state.X, [state.M], state.Q, [G], lr=_LR, mu=_MU, weight_decay=_WEIGHT_DECAY, seed=b""))
            expected += G
            assert torch.equal(state.X, before.X)
            assert torch.equal(state.Q, before.Q)
            continue
        P, R = state.factors(G)
        used = P @ R.T
        expected += G - (1 - _MU) * (used if shape[0] >= shape[1] else used.T)

    assert _error(state.M, expected) < _FP64


@given(signs=st.lists(st.sampled_from([-1.0, 1.0]), min_size=4, max_size=4))
def test_signs_of_the_basis_do_not_matter(signs: list[float]) -> None:
    """Q diag(+-1) in place of Q: the same X and M, and the signs stay with Q."""
    plain, gradients = _start((24, 16), 4), _gradients((24, 16), 5)
    turned = plain.clone()
    turned.Q *= torch.tensor(signs, dtype=torch.float64)

    for G in gradients:
        plain.step(G)
        turned.step(G)

    assert _error(turned.X, plain.X) < _FP64
    assert _error(turned.M, plain.M) < _FP64
    assert _error(turned.Q * torch.tensor(signs, dtype=torch.float64), plain.Q) < _FP64


def test_transposed_matrix_takes_the_transposed_step() -> None:
    """A wide matrix is its tall transpose, but for the factor sqrt(m/n) of its own shape."""
    tall = _start((24, 16), 4)
    wide = State(tall.X.T.contiguous(), tall.M.T.contiguous(), tall.Q.clone())

    for G in _gradients((24, 16), 20):
        tall.step(G, weight_decay=0.0)
        wide.step(G.T.contiguous(), lr=_LR * 24 / 16, weight_decay=0.0)

    assert _error(wide.X.T, tall.X) < _FP64
    assert _error(wide.M.T, tall.M) < _FP64
    assert _error(wide.Q, tall.Q) < _FP64


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, _FP64), (torch.float32, _FP32)])
@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1e3, 1e25])
def test_scale_of_gradients_does_not_matter(scale: float, dtype: torch.dtype, tolerance: float) -> None:
    """All G times c > 0: the same X, down to where the squares of gradients vanish in their type and up to where they overflow."""
    plain, scaled = _start((24, 16), 4, dtype), _start((24, 16), 4, dtype)

    for G in _gradients((24, 16), 20, dtype):
        plain.step(G)
        scaled.step(G * scale)

    assert _error(scaled.X, plain.X) < tolerance
    assert _error(scaled.Q, plain.Q) < tolerance


def test_without_gradients_only_weight_decay_acts() -> None:
    """G = 0 from the start: X shrinks by 1 - lr wd a step (the bare lr), M stays 0, Q stays as it is."""
    state = _start((24, 16), 4, torch.float32)
    before = state.clone()

    for _ in range(10):
        state.step(torch.zeros(24, 16))

    assert _error(state.X, before.X * (1 - _LR * _WEIGHT_DECAY) ** 10) < 1e-6
    assert torch.equal(state.M, before.M)
    assert torch.equal(state.Q, before.Q)


def test_captured_momentum_fades_when_gradients_stop() -> None:
    """At full rank all of M is captured, and mu of it is left by each step without gradient."""
    state = _start((24, 16), 16)
    state.step(_gradients((24, 16), 1)[0])
    before = state.M.clone()

    for _ in range(10):
        state.step(torch.zeros(24, 16, dtype=torch.float64))

    assert _error(state.M, before * _MU**10) < _FP64


@pytest.mark.parametrize("shape", [(64, 48), (48, 64)])
@pytest.mark.parametrize("num_rows", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rank_is_regained(num_rows: int, shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Gradients of k < r rows for 10 steps: the update has length sqrt(k) and leaves dead rows alone; then full rank at once."""
    r = 8
    state = _start(shape, r, dtype)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-9
    for step, G in enumerate(_gradients(shape, 10, dtype)):
        G[num_rows:] = 0
        before = state.X.clone()
        state.step(G, weight_decay=0.0, seed=step.to_bytes(4, "little"))

        assert float(_update(before, state.X).norm()) == pytest.approx(math.sqrt(num_rows), rel=1e-3)
        assert _update(before, state.X)[num_rows:].norm() < 1e-3
        assert torch.allclose(state.Q.norm(dim=0), torch.ones(r, dtype=dtype), atol=tolerance)
        assert torch.linalg.matrix_rank(state.Q) == r

    for G in _gradients(shape, 2, dtype, seed=7):
        before = state.X.clone()
        state.step(G, weight_decay=0.0)

        assert float(_update(before, state.X).norm()) == pytest.approx(math.sqrt(r), rel=1e-3)


def test_rank_is_regained_among_dead_rows() -> None:
    """Q on inputs that have died, and dead rows where Householder completes P: B^T P stays null for ever, were Q not re-seeded."""
    state = _start((64, 48), 6)
    state.Q[:, 1:] = torch.eye(48, 5, dtype=torch.float64)
    lengths = []
    for step, G in enumerate(_gradients((64, 48), 3)):
        G[:40] = 0
        G[:, :8] = 0
        before = state.X.clone()
        state.step(G, weight_decay=0.0, seed=bytes([step]))
        lengths.append(float(_update(before, state.X).norm()))

    assert lengths == pytest.approx([1.0, math.sqrt(6), math.sqrt(6)], rel=1e-6)


@pytest.mark.parametrize("kind", ["duplicate rows", "duplicate columns", "condition 1e7", "one entry"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ill_conditioned_gradients_leave_finite_numbers(kind: str, dtype: torch.dtype) -> None:
    """Five steps on one bad gradient: all finite, Q's columns of length one, the update no longer than sqrt(r)."""
    (G,) = _gradients((24, 16), 1)
    if kind == "duplicate rows":
        G[1:] = G[0]
    elif kind == "duplicate columns":
        G[:, 2:] = G[:, :1]
    elif kind == "condition 1e7":
        U, _, V = torch.linalg.svd(G, full_matrices=False)
        G = U * torch.logspace(0, -7, 16, dtype=torch.float64) @ V
    else:
        G.zero_()[3, 5] = 1.0
    state = _start((24, 16), 6, dtype)
    state.X = state.X.float()

    for step in range(5):
        before = state.X.clone()
        state.step(G.to(dtype), weight_decay=0.0, seed=bytes([step]))

        assert all(bool(tensor.isfinite().all()) for tensor in state.tensors())
        assert torch.allclose(state.Q.float().norm(dim=0), torch.ones(6), atol=0.02)
        assert float(_update(before, state.X).norm()) < math.sqrt(6) * (1 + 1e-3)


def test_small_directions_count_as_much_as_large_ones() -> None:
    """Singular values from 1 to 1e-4 in fp32, every one well above rounding: the update has them all at full length."""
    U, _, V = torch.linalg.svd(_gradients((24, 16), 1)[0], full_matrices=False)
    G = U * torch.logspace(0, -4, 16, dtype=torch.float64) @ V
    state = _start((24, 16), 16, torch.float32)
    before = state.X.clone()

    state.step(G.float(), weight_decay=0.0)

    assert float(_update(before, state.X).norm()) == pytest.approx(4.0, rel=1e-4)


def test_basis_turns_towards_the_polar_factor() -> None:
    """On a fixed B at full rank P Q^T comes ever nearer to U V^T, from which the first step is far away."""
    (B,) = _gradients((96, 64), 1)
    U, _, V = torch.linalg.svd(B, full_matrices=False)
    state = _start((96, 64), 64)
    errors = []
    for _ in range(100):
        before = state.X.clone()
        state.M.zero_()
        state.step(B, weight_decay=0.0)
        errors.append(_error(_update(before, state.X), U @ V))

    assert errors[0] > 0.3
    assert errors[4] < 0.12
    assert errors[19] < 0.03
    assert errors[99] < errors[49] < errors[19] / 2


def test_polar_factor_of_the_captured_part() -> None:
    """P polar(R)^T is the polar factor of P P^T B, and at full rank that of B: an oracle for P and R together."""
    (G,) = _gradients((24, 16), 1)
    for r in (4, 16):
        P, R = _start((24, 16), r).factors(G)
        U, _, V = torch.linalg.svd(R, full_matrices=False)
        ours = P @ (U @ V).T

        W, singular, Z = torch.linalg.svd(P @ P.T @ G, full_matrices=False)
        live = singular > 1e-9 * singular[0]
        assert int(live.sum()) == r
        assert _error(ours, W[:, live] @ Z[live]) < _FP64


def test_descends() -> None:
    """<B, P Q^T> is the sum of R's column lengths, hence positive, however Q starts."""
    (G,) = _gradients((24, 16), 1)
    state = _start((24, 16), 4)
    before, other = state.X.clone(), state.clone()

    state.step(G, weight_decay=0.0)
    _, R = other.factors(G)

    assert float((G * _update(before, state.X)).sum()) == pytest.approx(float(R.norm(dim=0).sum()))


@pytest.mark.parametrize("shape", [(24, 16), (16, 24)])
def test_converges_on_least_squares(shape: tuple[int, int]) -> None:
    """|A (X - X*)|^2 falls to a hundredth in 300 steps at a quarter of the rank, learning rate falling to 0."""
    generator = torch.Generator().manual_seed(8)
    A = torch.randn(64, shape[0], generator=generator) / 8
    target = torch.randn(shape, generator=generator)
    state = _start(shape, 4, torch.float32)
    state.X.zero_()
    first = float((A @ target).square().sum())

    for step in range(300):
        state.step(A.T @ (A @ (state.X - target)), lr=0.3 * (1 - step / 300), weight_decay=0.0)

    assert float((A @ (state.X - target)).square().sum()) < 1e-2 * first


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
        dion_step_(torch.ones(X), M, torch.ones(Q), torch.ones(G), lr=1.0, mu=_MU, weight_decay=0.0, seed=b"")

    assert not M.any()
