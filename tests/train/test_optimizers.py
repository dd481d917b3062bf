"""Every inner optimizer through the one interface: equal to its equations, kept as declared, resumed to the bit."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from lowcomm_node.algo.inner import (
    reference_adamw_step,
    reference_adopt_step,
    reference_lion_step,
    reference_mtdao_step,
    reference_muon_step,
    reference_sgd_step,
)
from lowcomm_node.settings.manifest import Manifest, ModelConfig, OptimizerConfig
from lowcomm_node.settings.streams import Scope, state_streams
from lowcomm_node.train.gpt import GPT, build_gpt, hidden_matrices
from lowcomm_node.train.optimizers.base import InnerOptimizer
from lowcomm_node.train.optimizers.build import build_optimizer
from lowcomm_node.units import Stream, StreamKind

_FP32 = 5e-6
_BF16 = 0.05
"""Newton-Schulz in bf16 against fp64: a few of its 8 bits in each of 20 steps, relative to the way."""

CONFIGS = {
    "adamw": OptimizerConfig(kind="adamw"),
    "adopt": OptimizerConfig(kind="adopt", eps=1e-6),
    "mtdao": OptimizerConfig(kind="mtdao", beta1=0.99),
    "sgd": OptimizerConfig(kind="sgd", momentum=0.9),
    "muon": OptimizerConfig(kind="muon", scalar_lr_ratio=0.5),
    "muon-lion": OptimizerConfig(kind="muon", scalar="lion", scalar_lr_ratio=0.5),
    "dion": OptimizerConfig(kind="dion", rank_fraction=0.5, scalar_lr_ratio=0.5),
    "dion-lion-bf16": OptimizerConfig(kind="dion", scalar="lion", scalar_lr_ratio=0.5, state_dtype="bf16"),
}


def _make(config: OptimizerConfig, *, tie_embeddings: bool = False) -> tuple[GPT, InnerOptimizer]:
    shape = ModelConfig(num_layers=1, num_heads=2, d_model=8, d_ff=12, context_length=8, tie_embeddings=tie_embeddings)
    manifest = Manifest(model=shape, optimizer=config)
    model = build_gpt(manifest.model, manifest.seed)
    return model, build_optimizer(model, manifest)


def _give_gradients(model: GPT, seed: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) * scale


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> OptimizerConfig:
    """One of all kinds."""
    return CONFIGS[request.param]


def _reference(
    config: OptimizerConfig, name: str, state: list[Tensor], g: Tensor, *, t: int, lr: float
) -> list[Tensor]:
    """One step of the equations that ``config`` has for this parameter; x is the first of ``state``."""
    x, first, second = state[0], state[1], state[-1]
    wd = config.weight_decay if x.ndim == 2 else 0.0
    beta1, beta2, eps = config.beta1, config.beta2, config.eps
    kind = config.kind
    if kind in ("muon", "dion"):
        if name.startswith("blocks.") and x.ndim == 2:
            return list(reference_muon_step(x, g, first, lr=lr, momentum=config.momentum, wd=wd))
        kind, lr = config.scalar, lr * config.scalar_lr_ratio
    match kind:
        case "sgd":
            return list(reference_sgd_step(x, g, first, lr=lr, momentum=config.momentum, wd=wd))
        case "lion":
            lr = lr * x.shape[1] ** -0.5 if name == "head.weight" else lr
            return list(reference_lion_step(x, g, first, lr=lr, beta1=beta1, beta2=beta2, wd=wd))
        case "adamw":
            return list(reference_adamw_step(x, g, first, second, t, lr=lr, beta1=beta1, beta2=beta2, eps=eps, wd=wd))
        case "adopt":
            return list(reference_adopt_step(x, g, first, second, t, lr=lr, beta1=beta1, beta2=beta2, eps=eps, wd=wd))
        case _:
            w = config.momentum_share
            return list(
                reference_mtdao_step(x, g, first, second, t, lr=lr, beta1=beta1, beta2=beta2, eps=eps, wd=wd, w=w)
            )


def test_twenty_steps_equal_the_equations(config: OptimizerConfig) -> None:
    """Parameters and every stream, against fp64; of Dion, whose own tests cover the matrices, everything else."""
    model, optimizer = _make(config)
    named = list(model.named_parameters())
    states: dict[int, list[Tensor]] = {position: [p.data.double()] for position, (_, p) in enumerate(named)}
    homes: dict[int, list[Tensor]] = {position: [p.data] for position, (_, p) in enumerate(named)}
    for stream in optimizer.streams:
        for position, tensor in zip(optimizer.members[stream.name], optimizer.tensors(stream.name), strict=True):
            states[position].append(tensor.double())
            homes[position].append(tensor)
    start = {position: state[0].clone() for position, state in states.items()}

    for t in range(1, 21):
        lr = 0.01 * min(1.0, t / 5)
        _give_gradients(model, t, 1.0 / t)
        for position, (name, parameter) in enumerate(named):
            gradient = parameter.grad
            assert gradient is not None
            states[position] = _reference(config, name, states[position], gradient, t=t, lr=lr)
        optimizer.step(lr)

    assert optimizer.optimizer_steps == 20
    skipped = set(hidden_matrices(model)) if config.kind == "dion" else set[int]()
    rough = set(hidden_matrices(model)) if config.kind == "muon" else set[int]()
    for position in states.keys() - skipped:
        way = float((states[position][0] - start[position]).norm())
        assert way > 0.01
        for place, (ours, theirs) in enumerate(zip(homes[position], states[position], strict=True)):
            tolerance = _BF16 * way if position in rough and place == 0 else _FP32 * max(1.0, float(theirs.norm()))
            assert float((ours.double() - theirs).norm()) < tolerance, (named[position][0], place)


@pytest.mark.parametrize("kind", ["adamw", "sgd", "muon"])
def test_torchs_own_are_equal_to_its_objects_to_the_bit(kind: str) -> None:
    """They are called as functions: what torch's optimizer objects do beside them must never move a weight."""
    model, optimizer = _make(CONFIGS[kind])
    ours = list(model.parameters())
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    config, hidden = CONFIGS[kind], set(hidden_matrices(model)) if kind == "muon" else set[int]()
    of_hidden, rest = (
        [p for i, p in enumerate(theirs) if i in hidden],
        [p for i, p in enumerate(theirs) if i not in hidden],
    )
    matrices, vectors = [p for p in rest if p.ndim >= 2], [p for p in rest if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    betas = (config.beta1, config.beta2)
    objects: list[torch.optim.Optimizer] = [
        torch.optim.SGD(rest, lr=1.0, momentum=config.momentum, fused=True)
        if kind == "sgd"
        else torch.optim.AdamW(groups, lr=1.0, betas=betas, eps=config.eps, fused=True)
    ]
    if hidden:
        muon = torch.optim.Muon(
            of_hidden, weight_decay=config.weight_decay, momentum=config.momentum, adjust_lr_fn="match_rms_adamw"
        )
        objects.append(muon)

    if kind == "sgd":  # made at once, as ours are
        objects[0].state.update({p: {"momentum_buffer": torch.zeros_like(p)} for p in rest})

    for t in range(1, 8):
        lr = 0.01 * t
        _give_gradients(model, t)
        ours[t % 3].grad = None
        for mine, other in zip(ours, theirs, strict=True):
            other.grad = None if mine.grad is None else mine.grad.clone()
        if kind == "sgd":  # its decay is our own
            torch._foreach_mul_([p.data for p in matrices if p.grad is not None], 1 - lr * config.weight_decay)
        for each in objects:
            for group in each.param_groups:
                group["lr"] = lr if hidden == set() or each is objects[1] else lr * config.scalar_lr_ratio
            each.step()
        optimizer.step(lr)

    assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))


