"""The inner optimizers' steps: fast forms against the equations, and what each method promises."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lowcomm_node.algo.inner import (
    adopt_step_,
    lion_step_,
    mtdao_step_,
    reference_adamw_step,
    reference_adopt_step,
    reference_lion_step,
    reference_mtdao_step,
    reference_muon_step,
    reference_sgd_step,
)

_SHAPES = [(5, 3), (4,), (3, 6)]
_LR = [0.01, 0.02, 0.005]
_WD = [0.1, 0.0, 0.1]
_BETAS = {"beta1": 0.9, "beta2": 0.99}
_PARITY = 3e-6
"""fp32 against fp64 after 20 steps of size 0.01 from values of size 1."""


def _draw(seed: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) * scale for shape in _SHAPES]


def _zeros() -> list[Tensor]:
    return [torch.zeros(shape) for shape in _SHAPES]


def _agree(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert float((one.double() - other).abs().max()) < _PARITY * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize("method", ["adopt", "mtdao"])
def test_adaptive_fast_forms_equal_their_references(method: str) -> None:
    """Twenty steps with gradients of falling size, each tensor with its own learning rate and decay."""
    extra = {"eps": 1e-6} if method == "adopt" else {"eps": 1e-8, "w": 0.8}
    fast = adopt_step_ if method == "adopt" else mtdao_step_
    reference = reference_adopt_step if method == "adopt" else reference_mtdao_step
    xs, ms, vs = _draw(0), _zeros(), _zeros()
    states = [(x.double(), m.double(), v.double()) for x, m, v in zip(xs, ms, vs, strict=True)]

    for t in range(1, 21):
        gs = _draw(t, 1.0 / t)
        fast(xs, gs, ms, vs, t, lr=_LR, wd=_WD, **_BETAS, **extra)
        states = [
            reference(x, g, m, v, t, lr=lr, wd=wd, **_BETAS, **extra)
            for (x, m, v), g, lr, wd in zip(states, gs, _LR, _WD, strict=True)
        ]

    for ours, place in ((xs, 0), (ms, 1), (vs, 2)):
        _agree(ours, [state[place] for state in states])


def test_lion_fast_form_equals_its_reference() -> None:
    """As above; gradients are large enough that no sign hangs on the last bit."""
    xs, ms = _draw(0), _zeros()
    states = [(x.double(), m.double()) for x, m in zip(xs, ms, strict=True)]

    for t in range(1, 21):
        gs = _draw(t)
        lion_step_(xs, gs, ms, lr=_LR, wd=_WD, **_BETAS)
        states = [
            reference_lion_step(x, g, m, lr=lr, wd=wd, **_BETAS)
            for (x, m), g, lr, wd in zip(states, gs, _LR, _WD, strict=True)
        ]

    _agree(xs, [x for x, _ in states])
    _agree(ms, [m for _, m in states])


def test_fast_forms_repeat_to_the_bit() -> None:
    """The same input, the same bits; gradients are left alone."""
    ends: list[list[Tensor]] = []
    for _ in range(2):
        xs, us, vs = _draw(0), _zeros(), _zeros()
        for t in range(1, 4):
            gs, kept = _draw(t), _draw(t)
            mtdao_step_(xs, gs, us, vs, t, lr=_LR, wd=_WD, eps=1e-8, w=0.9, **_BETAS)
            adopt_step_(xs, gs, us, vs, t, lr=_LR, wd=_WD, eps=1e-8, **_BETAS)
            lion_step_(xs, gs, us, lr=_LR, wd=_WD, **_BETAS)
            assert all(torch.equal(g, k) for g, k in zip(gs, kept, strict=True))
        ends.append([*xs, *us, *vs])

    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def _run(step: Callable[..., tuple[Tensor, ...]], num_states: int, scale: float, **options: float) -> Tensor:
    """x after ten reference steps with gradients ``scale`` times the same ten; adaptive steps take t."""
    x = torch.zeros(6, 4, dtype=torch.float64)
    state = [torch.zeros_like(x) for _ in range(num_states)]
    for t in range(1, 11):
        g = torch.randn(6, 4, generator=torch.Generator().manual_seed(t), dtype=torch.float64) * scale
        count = (t,) if num_states == 2 else ()
        x, *state = step(x, g, *state, *count, lr=0.1, wd=0.0, **options)
    return x


@given(st.floats(1e-4, 1e4))
def test_adaptive_and_orthonormal_steps_do_not_know_the_scale_of_the_loss(scale: float) -> None:
    """Multiplying every gradient by a constant changes nothing; of sgd it multiplies the way by it."""
    forms: list[tuple[Callable[..., tuple[Tensor, ...]], int, dict[str, float]]] = [
        (reference_adamw_step, 2, {"eps": 1e-30, **_BETAS}),
        (reference_mtdao_step, 2, {"eps": 1e-30, "w": 0.9, **_BETAS}),
        (reference_adopt_step, 2, {"eps": 1e-30, **_BETAS}),
        (reference_lion_step, 1, _BETAS),
        (reference_muon_step, 1, {"momentum": 0.95}),
    ]
    for step, num_states, options in forms:
        torch.testing.assert_close(_run(step, num_states, scale, **options), _run(step, num_states, 1.0, **options))
    momentum = {"momentum": 0.9}
    torch.testing.assert_close(
        _run(reference_sgd_step, 1, scale, **momentum), scale * _run(reference_sgd_step, 1, 1.0, **momentum)
    )


def test_adopt_first_sets_the_scale_and_then_stays_bounded() -> None:
    """The first update moves nothing but v; where it was almost 0, a later gradient is clipped to t^(1/4), not divided by eps."""
    x, m, v = torch.ones(2), torch.zeros(2), torch.zeros(2)
    options = {"lr": 1.0, "wd": 0.5, "eps": 1e-6, **_BETAS}

    one = reference_adopt_step(x, torch.tensor([1.0, 0.0]), m, v, 1, **options)
    assert torch.equal(one[0], x.double())
    assert torch.equal(one[1], m.double())
    assert one[2].tolist() == [1.0, 0.0]

    x, m, v = one
    two = reference_adopt_step(x, torch.ones(2), m, v, 2, **options)
    assert two[1].tolist() == pytest.approx([0.1, 0.1])
    assert two[2].tolist() == pytest.approx([1.0, 0.01])


def test_adopt_does_not_divide_a_gradient_by_itself() -> None:
    """The normalisation is that of the steps before: a gradient ten times the usual counts ten times up to the clip."""
    x, m, v = torch.zeros(1), torch.zeros(1), torch.ones(1)

    _, usual, _ = reference_adopt_step(x, torch.ones(1), m, v, 10_001, lr=0.1, wd=0.0, eps=1e-6, **_BETAS)
    _, spike, _ = reference_adopt_step(x, 9 * torch.ones(1), m, v, 10_001, lr=0.1, wd=0.0, eps=1e-6, **_BETAS)

    assert float(spike) == pytest.approx(9 * float(usual))


def test_mtdao_spans_from_adam_to_the_raw_gradient() -> None:
    """w = 1 is AdamW; w = 0 follows the gradient of the moment, whatever the momentum remembers."""
    x, g, u, v = (torch.randn(3, 3, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in range(4))
    v, options = v.square(), {"lr": 0.1, "wd": 0.1, "eps": 1e-8, **_BETAS}

    as_adam = reference_mtdao_step(x, g, u, v, 7, w=1.0, **options)
    forgetful = [reference_mtdao_step(x, g, k * u, v, 7, w=0.0, **options)[0] for k in (0.0, 1.0)]

    for ours, adams in zip(as_adam, reference_adamw_step(x, g, u, v, 7, **options), strict=True):
        torch.testing.assert_close(ours, adams)
    assert torch.equal(*forgetful)


def test_lion_moves_every_entry_by_the_learning_rate() -> None:
    """A sign has size 1; an entry without any gradient stays."""
    x = torch.zeros(4)
    g = torch.tensor([1e-9, -3.0, 0.0, 100.0])

    moved, _ = reference_lion_step(x, g, torch.zeros(4), lr=0.01, wd=0.3, **_BETAS)

    assert moved.tolist() == pytest.approx([-0.01, 0.01, 0.0, -0.01])


@pytest.mark.parametrize("shape", [(8, 8), (4, 12), (12, 4)])
def test_muon_updates_are_nearly_orthonormal_with_the_rms_of_adam(shape: tuple[int, int]) -> None:
    """All singular values near 1 times 0.2 sqrt(max(m, n)), in the directions of the momentum: rms 0.2 on the short side."""
    generator = torch.Generator().manual_seed(3)
    g = torch.randn(shape, generator=generator, dtype=torch.float64)

    x, b = reference_muon_step(torch.zeros(shape), g, torch.zeros(shape), lr=1.0, momentum=0.95, wd=0.0)

    U, _, Vh = torch.linalg.svd(g, full_matrices=False)
    inside = U.T @ (-x) @ Vh.T / (0.2 * max(shape) ** 0.5)
    assert float((inside - inside.diagonal().diag()).abs().max()) < 1e-9
    assert 0.3 < float(inside.diagonal().min()) <= float(inside.diagonal().max()) < 1.3
    assert float(x.square().mean().sqrt()) == pytest.approx(0.2, rel=0.25)
    torch.testing.assert_close(b, 0.05 * g)


def test_decay_is_decoupled_everywhere() -> None:
    """Without gradient, x shrinks by lr * wd and the state does not hear of it."""
    x, zero = torch.ones(2, 2), torch.zeros(2, 2)
    common = {"lr": 0.1, "wd": 0.5}
    steps = [
        reference_adamw_step(x, zero, zero, zero, 2, eps=1e-8, **common, **_BETAS),
        reference_mtdao_step(x, zero, zero, zero, 2, eps=1e-8, w=0.9, **common, **_BETAS),
        reference_adopt_step(x, zero, zero, zero, 2, eps=1e-8, **common, **_BETAS),
        reference_lion_step(x, zero, zero, **common, **_BETAS),
        reference_sgd_step(x, zero, zero, momentum=0.9, **common),
        reference_muon_step(x, zero, zero, momentum=0.9, **common),
    ]

    for moved, *state in steps:
        assert moved.flatten().tolist() == pytest.approx([0.95] * 4)
        assert not any(bool(part.any()) for part in state)
