"""Methods in lockstep: exact where they can be, and counted by formula."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lowcomm_node.algo.dion import distributed_dion_step_
from lowcomm_node.algo.noloco import outer_step_
from lowcomm_node.bench.examine import LOOKS, Examiner
from lowcomm_node.bench.lockstep import LockstepRun
from lowcomm_node.bench.methods import METHODS
from lowcomm_node.bench.perform import run_trial
from lowcomm_node.bench.texts import load_texts
from lowcomm_node.bench.traffic import dion_numbers, pair_bytes, ring_bytes
from lowcomm_node.bench.trial import Speeds, Trial
from lowcomm_node.train.evaluate import language_model_loss
from lowcomm_node.train.gpt import build_gpt, hidden_matrices
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import Stream
from tests.bench.tiny import text_in, tiny_trial

_CPU = torch.device("cpu")
_FP32 = 1e-5
_LOCKSTEP = [name for name, method in METHODS.items() if method.family.is_lockstep]


def _trained(trial: Trial) -> LockstepRun:
    texts = load_texts(trial)
    run = LockstepRun(trial, texts)
    run.run(Examiner(trial.manifest, texts, trial.replicas * trial.manifest.training.total_steps))
    return run


def _mean(replicas: list[Replica]) -> torch.Tensor:
    return torch.stack([_flat(replica) for replica in replicas]).mean(0)


def _flat(replica: Replica) -> torch.Tensor:
    return torch.cat([theta.double().flatten() for theta in replica.theta])


@pytest.mark.parametrize("name", _LOCKSTEP)
def test_a_run_is_repeatable(name: str, tmp_path: Path) -> None:
    """The same trial gives the same numbers; another seed gives others."""
    paths = text_in(tmp_path)

    first, again, other = (run_trial(tiny_trial(paths, name, seed=seed)) for seed in (0, 0, 1))

    assert replace(first, seconds=0.0, captured_ratio=0.0) == replace(again, seconds=0.0, captured_ratio=0.0)
    assert first.loss != other.loss
    assert len(first.curve) == min(LOOKS, 6)
    assert first.tokens == 4 * 6 * 2 * 16


def test_ddp_is_one_replica_with_a_large_batch(tmp_path: Path) -> None:
    """The gradient of all batches together is the mean of the replicas' gradients."""
    trial = tiny_trial(text_in(tmp_path), "ddp")
    texts = load_texts(trial)
    model, whole = (
        build_gpt(trial.manifest.model, trial.manifest.seed),
        build_gpt(trial.manifest.model, trial.manifest.seed),
    )

    for stream in texts.streams:
        (language_model_loss(model, stream.batch(0)) / trial.replicas).backward()
    language_model_loss(whole, torch.cat([stream.batch(0) for stream in texts.streams])).backward()

    for one, other in zip(model.parameters(), whole.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad, rtol=_FP32, atol=1e-6)


def test_distributed_dion_is_dion_on_the_mean_gradient(tmp_path: Path) -> None:
    """So dion-sync needs no momentum per replica here: weights and basis are those of ddp-dion."""
    trial = tiny_trial(text_in(tmp_path), "dion-sync", {"training.grad_clip": 1e6})
    texts = load_texts(trial)
    lockstep = LockstepRun(trial, texts)
    model = build_gpt(trial.manifest.model, trial.manifest.seed)
    position = hidden_matrices(model)[0]
    matrix = list(model.parameters())[position].detach().clone()
    gradients = []
    for stream in texts.streams:
        model.zero_grad()
        language_model_loss(model, stream.batch(0)).backward()
        gradient = list(model.parameters())[position].grad
        assert gradient is not None
        gradients.append(gradient.clone())
    (replica,) = lockstep.replicas
    basis = replica.tensors(Stream.BASIS)[0].clone()
    result = replica.train_step(torch.cat([stream.batch(0) for stream in texts.streams]))

    config = trial.manifest.optimizer
    distributed_dion_step_(
        matrix,
        [torch.zeros_like(matrix) for _ in gradients],
        basis,
        gradients,
        lr=result.learning_rate,
        mu=config.momentum,
        weight_decay=config.weight_decay,
        seed=b"",
    )

    assert torch.allclose(replica.theta[position], matrix, atol=_FP32)
    assert torch.allclose(replica.tensors(Stream.BASIS)[0], basis, atol=1e-4)


def test_synchronous_replicas_never_differ(tmp_path: Path) -> None:
    """Their spread is zero and the averaged model is each of them."""
    result = run_trial(tiny_trial(text_in(tmp_path), "ddp"))

    assert (result.spread, result.loss) == (0.0, result.loss_averaged)


def test_local_adam_with_period_one_keeps_all_alike(tmp_path: Path) -> None:
    """After each step all replicas have the mean of parameters and both moments."""
    ones = {f"meeting.{name}_every_steps": 1 for name in ("params", "exp_avg", "exp_avg_sq")}
    run = _trained(tiny_trial(text_in(tmp_path), "local-adam", ones))

    first, *others = run.replicas
    for stream in first.streams:
        for other in others:
            pairs = zip(first.tensors(stream), other.tensors(stream), strict=True)
            assert all(torch.equal(own, foreign) for own, foreign in pairs), stream


