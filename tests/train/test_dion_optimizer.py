"""Dion as an inner optimizer: the state it declares, steps that depend on nothing else, and groups of replicas."""

import pytest
import torch
from torch import Tensor, nn

from lowcomm_node.algo.dion import dion_step_
from lowcomm_node.settings.manifest import OptimizerConfig
from lowcomm_node.settings.streams import Scope
from lowcomm_node.train.optimizers.dion import DionOptimizer
from lowcomm_node.units import Stream

_SHAPES = [(24, 16), (8, 32), (24, 16)]
_POSITIONS = (1, 4, 5)
_SEED = b"run"
_LR = 0.02


def _config(state_dtype: str = "fp32") -> OptimizerConfig:
    return OptimizerConfig(kind="dion", rank_fraction=0.25, rank_multiple=2, state_dtype=state_dtype)


def _parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in _SHAPES]


def _optimizer(parameters: list[nn.Parameter], config: OptimizerConfig | None = None) -> DionOptimizer:
    return DionOptimizer(parameters, _POSITIONS, ["a", "b", "c"], config or _config(), _SEED)


def _give_gradients(parameters: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def _state(optimizer: DionOptimizer) -> list[Tensor]:
    return [tensor for stream in optimizer.streams for tensor in optimizer.tensors(stream.name)]


@pytest.mark.parametrize(("state_dtype", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_keeps_what_is_declared(state_dtype: str, dtype: torch.dtype) -> None:
    """A momentum and a basis per matrix, by position, in the configured format: zeros, and bases that differ between matrices."""
    optimizer = _optimizer(_parameters(), _config(state_dtype))

    assert [(stream.name, stream.scope) for stream in optimizer.streams] == [
        (Stream.MOMENTUM, Scope.MATRICES),
        (Stream.BASIS, Scope.MATRICES),
    ]
    assert optimizer.members == {Stream.MOMENTUM: _POSITIONS, Stream.BASIS: _POSITIONS}
    momenta, bases = optimizer.tensors(Stream.MOMENTUM), optimizer.tensors(Stream.BASIS)
    assert [tuple(tensor.shape) for tensor in momenta] == _SHAPES
    assert [tuple(tensor.shape) for tensor in bases] == [(16, 4), (8, 2), (16, 4)]
    assert {tensor.dtype for tensor in momenta + bases} == {dtype}
    assert not any(tensor.any() or tensor.requires_grad for tensor in momenta)
    assert not torch.equal(bases[0], bases[2])
    again = _optimizer(_parameters(), _config(state_dtype)).tensors(Stream.BASIS)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(bases, again, strict=True))
    assert all(ours is theirs for ours, theirs in zip(bases, optimizer.tensors(Stream.BASIS), strict=True))


def test_steps_every_matrix_that_has_a_gradient() -> None:
    """Each takes Dion's step with the manifest's numbers; one without gradient stays as it is, and so does its state."""
    parameters, config = _parameters(), _config()
    optimizer = _optimizer(parameters, config)
    before = [parameter.detach().clone() for parameter in parameters]
    bases = [basis.clone() for basis in optimizer.tensors(Stream.BASIS)]
    _give_gradients(parameters, 2)
    parameters[1].grad = None

    optimizer.step(_LR)

    assert optimizer.optimizer_steps == 1
    for index in (0, 2):
        parameter, momentum, gradient = before[index], torch.zeros(_SHAPES[index]), parameters[index].grad
        assert gradient is not None
        dion_step_(
            parameter,
            momentum,
            bases[index],
            gradient,
            lr=_LR,
            mu=config.momentum,
            weight_decay=config.weight_decay,
            seed=b"",
        )
        assert torch.equal(parameters[index], parameter)
        assert torch.equal(optimizer.tensors(Stream.MOMENTUM)[index], momentum)
    assert torch.equal(parameters[1], before[1])
    for index in range(3):
        assert torch.equal(optimizer.tensors(Stream.BASIS)[index], bases[index])


@pytest.mark.parametrize("state_dtype", ["fp32", "bf16"])
def test_resumes_bit_for_bit(state_dtype: str) -> None:
    """Parameters, state and the count of steps are all there is: a copy goes on in the same bits, null columns included."""
    parameters = _parameters()
    optimizer = _optimizer(parameters, _config(state_dtype))

    def step(who: DionOptimizer, whose: list[nn.Parameter], index: int) -> None:
        _give_gradients(whose, index)
        for parameter in whose[:2]:
            assert parameter.grad is not None
            parameter.grad[1:] = 0  # rank 1: null columns of the basis are drawn anew at each step
        who.step(_LR)

    for index in range(3):
        step(optimizer, parameters, index)
    copies = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    other = _optimizer(copies, _config(state_dtype))
    for ours, theirs in zip(_state(other), _state(optimizer), strict=True):
        ours.copy_(theirs)
    other.optimizer_steps = optimizer.optimizer_steps
    for index in range(3, 6):
        step(optimizer, parameters, index)
        step(other, copies, index)

    for ours, theirs in zip([*_state(other), *copies], [*_state(optimizer), *parameters], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (5,), (2, 3, 4)])
def test_refuses_what_is_no_matrix(shape: tuple[int, ...]) -> None:
    """By name and shape."""
    with pytest.raises(ValueError, match=r"stem\.weight: .* shape \("):
        DionOptimizer([nn.Parameter(torch.ones(shape))], (0,), ["stem.weight"], _config(), _SEED)


def test_kernels_can_be_flattened() -> None:
    """As (out, rest) a convolution's kernel takes the step of that matrix, its momentum in the kernel's shape."""
    _, kernel, _ = _parameters()
    flat = nn.Parameter(kernel.detach().clone())
    kernel = nn.Parameter(kernel.detach().reshape(8, 4, 2, 4).clone())
    optimizers = [DionOptimizer([one], (0,), ["kernel"], _config(), _SEED, flatten=True) for one in (kernel, flat)]

    _give_gradients([flat], 3)
    assert flat.grad is not None
    kernel.grad = flat.grad.reshape(kernel.shape).to(memory_format=torch.channels_last)
    for optimizer in optimizers:
        optimizer.step(_LR)

    assert torch.equal(kernel.reshape(8, 32), flat)
    assert optimizers[0].tensors(Stream.MOMENTUM)[0].shape == kernel.shape


class _Twins:
    """A group of two with equal gradients, so that means are what one has."""

    size = 2

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def mean_(self, tensor: Tensor) -> None:
        self.sizes.append(tensor.numel())


def test_group_exchanges_two_messages_a_step() -> None:
    """All P together, then all R together, also for a matrix that has no gradient here; the step is otherwise the same."""
    group = _Twins()
    parameters, alone = _parameters(), _parameters()
    grouped = DionOptimizer(parameters, _POSITIONS, ["a", "b", "c"], _config(), _SEED, group=group)
    single = _optimizer(alone)
    for whose in (parameters, alone):
        _give_gradients(whose, 4)
    parameters[1].grad = None
    alone[1].grad = torch.zeros_like(alone[1])

    for _ in range(2):
        grouped.step(_LR)
        single.step(_LR)

    assert group.sizes == [24 * 4 + 32 * 2 + 24 * 4, 16 * 4 + 8 * 2 + 16 * 4] * 2
    for ours, theirs in zip([*_state(grouped), *parameters], [*_state(single), *alone], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("state_dtype", ["fp32", "bf16"])
def test_converges_on_a_toy(state_dtype: str) -> None:
    """A two-layer network of quarter-rank updates fits a teacher of its own kind: loss falls to a tenth."""
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(128, 16, generator=generator)
    first, second = (torch.randn(shape, generator=generator) / 4 for shape in ((16, 16), (8, 16)))
    labels = torch.tanh(inputs @ first.T) @ second.T
    parameters = [nn.Parameter(torch.randn(s, generator=generator) / 4) for s in ((16, 16), (8, 16))]
    config = OptimizerConfig(kind="dion", rank_fraction=0.25, weight_decay=0.0, state_dtype=state_dtype)
    optimizer = DionOptimizer(parameters, (0, 1), ["first", "second"], config, _SEED)
    losses = []

    for step in range(300):
        loss = (torch.tanh(inputs @ parameters[0].T) @ parameters[1].T - labels).square().mean()
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step(0.05 * (1 - step / 300))
        losses.append(loss.item())

    assert losses[-1] < 0.1 * losses[0]
