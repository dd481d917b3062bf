"""The outer step: equal to the published pair form, mean-preserving, stable where it is said to be."""

import pytest
import torch
from torch import Tensor

from lowcomm_node.algo.noloco import outer_step_, reference_pair_step, stability_bound

_FP32_ROUNDING = 2e-6
_REPLICAS = 4096


def _random_states(generator: torch.Generator, size: int = 50) -> list[Tensor]:
    return [torch.randn(size, generator=generator) for _ in range(6)]


def _meet(theta: list[Tensor], phi: list[Tensor], mixed: list[Tensor] | None, i: int, j: int, gain: float) -> None:
    """A dense meeting: theta and phi shift together, and the shift is remembered."""
    shift = (theta[j] - theta[i]) * (gain / 2)
    for index, sign in ((i, 1.0), (j, -1.0)):
        theta[index] += sign * shift
        phi[index] += sign * shift
        if mixed is not None:
            mixed[index] += sign * shift


def test_lockstep_equals_the_pair_form() -> None:
    """One dense meeting exactly at the outer step, g = b, through the momentum: the published equations, for many steps."""
    generator = torch.Generator().manual_seed(1)
    a, b = 0.5, 0.7
    start = _random_states(generator)
    reference = ([tensor.double() for tensor in start[:3]], [tensor.double() for tensor in start[3:]])
    theta, phi, delta = ([start[k].clone(), start[k + 3].clone()] for k in range(3))
    mixed = [torch.zeros(50), torch.zeros(50)]

    for _ in range(20):
        drift = [torch.randn(50, generator=generator) * 0.1 for _ in range(2)]
        for k in range(2):
            theta[k] += drift[k]
            reference[k][0] = reference[k][0] + drift[k].double()
        _meet(theta, phi, mixed, 0, 1, b)
        for k in range(2):
            outer_step_(theta[k], phi[k], delta[k], mixed[k], momentum=a, lr=b)
        first, second = reference_pair_step(*reference[0], *reference[1], a=a, b=b, g=b)
        reference = (list(first), list(second))

        for k in range(2):
            for ours, theirs in zip((theta[k], phi[k], delta[k]), reference[k], strict=True):
                assert (ours.double() - theirs).abs().max() < _FP32_ROUNDING * max(1.0, float(theirs.abs().max()))


def test_reference_descends() -> None:
    """The b term pulls towards the fast weights: the sign printed in Eq. 2 would push away from them."""
    slow, fast, still = torch.zeros(3), torch.ones(3), torch.zeros(3)

    (theta, phi, delta), _ = reference_pair_step(fast, slow, still, fast, slow, still, a=0.5, b=0.7, g=0.7)

    assert torch.allclose(phi, torch.full((3,), 0.7, dtype=torch.float64))
    assert torch.equal(theta, phi)
    assert torch.equal(delta, phi)


def test_solo_step_is_heavy_ball() -> None:
    """A node that met nobody takes delta <- a delta + b D, and both forms of mixing agree on it."""
    generator = torch.Generator().manual_seed(2)
    theta, phi, delta = (torch.randn(20, generator=generator) for _ in range(3))
    expected_delta = 0.9 * delta + 0.4 * (theta - phi)
    expected_phi = phi + expected_delta

    for mixed in (None, torch.zeros(20)):
        t, p, d = theta.clone(), phi.clone(), delta.clone()
        outer_step_(t, p, d, mixed, momentum=0.9, lr=0.4)

        assert torch.allclose(d, expected_delta, atol=_FP32_ROUNDING)
        assert torch.allclose(p, expected_phi, atol=_FP32_ROUNDING)
        assert torch.equal(t, p)


def test_direct_form_keeps_meetings_out_of_the_momentum() -> None:
    """mixing = direct: what a meeting moved stays moved, and the momentum does not know of it."""
    theta, phi, delta = (
        [torch.ones(4), torch.zeros(4)],
        [torch.ones(4), torch.zeros(4)],
        [torch.zeros(4), torch.zeros(4)],
    )

    _meet(theta, phi, None, 0, 1, 1.0)
    for k in range(2):
        outer_step_(theta[k], phi[k], delta[k], None, momentum=0.9, lr=0.7)

    for k in range(2):
        assert torch.equal(theta[k], torch.full((4,), 0.5))
        assert torch.equal(delta[k], torch.zeros(4))