def test_fedavg_keeps_moments_apart(tmp_path: Path) -> None:
    """Only the parameters are averaged."""
    first, second, *_ = _trained(tiny_trial(text_in(tmp_path), "fedavg")).replicas

    assert all(map(torch.equal, first.theta, second.theta))
    assert not torch.equal(first.tensors(Stream.EXP_AVG)[0], second.tensors(Stream.EXP_AVG)[0])


def test_diloco_without_momentum_is_plain_averaging(tmp_path: Path) -> None:
    """a = 0 and b = 1: every replica goes to the mean, as in FedAvg."""
    paths = text_in(tmp_path)
    diloco = _trained(tiny_trial(paths, "diloco-h10", {"outer.momentum": 0.0, "outer.lr": 1.0}))
    averaging = _trained(tiny_trial(paths, "fedavg", {"meeting.params_every_steps": 3}))

    assert torch.allclose(_mean(diloco.replicas), _mean(averaging.replicas), atol=_FP32)


def test_noloco_keeps_the_mean_of_the_solo_steps(tmp_path: Path) -> None:
    """Whoever is paired with whom, the mean of all moves as if each replica had taken its outer step alone."""
    trial = tiny_trial(text_in(tmp_path), "noloco-h10", {"outer.every_steps": 6})
    run, alone = _trained(trial), LockstepRun(trial, texts := load_texts(trial))

    for _ in range(6):
        for replica, stream in zip(alone.replicas, texts.streams, strict=True):
            replica.train_step(stream.batch(replica.data_cursor))
    outer = trial.manifest.outer
    for replica in alone.replicas:
        for theta, phi, delta in zip(replica.theta, replica.phi, replica.delta, strict=True):
            outer_step_(theta, phi, delta, None, momentum=outer.momentum, lr=outer.lr)

    assert torch.allclose(_mean(run.replicas), _mean(alone.replicas), atol=_FP32)
    assert not torch.allclose(_flat(run.replicas[0]), _flat(alone.replicas[0]), atol=_FP32)


def test_bytes_follow_the_formulas(tmp_path: Path) -> None:
    """Ring all-reduces in fp32 or bf16, two numbers a parameter for NoLoCo's pairs, nothing alone."""
    paths = text_in(tmp_path)
    parameters = tiny_trial(paths).manifest.model.num_parameters
    ring = 2 * 3 / 4 * parameters

    sent = {name: run_trial(tiny_trial(paths, name)).bytes_per_node for name in _LOCKSTEP}

    assert sent["ddp"] == pytest.approx(6 * ring * 4)
    assert sent["local"] == 0
    assert sent["diloco-h50"] == pytest.approx(2 * ring * 2)
    assert sent["noloco-h50"] == pytest.approx(2 * 2 * parameters * 2)
    assert sent["fedavg"] == pytest.approx(3 * ring * 2)
    assert sent["local-adam"] == pytest.approx(3 * sent["fedavg"])
    assert 0 < sent["dion-sync"] < sent["ddp-dion"]


@pytest.mark.parametrize(
    ("name", "period"), [("fedavg", "meeting.params_every_steps"), ("diloco-h50", "outer.every_steps")]
)
def test_weights_are_exchanged_after_the_last_step(name: str, period: str, tmp_path: Path) -> None:
    """A schedule that is no multiple of the period ends with an exchange all the same, which is counted."""
    trial = tiny_trial(text_in(tmp_path), name, {period: 4})

    result = run_trial(trial)

    assert result.spread == 0.0
    assert result.bytes_per_node == pytest.approx(2 * ring_bytes(trial.manifest.model.num_parameters, 4, 16))


def test_an_odd_replica_out_sends_nothing(tmp_path: Path) -> None:
    """With three nodes a pair meets and the third takes a solo step."""
    trial = tiny_trial(text_in(tmp_path), "noloco-h50", replicas=3)

    assert run_trial(trial).bytes_per_node == pytest.approx(
        2 * pair_bytes(trial.manifest.model.num_parameters, 16) * 2 / 3
    )


def test_formulas() -> None:
    """By hand: ten numbers among four nodes; one matrix of each kind."""
    trial = tiny_trial((), "dion-sync")
    model = build_gpt(trial.manifest.model, trial.manifest.seed)
    hidden = {4: 16 * 16, 3: 16 * 32}  # attention and SwiGLU matrices of the one block

    assert ring_bytes(10, 4, 32) == 60
    assert pair_bytes(10, 16) == 40
    rest = trial.manifest.model.num_parameters - sum(count * size for count, size in hidden.items())
    assert dion_numbers(model, trial.manifest) == rest + 4 * 4 * (16 + 16) + 3 * 4 * (16 + 32)


def test_lockstep_waits_for_the_slowest(tmp_path: Path) -> None:
    """Eight times slower for one replica is eight times slower for all."""
    paths = text_in(tmp_path)

    assert run_trial(tiny_trial(paths, "fedavg")).duration_steps == 6
    assert run_trial(tiny_trial(paths, "fedavg", speeds=Speeds.UNEQUAL)).duration_steps == pytest.approx(48)
