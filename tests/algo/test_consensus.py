"""Averages of replicas, and distances told from sketches."""

import math

import pytest
import torch
from torch import Tensor

from lowcomm_node.algo.consensus import RunningMean, count_sketch, mean_state, spread
from tests.algo.swarm_of_tensors import make_replica


def _states(count: int, scale: float = 1.0) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(41)
    common = {"w": torch.randn(30, 20, generator=generator), "b": torch.randn(20, generator=generator)}
    return [
        {name: tensor + scale * torch.randn(tensor.shape, generator=generator) for name, tensor in common.items()}
        for _ in range(count)
    ]


def test_mean_state() -> None:
    """Tensor by tensor the arithmetic mean, in the tensors' own type."""
    states = _states(3)
    states[0]["b"] = states[0]["b"].clone()

    mean = mean_state(states)

    assert list(mean) == ["w", "b"]
    assert torch.allclose(mean["w"], (states[0]["w"] + states[1]["w"] + states[2]["w"]) / 3, atol=1e-6)
    assert mean["b"].dtype == torch.float32


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_the_running_mean_is_the_mean(scale: float) -> None:
    """Bit by bit that of all at once, and the same spread, after each replica, however little they differ."""
    states = _states(5, scale)
    running = RunningMean()

    for count, state in enumerate(states, start=1):
        running.add(state)
        mean = mean_state(states[:count])
        assert all(torch.equal(running.mean()[name], mean[name]) for name in mean)
        assert running.spread == pytest.approx(spread(states[:count]), rel=1e-6)


def test_the_running_mean_takes_in_all_of_a_replica_or_nothing() -> None:
    """Another shape in the second tensor: refused before the first is added. What was added is not kept, nor changed."""
    one, other = _states(2)
    kept = {name: tensor.clone() for name, tensor in one.items()}
    running = RunningMean()
    with pytest.raises(ValueError, match="no replicas"):
        running.mean()
    assert running.spread == 0.0
    running.add(one)

    with pytest.raises(ValueError, match="differ"):
        running.add({"w": other["w"], "b": torch.zeros(2)})

    assert running.count == 1
    assert all(torch.equal(running.mean()[name], kept[name]) for name in kept)
    one["w"].zero_()
    running.add(other)
    assert torch.equal(running.mean()["w"], mean_state([kept, other])["w"])


def test_spread_is_the_root_mean_square_distance() -> None:
    """Two replicas at +1 and -1 in every parameter have spread 1; equal replicas 0; one alone 0."""
    ones = {"w": torch.ones(4, 3), "b": torch.ones(2)}
    minus = {name: -tensor for name, tensor in ones.items()}

    assert spread([ones, minus]) == pytest.approx(1.0)
    assert spread([ones, ones]) == 0.0
    assert spread([ones]) == 0.0


def test_unlike_replicas_are_refused() -> None:
    """Other names, other shapes or no replicas at all cannot be averaged."""
    for states in ([], [{"w": torch.ones(2)}, {"v": torch.ones(2)}], [{"w": torch.ones(2)}, {"w": torch.ones(3)}]):
        with pytest.raises(ValueError, match="replicas"):
            mean_state(states)
        with pytest.raises(ValueError, match="replicas"):
            spread(states)


def test_golden_sketch() -> None:
    """The map is part of what nodes must agree on: these numbers never change."""
    tensors = [torch.arange(1.0, 8.0), torch.tensor([[0.5, -0.25], [2.0, 4.0]])]

    assert count_sketch(tensors, dim=4, seed=7).tolist() == [-3.0, 4.5, -6.75, 4.0]


def test_sketch_is_linear() -> None:
    """sketch(a x + b y) = a sketch(x) + b sketch(y), to rounding; without it distances could not be told."""
    generator = torch.Generator().manual_seed(42)
    x, y = make_replica(generator), make_replica(generator)
    both = [2.0 * a - 3.0 * b for a, b in zip(x, y, strict=True)]

    assert torch.allclose(count_sketch(both), 2.0 * count_sketch(x) - 3.0 * count_sketch(y), atol=1e-4)


def test_sketch_does_not_depend_on_how_it_is_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors longer than a chunk give the same sums."""
    tensor = torch.randn(1000, generator=torch.Generator().manual_seed(43))
    whole = count_sketch([tensor])

    monkeypatch.setattr("lowcomm_node.algo.consensus._CHUNK", 64)

    assert torch.allclose(count_sketch([tensor]), whole, atol=1e-5)


def test_equal_tensors_at_other_positions_have_other_signs() -> None:
    """Two equal tensors must not always land on the same sums: their errors would add up."""
    tensor = torch.ones(200)
    first, second = count_sketch([tensor]), count_sketch([torch.zeros(200), tensor])

    assert not torch.allclose(first, second)


def test_sketch_keeps_lengths_on_average() -> None:
    """|sketch|^2 over many seeds has mean |x|^2 and the known variance, within five standard errors; a flat and a spiky x."""
    generator = torch.Generator().manual_seed(44)
    spiky = torch.zeros(600)
    spiky[[3, 67, 131]] = torch.tensor([3.0, -4.0, 5.0])  # multiples of 64 apart: no bucket by position
    dim, trials = 64, 400
    for x in (torch.randn(600, generator=generator), spiky):
        truth = float(x.square().sum())

        ratios = torch.stack([count_sketch([x], dim, seed).double().square().sum() for seed in range(trials)]) / truth

        error = math.sqrt(2 / dim / trials)
        assert abs(float(ratios.mean()) - 1) < 5 * error
        assert float(ratios.std()) < 1.5 * math.sqrt(2 / dim)
