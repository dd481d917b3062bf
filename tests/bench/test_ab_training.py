"""AB-training in lockstep: what it is without its parts, what its parts do, and what each sends."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from lowcomm_node.algo.factors import Factors, join, reference_split, tall
from lowcomm_node.algo.inner import reference_adamw_step
from lowcomm_node.bench.ab_training import AbTrainingRun
from lowcomm_node.bench.examine import Examiner
from lowcomm_node.bench.factored import FactoredReplica
from lowcomm_node.bench.lockstep import LockstepRun
from lowcomm_node.bench.perform import run_trial
from lowcomm_node.bench.texts import Texts, load_texts
from lowcomm_node.bench.traffic import handed_on_bytes, ring_bytes
from lowcomm_node.bench.trial import Trial
from lowcomm_node.core.ab_stages import join_weights, ramp_at
from lowcomm_node.core.progress import learning_rate_at
from lowcomm_node.settings.ab_training import WITH_STALE
from lowcomm_node.train.evaluate import language_model_loss
from lowcomm_node.train.gpt import build_gpt
from lowcomm_node.units import Factor, Stream
from tests.bench.tiny import text_in, tiny_trial

_FP32 = 1e-5


def _trial(folder: Path, name: str = "ab-training", replicas: int = 4, steps: int = 6, **config: float | str) -> Trial:
    trial = tiny_trial(text_in(folder), name, {"training.total_steps": steps}, replicas=replicas)
    return replace(trial, ab_training=replace(trial.ab_training, **config))  # type: ignore[arg-type]


def _run(trial: Trial, texts: Texts) -> AbTrainingRun:
    run = AbTrainingRun(trial, texts)
    run.run(Examiner(trial.manifest, texts, trial.replicas * trial.manifest.training.total_steps))
    return run


def _flat(replica: FactoredReplica) -> Tensor:
    return torch.cat([theta.flatten() for theta in replica.replica.theta])


def test_a_run_of_warm_up_is_data_parallel(tmp_path: Path) -> None:
    """To the bit: what is between the stages is all that differs."""
    trial = _trial(tmp_path, warm_up_ratio=1.0, rebound_ratio=0.0)
    texts = load_texts(trial)
    ddp = LockstepRun(tiny_trial(trial.data_paths, "ddp"), texts)
    ddp.run(Examiner(trial.manifest, texts, 24))

    run = _run(trial, texts)

    assert all(map(torch.equal, run.groups[0].replica.theta, ddp.replicas[0].theta))
    assert run.bytes_per_node == ddp.bytes_per_node
    assert set(run.bytes_by_part) == {"warm-up"}


@pytest.mark.parametrize("name", ["ab-training", "ab-training-learned", "ab-training-g4"])
def test_a_run_ends_in_one_model(name: str, tmp_path: Path) -> None:
    """Also where its last step is one of factors; tokens are counted once each."""
    trial = _trial(tmp_path, name, rebound_ratio=0.0)

    run, result = _run(trial, load_texts(trial)), run_trial(trial)

    assert result.spread == 0.0
    assert result.tokens == 4 * 6 * 2 * 16
    assert all(torch.equal(_flat(run.groups[0]), _flat(group)) for group in run.groups)


def test_what_was_split_comes_back(tmp_path: Path) -> None:
    """Split and join without a step between them leave the weights as they were."""
    trial = _trial(tmp_path)
    group = FactoredReplica(trial.manifest, Factor.A, 8)
    before = _flat(group).clone()

    factors = group.split(0.0)
    group.take_factors(factors)
    group.take_joined([join([own, own], join_weights(list(Factor), [1, 1], WITH_STALE)) for own in factors])

    assert torch.allclose(_flat(group), before, atol=_FP32)
    assert [own.rank for own in factors] == [min(group.replica.theta[index].shape) for index in group.positions]


@pytest.mark.parametrize("trained", list(Factor))
def test_gradients_reach_only_the_trained_factor(trained: Factor, tmp_path: Path) -> None:
    """The other one stays as the split made it, and W moves within its span; whole tensors train on."""
    trial = _trial(tmp_path)
    batch = load_texts(trial).streams[0].batch(0)
    group = FactoredReplica(trial.manifest, trained, 8)
    factors = group.split(0.0)
    kept = [Factors(own.A.clone(), own.B.clone()) for own in factors]
    whole = [group.replica.theta[index].clone() for index in group.whole]

    group.take_factors(factors)
    for _ in range(3):
        group.train_step(batch, 1.0)

    frozen = Factor.B if trained is Factor.A else Factor.A
    for own, start, position in zip(group.factors, kept, group.positions, strict=True):
        assert torch.equal(own.of(frozen), start.of(frozen))
        assert not torch.equal(own.of(trained), start.of(trained))
        assert torch.allclose(tall(group.replica.theta[position]), own.A @ own.B, atol=_FP32)
    for index, before in zip(group.whole, whole, strict=True):
        assert not torch.equal(group.replica.theta[index], before)


def test_a_stretch_equals_the_equations(tmp_path: Path) -> None:
    """Split, four steps of AdamW on A by one node and on B by the other, join: as in fp64, differentiated through A B."""
    trial = _trial(tmp_path, replicas=2, steps=4, warm_up_ratio=0.0, rebound_ratio=0.0, epochs=1)
    # A gradient near nothing is all rounding in fp32, and Adam would make a whole step of it.
    optimizer = replace(trial.manifest.optimizer, eps=1e-3)
    trial = replace(trial, manifest=replace(trial.manifest, optimizer=optimizer))
    texts, training = load_texts(trial), trial.manifest.training
    run = _run(trial, texts)

    model = build_gpt(trial.manifest.model, trial.manifest.seed).double()
    names = [name for name, _ in model.named_parameters()]
    start = {name: p.detach() for name, p in model.named_parameters()}
    split_names = [names[position] for position in run.groups[0].positions]
    factors = {name: reference_split(tall(start[name]), 0.0) for name in split_names}
    ends = []
    for node, trained in enumerate(Factor):
        variables = {name: factors[name].of(trained) if name in factors else start[name] for name in names}
        moments = {name: (torch.zeros_like(x), torch.zeros_like(x)) for name, x in variables.items()}
        for step in range(4):
            variables = {name: x.detach().requires_grad_() for name, x in variables.items()}
            weights = {
                name: _product(factors[name], x, trained, start[name]) if name in factors else x
                for name, x in variables.items()
            }
            loss = language_model_loss(_With(model, weights), texts.streams[node].batch(step))
            gradients = torch.autograd.grad(loss, list(variables.values()))
            norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
            scale = min(1.0, training.grad_clip / (float(norm) + 1e-6))
            lr = learning_rate_at(step, training, trial.manifest.optimizer.lr) * ramp_at(step, 4, trial.ab_training)
            for (name, x), g in zip(list(variables.items()), gradients, strict=True):
                config = trial.manifest.optimizer
                decay = config.weight_decay if x.ndim > 1 else 0.0
                moved = reference_adamw_step(
                    x.detach(), g * scale, *moments[name], step + 1,
                    lr=lr, beta1=config.beta1, beta2=config.beta2, eps=config.eps, wd=decay,
                )  # fmt: skip
                variables[name], moments[name] = moved[0], (moved[1], moved[2])
        ends.append(variables)

    for name, theta in zip(names, run.groups[0].replica.theta, strict=True):
        if name in factors:
            mean_a, mean_b = (ends[0][name] + factors[name].A) / 2, (ends[1][name] + factors[name].B) / 2
            expected, own = mean_a @ mean_b, tall(theta)
        else:
            expected, own = (ends[0][name] + ends[1][name]) / 2, theta
        assert torch.allclose(own.double(), expected, atol=2e-4), name


class _With(torch.nn.Module):
    """The model with other weights."""

    def __init__(self, model: torch.nn.Module, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self._model, self._weights = model, weights

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = functional_call(self._model, self._weights, (tokens,))
        return output


def _product(start: Factors, own: Tensor, trained: Factor, like: Tensor) -> Tensor:
    matrix = own @ start.B if trained is Factor.A else start.A @ own
    return matrix if like.shape[0] >= like.shape[1] else matrix.T


def test_moments_are_carried_to_the_next_rank(tmp_path: Path) -> None:
    """Cut, then filled up with zeros; they are not those of the first step again."""
    trial = _trial(tmp_path)
    batch = load_texts(trial).streams[0].batch(0)
    group = FactoredReplica(trial.manifest, Factor.A, 8)
    given, left = [], []
    for cutoff in (0.0, 0.4, 0.0):
        group.take_factors(group.split(cutoff))
        assert group._optimizer is not None
        moments = group._optimizer.tensors(Stream.EXP_AVG)
        given.append([moment.clone() for moment in moments])
        group.train_step(batch, 1.0)
        left.append([moment.clone() for moment in moments])
        group.take_joined(group.factors)

    for none, narrow, wide, first, second, last in zip(*given, *left, strict=True):
        rank = narrow.shape[1]
        assert not none.any()
        assert rank < first.shape[1]
        assert torch.equal(narrow, first[:, :rank])
        assert torch.equal(wide[:, :rank], second)
        assert not wide[:, rank:].any()
        assert last[:, rank:].any()


def test_parts_send_what_they_must(tmp_path: Path) -> None:
    """By hand for 4 nodes and 6 steps: 2 whole at first, then twice 1 in factors and 1 whole; nothing is cut off, but ranks are told."""
    trial = _trial(tmp_path, warm_up_ratio=1 / 3, cutoff=1e-9)
    whole, of_a, of_b, count = _numbers(trial)

    result = run_trial(trial)

    parameters = trial.manifest.model.num_parameters
    assert result.rank_ratio == 1.0
    assert sum(result.bytes_by_part.values()) == result.bytes_per_node
    assert result.bytes_by_part == pytest.approx(
        {
            "warm-up": 2 * ring_bytes(parameters, 4, 32),
            "rebound": 2 * ring_bytes(parameters, 4, 32),
            "groups": 0.0,
            "joins": 2 * ring_bytes(of_a + of_b + 3 * whole, 4, 32) + ring_bytes(count, 4, 32),
        }
    )


def test_what_is_cut_off_is_not_sent(tmp_path: Path) -> None:
    """The second join is smaller by the share of the ranks; the first split cuts nothing."""
    whole, cut = (run_trial(_trial(tmp_path, warm_up_ratio=1 / 3, cutoff=cutoff)) for cutoff in (0.0, 0.5))

    assert whole.rank_ratio == 1.0
    assert 0 < cut.rank_ratio < 0.8
    assert whole.bytes_by_part["joins"] / 2 < cut.bytes_by_part["joins"] < whole.bytes_by_part["joins"]


def test_groups_and_joins_by_formula(tmp_path: Path) -> None:
    """Groups of two average their factor in each of two steps; a factor joined by its trainers alone is handed on to the others."""
    alone, groups, learned = (
        _run(trial, load_texts(trial)).bytes_by_part
        for trial in (
            _trial(tmp_path, cutoff=0.0, warm_up_ratio=1 / 3, **config)
            for config in ({"group_size": 1}, {"group_size": 2}, {"join": "only-learned"})
        )
    )
    whole, of_a, of_b, _ = _numbers(_trial(tmp_path))

    assert alone["groups"] == 0
    assert groups["groups"] == pytest.approx(ring_bytes(of_a + whole, 2, 32) + ring_bytes(of_b + whole, 2, 32))
    assert alone["joins"] == pytest.approx(2 * ring_bytes(of_a + of_b + 3 * whole, 4, 32))
    assert learned["joins"] == pytest.approx(
        2 * (ring_bytes(3 * whole, 4, 32) + handed_on_bytes(of_a, 2, 4, 32) + handed_on_bytes(of_b, 2, 4, 32))
    )


def _numbers(trial: Trial) -> tuple[int, int, int, int]:
    """In all whole tensors, all factors A, all factors B, uncut; and how many tensors are split."""
    group = FactoredReplica(trial.manifest, Factor.A, trial.ab_training.least_side)
    shapes = [tall(group.replica.theta[index]).shape for index in group.positions]
    whole = sum(group.replica.theta[index].numel() for index in group.whole)
    return whole, sum(m * n for m, n in shapes), sum(n * n for _, n in shapes), len(shapes)


def test_handed_on_bytes() -> None:
    """Ten numbers: a ring of two sends 40 bytes each, then the four others are sent 40 each."""
    assert handed_on_bytes(10, 2, 6, 32) == pytest.approx((2 * 40 + 4 * 40) / 6)
    assert handed_on_bytes(10, 4, 4, 32) == ring_bytes(10, 4, 32)


def test_replicas_differ_only_while_factors_are_trained(tmp_path: Path) -> None:
    """Looks during a run show each group then, and one model at all other times."""
    trial = _trial(tmp_path, steps=24, warm_up_ratio=0.25, rebound_ratio=1 / 8)

    spreads = [point.spread for point in run_trial(trial).curve]

    # Looks after steps 3, 6, ... 24; factors in steps 6 to 11 and 15 to 20 (from 0).
    assert [spread > 0 for spread in spreads] == [False, False, True, True, False, True, True, False]
    assert all(a != b for a, b in itertools.pairwise(spreads) if a or b)
