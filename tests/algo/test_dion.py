"""Dion's step for one replica: equal to the equations, and the properties that follow from them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.algo.dion import dion_rounds, rank_of, reference_dion_step
from tests.algo.dion_states import LR, MU, WEIGHT_DECAY, State, error, gradients, start, update

_SHAPES = [(24, 16), (16, 24), (20, 20), (30, 3)]
_FP64 = 1e-12
_FP32 = 1e-4
"""Relative; Q's smaller columns are the ones that come near it."""


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, _FP64), (torch.float32, _FP32)])
def test_fast_form_equals_the_equations(shape: tuple[int, int], dtype: torch.dtype, tolerance: float) -> None:
    """Twenty steps, tall, wide, square and thin: X, M and Q follow the fp64 form within rounding."""
    ours = start(shape, rank_of(shape, 0.4), dtype)
    reference = ours.clone().tensors()

    for G in gradients(shape, 20, dtype):
        ours.step(G)
        reference = reference_dion_step(*reference, G, lr=LR, mu=MU, weight_decay=WEIGHT_DECAY)

        for tensor, expected in zip(ours.tensors(), reference, strict=True):
            assert tensor.dtype == dtype
            assert error(tensor, expected) < tolerance


def test_state_may_be_coarser_than_the_arithmetic() -> None:
    """With M and Q kept in bf16 the step is the fp64 one up to bf16 rounding of what is kept, X's included when it is bf16."""
    coarse = start((24, 16), 4, torch.bfloat16)
    mixed = State(coarse.X.float(), coarse.M.clone(), coarse.Q.clone())
    (G,) = gradients((24, 16), 1, torch.bfloat16)
    expected = reference_dion_step(*coarse.clone().tensors(), G, lr=LR, mu=MU, weight_decay=WEIGHT_DECAY)

    for state in (coarse, mixed):
        state.step(G)

        assert state.M.dtype == state.Q.dtype == torch.bfloat16
        for tensor, theirs in zip(state.tensors(), expected, strict=True):
            assert error(tensor, theirs) < 0.005
    assert mixed.X.dtype is torch.float32
    assert error(mixed.X, expected[0]) < _FP32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_repeat_bit_for_bit(dtype: torch.dtype) -> None:
    """A run that is stopped, copied and gone on with ends in the same bits."""
    first, sequence = start((24, 16), 4, dtype), gradients((24, 16), 10, dtype)
    for G in sequence[:5]:
        first.step(G)
    second = first.clone()

    for G in sequence[5:]:
        first.step(G)
        second.step(G)

    for ours, theirs in zip(first.tensors(), second.tensors(), strict=True):
        assert torch.equal(ours, theirs)


@given(m=st.integers(1, 20), n=st.integers(1, 20), data=st.data())
def test_update_has_the_length_of_its_rank(m: int, n: int, data: st.DataObject) -> None:
    """|P Q^T|_F = sqrt(r) and 1 <= |P Q^T|_op <= sqrt(r), whatever the shape, the rank and the gradient's size."""
    r = data.draw(st.integers(1, min(m, n)))
    scale = data.draw(st.sampled_from([1e-12, 1.0, 1e12]))
    state = start((m, n), r, seed=m * 100 + n)
    before = state.X.clone()

    state.step(gradients((m, n), 1, seed=r)[0] * scale, weight_decay=0.0)

    applied = update(before, state.X)
    assert float(applied.norm()) == pytest.approx(math.sqrt(r), rel=1e-9)
    assert 1 - 1e-9 <= float(torch.linalg.matrix_norm(applied, 2)) <= math.sqrt(r) * (1 + 1e-9)
    assert torch.allclose(state.Q.norm(dim=0), torch.ones(r, dtype=torch.float64))


def test_error_feedback_keeps_what_was_not_used() -> None:
    """On span(P) mu of B stays in M, and outside it all of B; at full rank M = mu B."""
    for r in (4, 16):
        state = start((24, 16), r)
        state.M += gradients((24, 16), 1, seed=5)[0]
        (G,) = gradients((24, 16), 1)
        B = state.M + G

        P, _ = state.factors(G)

        captured = P @ P.T
        assert error(captured @ state.M, MU * captured @ B) < 1e-14
        assert float((state.M - captured @ state.M - (B - captured @ B)).norm()) < 1e-14 * float(B.norm())
        assert r < 16 or error(state.M, MU * B) < 1e-14


@pytest.mark.parametrize("shape", [(24, 16), (16, 24)])
def test_nothing_is_lost_or_counted_twice(shape: tuple[int, int]) -> None:
    """M_T = sum G - (1 - mu) sum P R^T over 200 steps, across a checkpoint and a step that broke off half-way."""
    state = start(shape, 4)
    expected = torch.zeros(shape, dtype=torch.float64)

    for index, G in enumerate(gradients(shape, 200)):
        if index == 100:
            state = state.clone()
        if index == 150:  # the other members of a group went away after the first of two means
            before = state.clone()
            next(dion_rounds(state.X, [state.M], state.Q, [G], lr=LR, mu=MU, weight_decay=WEIGHT_DECAY, seed=b""))
            expected += G
            assert torch.equal(state.X, before.X)
            assert torch.equal(state.Q, before.Q)
            continue
        P, R = state.factors(G)
        used = P @ R.T
        expected += G - (1 - MU) * (used if shape[0] >= shape[1] else used.T)

    assert error(state.M, expected) < _FP64