def test_a_trainer_does_without_torchs_compiler() -> None:
    """Nothing is compiled, and to import the compiler takes a trainer as long as the rest of its start."""
    script = """
import sys
import tests.train.test_optimizers as here
for config in here.CONFIGS.values():
    model, optimizer = here._make(config)
    here._give_gradients(model, 1)
    optimizer.step(0.01)
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=60)


def test_streams_are_those_declared(config: OptimizerConfig) -> None:
    """What settings declares is what is kept: names, order, scopes; shapes of the parameters, but for a basis."""
    model, optimizer = _make(config)
    matrices, parameters = set(hidden_matrices(model)), list(model.parameters())
    everything = set(range(len(parameters)))
    scopes = {Scope.ALL: everything, Scope.MATRICES: matrices, Scope.REST: everything - matrices}

    assert optimizer.streams == state_streams(config)
    for stream in optimizer.streams:
        positions, tensors = optimizer.members[stream.name], optimizer.tensors(stream.name)
        assert set(positions) == scopes[stream.scope]
        assert list(positions) == sorted(positions)
        assert all(a is b for a, b in zip(tensors, optimizer.tensors(stream.name), strict=True))
        if stream.kind is not StreamKind.BASIS:
            assert [tensor.shape for tensor in tensors] == [parameters[position].shape for position in positions]
            assert not any(bool(tensor.any()) for tensor in tensors)


def test_resumed_from_its_streams_it_goes_on_to_the_bit(config: OptimizerConfig) -> None:
    """Parameters, streams and the count are all there is: another object that takes them over takes the same steps."""
    ends: list[list[Tensor]] = []
    model, optimizer = _make(config)
    for t in range(1, 6):
        _give_gradients(model, t)
        optimizer.step(0.01)
    heir_model, heir = _make(config)
    with torch.no_grad():
        for own, new in zip(model.parameters(), heir_model.parameters(), strict=True):
            new.copy_(own)
        for stream in optimizer.streams:
            for kept, taken in zip(optimizer.tensors(stream.name), heir.tensors(stream.name), strict=True):
                taken.copy_(kept)
    heir.optimizer_steps = optimizer.optimizer_steps

    for one_model, one in ((model, optimizer), (heir_model, heir)):
        for t in range(6, 10):
            _give_gradients(one_model, t)
            one.step(0.02)
        states = [tensor for stream in one.streams for tensor in one.tensors(stream.name)]
        ends.append([*(parameter.data for parameter in one_model.parameters()), *states])

    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert optimizer.optimizer_steps == heir.optimizer_steps == 9


def test_matrices_decay_and_vectors_do_not(config: OptimizerConfig) -> None:
    """Without a gradient to follow, matrices shrink by their learning rate times the weight decay, vectors stay."""
    model, optimizer = _make(config)
    before = [parameter.data.clone() for parameter in model.parameters()]
    for _ in range(2):  # ADOPT's first step only looks
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step(0.1)

    for (name, parameter), old in zip(model.named_parameters(), before, strict=True):
        is_rest = not (name.startswith("blocks.") and parameter.ndim == 2)
        lr = 0.1 * (config.scalar_lr_ratio if is_rest and config.kind in ("muon", "dion") else 1.0)
        lr *= 8**-0.5 if name == "head.weight" and config.scalar == "lion" else 1.0
        count = 1 if config.kind == "adopt" else 2
        shrunk = (1 - lr * config.weight_decay) ** count if parameter.ndim == 2 else 1.0
        torch.testing.assert_close(parameter.data, old * shrunk, msg=name)


def test_parameters_without_gradient_stay(config: OptimizerConfig) -> None:
    """They neither decay nor move, and the others do."""
    model, optimizer = _make(config)
    still = {"blocks.0.mlp.up.weight", "blocks.0.mlp_norm.weight", "embedding"}
    before = {name: parameter.data.clone() for name, parameter in model.named_parameters()}

    for t in range(2):
        _give_gradients(model, t)
        for name, parameter in model.named_parameters():
            parameter.grad = None if name in still else parameter.grad
        optimizer.step(0.1)

    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter.data, before[name])}
    assert moved == before.keys() - still


def test_every_optimizer_reaches_a_minimum(config: OptimizerConfig) -> None:
    """A quadratic around other weights, seen through noise, with a falling learning rate: the distance all but vanishes."""
    model, optimizer = _make(dataclasses.replace(config, weight_decay=0.0, scalar_lr_ratio=1.0))
    generator = torch.Generator().manual_seed(0)
    goals = [p.data + 0.3 * torch.randn(p.shape, generator=generator) for p in model.parameters()]

    def distance() -> float:
        return sum(float((p.data - goal).square().sum()) for p, goal in zip(model.parameters(), goals, strict=True))

    first, steps = distance(), 300
    peak = {"dion": 0.1, "muon": 0.1}.get(config.kind, 0.05)
    for t in range(steps):
        for parameter, goal in zip(model.parameters(), goals, strict=True):
            parameter.grad = parameter.data - goal + 0.01 * torch.randn(goal.shape, generator=generator)
        optimizer.step(peak * (1 - t / steps))

    assert distance() < 0.02 * first


def test_guard_holds_foreign_moments_within_what_was_seen_here() -> None:
    """|u^| <= sqrt(v^): a partner's first moment may not meet an own second moment of almost nothing; what is inside stays."""
    for kind in ("adamw", "mtdao", "muon", "dion"):
        model, optimizer = _make(OptimizerConfig(kind=kind))
        for t in range(3):
            _give_gradients(model, t)
            optimizer.step(0.01)
        first, second = optimizer.tensors(Stream.EXP_AVG), optimizer.tensors(Stream.EXP_AVG_SQ)
        first[0][0].fill_(7.0)
        before = [u.clone() for u in first]

        optimizer.guard()

        for u, old, v in zip(first, before, second, strict=True):
            limit = (v / (1 - 0.99**3)).sqrt() * (1 - 0.9**3)
            torch.testing.assert_close(u.abs(), torch.minimum(old.abs(), limit))
            assert bool(((u == old) | (old.abs() > 0.999 * limit)).all())


def test_only_hidden_matrices_are_orthonormalised() -> None:
    """Embedding and head are matrices by shape alone; tied or not, they belong to the scalar optimizer."""
    for tie_embeddings in (False, True):
        model, optimizer = _make(CONFIGS["muon-lion"], tie_embeddings=tie_embeddings)
        names = [name for name, _ in model.named_parameters()]

        taken = {names[position] for position in optimizer.members[Stream.MOMENTUM]}

        assert taken == {
            n for n in names if n.endswith(("query.weight", "key.weight", "value.weight", "out.weight"))
        } | {f"blocks.0.mlp.{part}.weight" for part in ("gate", "up", "down")}
        assert {"embedding", "final_norm.weight"} <= {names[p] for p in optimizer.members[Stream.EXP_AVG]}


def test_all_nodes_start_dion_from_the_same_bases() -> None:
    """Bases follow from the run's seed: replicas that start alike stay alike under alike gradients."""
    one, other = (_make(CONFIGS["dion"])[1] for _ in range(2))

    bases = [optimizer.tensors(Stream.BASIS) for optimizer in (one, other)]

    assert all(torch.equal(a, b) for a, b in zip(*bases, strict=True))
    assert not torch.equal(bases[0][0], bases[0][1])