@pytest.mark.parametrize("is_momentum", [True, False])
def test_mean_follows_the_run_without_meetings(is_momentum: bool) -> None:
    """Meetings at any moment between outer steps leave the swarm's mean of theta, phi and delta where it would be."""
    generator = torch.Generator().manual_seed(3)
    num_nodes, size = 4, 30

    def run(has_meetings: bool) -> list[Tensor]:
        state = torch.Generator().manual_seed(4)
        theta = [torch.randn(size, generator=state, dtype=torch.float64) for _ in range(num_nodes)]
        phi = [tensor.clone() for tensor in theta]
        delta = [torch.zeros(size, dtype=torch.float64) for _ in range(num_nodes)]
        mixed = [torch.zeros(size, dtype=torch.float64) for _ in range(num_nodes)]
        for step in range(60):
            for k in range(num_nodes):
                theta[k] += torch.randn(size, generator=state, dtype=torch.float64) * 0.1
            i, j = torch.randperm(num_nodes, generator=generator)[:2].tolist()
            if has_meetings:
                _meet(theta, phi, mixed, i, j, 0.7)
            if step % 5 == 4:
                for k in range(num_nodes):
                    outer_step_(theta[k], phi[k], delta[k], mixed[k] if is_momentum else None, momentum=0.5, lr=0.7)
        return [torch.stack(part).mean(0) for part in (theta, phi, delta)]

    met, alone = run(has_meetings=True), run(has_meetings=False)

    if is_momentum:
        for ours, theirs in zip(met, alone, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-12)
    else:
        assert torch.allclose(met[0], alone[0], atol=1e-12)
        assert torch.allclose(met[1], alone[1], atol=1e-12)


def _variance_factor(a: float, g: float, steps: int = 30, warm_up: int = 15) -> float:
    """Growth of the disagreement's variance per outer step, on a flat loss, with random pairs each step."""
    generator = torch.Generator().manual_seed(5)
    theta = torch.randn(_REPLICAS, generator=generator, dtype=torch.float64)
    phi, delta, mixed = theta.clone(), torch.zeros_like(theta), torch.zeros_like(theta)
    variances: list[float] = []
    for _ in range(steps):
        order = torch.randperm(_REPLICAS, generator=generator)
        i, j = order[: _REPLICAS // 2], order[_REPLICAS // 2 :]
        shift = (theta[j] - theta[i]) * (g / 2)
        for tensor in (theta, phi, mixed):
            tensor[i] += shift
            tensor[j] -= shift
        outer_step_(theta, phi, delta, mixed, momentum=a, lr=g)
        variances.append(float(phi.var()))
    return float((variances[-1] / variances[warm_up - 1]) ** (1 / (steps - warm_up)))


def test_disagreement_contracts_at_the_published_setting() -> None:
    """a = 0.5, g = 0.7: the variance between replicas falls by 0.70 per outer step."""
    assert _variance_factor(0.5, 0.7) == pytest.approx(0.70, abs=0.02)


@pytest.mark.parametrize("a", [0.5, 0.9])
def test_edge_of_stability(a: float) -> None:
    """Replicas come together below g = 2 (1 - a^2) and drift apart above it, a = 0.9 with g = 0.7 included."""
    edge = stability_bound(a)

    assert edge == pytest.approx(2 * (1 - a * a))
    assert _variance_factor(a, 0.9 * edge, steps=60) < 1.0
    assert _variance_factor(a, 1.1 * edge, steps=60) > 1.0
    assert a < 0.9 or _variance_factor(a, 0.7) > 1.05


def test_bound_of_larger_groups_is_wider() -> None:
    """Groups of n: 2 n (1 - a^2) / (n + a (2 - n))."""
    assert stability_bound(0.5, 4) == pytest.approx(2 * 4 * 0.75 / (4 - 1.0))
    assert stability_bound(0.5, 4) > stability_bound(0.5, 2)