@given(signs=st.lists(st.sampled_from([-1.0, 1.0]), min_size=4, max_size=4))
def test_signs_of_the_basis_do_not_matter(signs: list[float]) -> None:
    """Q diag(+-1) in place of Q: the same X and M, and the signs stay with Q."""
    plain, sequence = start((24, 16), 4), gradients((24, 16), 5)
    turned = plain.clone()
    turned.Q *= torch.tensor(signs, dtype=torch.float64)

    for G in sequence:
        plain.step(G)
        turned.step(G)

    assert error(turned.X, plain.X) < _FP64
    assert error(turned.M, plain.M) < _FP64
    assert error(turned.Q * torch.tensor(signs, dtype=torch.float64), plain.Q) < _FP64


def test_transposed_matrix_takes_the_transposed_step() -> None:
    """A wide matrix is its tall transpose, but for the factor sqrt(m/n) of its own shape."""
    tall = start((24, 16), 4)
    wide = State(tall.X.T.contiguous(), tall.M.T.contiguous(), tall.Q.clone())

    for G in gradients((24, 16), 20):
        tall.step(G, weight_decay=0.0)
        wide.step(G.T.contiguous(), lr=LR * 24 / 16, weight_decay=0.0)

    assert error(wide.X.T, tall.X) < _FP64
    assert error(wide.M.T, tall.M) < _FP64
    assert error(wide.Q, tall.Q) < _FP64


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, _FP64), (torch.float32, _FP32)])
@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1e3, 1e25])
def test_scale_of_gradients_does_not_matter(scale: float, dtype: torch.dtype, tolerance: float) -> None:
    """All G times c > 0: the same X, down to where the squares of gradients vanish in their type and up to where they overflow."""
    plain, scaled = start((24, 16), 4, dtype), start((24, 16), 4, dtype)

    for G in gradients((24, 16), 20, dtype):
        plain.step(G)
        scaled.step(G * scale)

    assert error(scaled.X, plain.X) < tolerance
    assert error(scaled.Q, plain.Q) < tolerance


def test_captured_momentum_fades_when_gradients_stop() -> None:
    """At full rank all of M is captured, and mu of it is left by each step without gradient."""
    state = start((24, 16), 16)
    state.step(gradients((24, 16), 1)[0])
    before = state.M.clone()

    for _ in range(10):
        state.step(torch.zeros(24, 16, dtype=torch.float64))

    assert error(state.M, before * MU**10) < _FP64


def test_basis_turns_towards_the_polar_factor() -> None:
    """On a fixed B at full rank P Q^T comes ever nearer to U V^T, from which the first step is far away."""
    (B,) = gradients((96, 64), 1)
    U, _, V = torch.linalg.svd(B, full_matrices=False)
    state = start((96, 64), 64)
    errors = []
    for _ in range(100):
        before = state.X.clone()
        state.M.zero_()
        state.step(B, weight_decay=0.0)
        errors.append(error(update(before, state.X), U @ V))

    assert errors[0] > 0.3
    assert errors[4] < 0.12
    assert errors[19] < 0.03
    assert errors[99] < errors[49] < errors[19] / 2


def test_polar_factor_of_the_captured_part() -> None:
    """P polar(R)^T is the polar factor of P P^T B, and at full rank that of B: an oracle for P and R together."""
    (G,) = gradients((24, 16), 1)
    for r in (4, 16):
        P, R = start((24, 16), r).factors(G)
        U, _, V = torch.linalg.svd(R, full_matrices=False)
        ours = P @ (U @ V).T

        W, singular, Z = torch.linalg.svd(P @ P.T @ G, full_matrices=False)
        live = singular > 1e-9 * singular[0]
        assert int(live.sum()) == r
        assert error(ours, W[:, live] @ Z[live]) < _FP64


def test_descends() -> None:
    """<B, P Q^T> is the sum of R's column lengths, hence positive, however Q starts."""
    (G,) = gradients((24, 16), 1)
    state = start((24, 16), 4)
    before, other = state.X.clone(), state.clone()

    state.step(G, weight_decay=0.0)
    _, R = other.factors(G)

    assert float((G * update(before, state.X)).sum()) == pytest.approx(float(R.norm(dim=0).sum()))


@pytest.mark.parametrize("shape", [(24, 16), (16, 24)])
def test_converges_on_least_squares(shape: tuple[int, int]) -> None:
    """|A (X - X*)|^2 falls to a hundredth in 300 steps at a quarter of the rank, learning rate falling to 0."""
    generator = torch.Generator().manual_seed(8)
    A = torch.randn(64, shape[0], generator=generator) / 8
    target = torch.randn(shape, generator=generator)
    state = start(shape, 4, torch.float32)
    state.X.zero_()
    first = float((A @ target).square().sum())

    for step in range(300):
        state.step(A.T @ (A @ (state.X - target)), lr=0.3 * (1 - step / 300), weight_decay=0.0)

    assert float((A @ (state.X - target)).square().sum()) < 1e-2 * first
