"""DiLoCo's outer step against its equations."""

import pytest
import torch
from torch import Tensor

from lowcomm_node.bench.diloco import DilocoOuter


class _Others:
    """A group whose other member always holds the same weights."""

    size = 2

    def __init__(self, weights: Tensor) -> None:
        self._weights = weights

    def mean_(self, tensor: Tensor) -> None:
        tensor.add_(self._weights).div_(2)


def test_rate_one_without_momentum_is_the_average() -> None:
    theta = [torch.tensor([[1.0, 2.0]]), torch.tensor([3.0])]
    outer = DilocoOuter(theta, _Others(torch.tensor([5.0, 6.0, 9.0])), lr=1.0, momentum=0.0)
    theta[0].add_(2.0)

    outer.step()

    assert torch.equal(theta[0], torch.tensor([[4.0, 5.0]]))
    assert torch.equal(theta[1], torch.tensor([6.0]))


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_two_steps_follow_nesterov(momentum: float) -> None:
    """v <- b v + D, phi <- phi - lr (D + b v), with D = phi - mean of theta."""
    lr = 0.7
    theta = [torch.tensor([1.0])]
    outer = DilocoOuter(theta, _Others(torch.tensor([4.0])), lr=lr, momentum=momentum)
    phi, v = 1.0, 0.0

    for own_steps in (0.5, -0.25):
        theta[0].add_(own_steps)
        gap = phi - (float(theta[0]) + 4.0) / 2
        v = momentum * v + gap
        phi -= lr * (gap + momentum * v)
        outer.step()

    assert float(theta[0]) == pytest.approx(phi)
