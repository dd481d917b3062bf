"""Meetings in virtual time, by the node's own decisions."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lowcomm_node.bench.examine import Examiner
from lowcomm_node.bench.meetings import MeetingsRun
from lowcomm_node.bench.methods import METHODS
from lowcomm_node.bench.perform import run_trial
from lowcomm_node.bench.texts import load_texts
from lowcomm_node.bench.trial import Speeds, Trial
from tests.bench.tiny import text_in, tiny_trial

_FP32 = 1e-5
_OPTIMIZERS = [name for name in METHODS if name.removeprefix("meet-") in {"adopt", "mtdao", "sgd", "muon", "dion"}]


def _started(trial: Trial) -> tuple[MeetingsRun, Examiner]:
    texts = load_texts(trial)
    return MeetingsRun(trial, texts), Examiner(
        trial.manifest, texts, trial.replicas * trial.manifest.training.total_steps
    )


@pytest.mark.parametrize(
    "name",
    ["meet", "meet-dense-k2", "meet-sparse-8k-bf16-k2", "meet-ab-8k-int4-k2", "meet-outer-momentum", *_OPTIMIZERS],
)
def test_a_run_is_repeatable(name: str, tmp_path: Path) -> None:
    """The same trial gives the same numbers, meetings included."""
    trial = tiny_trial(text_in(tmp_path), name)

    first, again = run_trial(trial), run_trial(trial)

    assert replace(first, seconds=0.0) == replace(again, seconds=0.0)
    assert first.meetings > 0
    # In a run of six steps somebody may enter the last phase more than its slack ahead of somebody else.
    assert first.failures.keys() <= {"busy", "yielded", "oversized"}
    assert first.tokens == 4 * 6 * 2 * 16


@pytest.mark.parametrize("delay_steps", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("name", ["meet", "meet-dense-k2", "meet-dense-int4-k2", "meet-sparse-8k-bf16-k2"])
def test_meetings_keep_the_mean(name: str, delay_steps: float, tmp_path: Path) -> None:
    """Replicas that start apart and hardly learn come together around the mean they had, however late corrections are."""
    still = {
        "optimizer.lr": 1e-8,
        "optimizer.weight_decay": 0.0,
        "training.total_steps": 40,
        "meeting.budget_bytes": 16384,
    }
    trial = tiny_trial(text_in(tmp_path), name, still, delay_steps=delay_steps)
    run, examiner = _started(trial)
    generator = torch.Generator().manual_seed(0)
    for replica in run.replicas:
        for theta, phi in zip(replica.theta, replica.phi, strict=True):
            theta.add_(torch.randn(theta.shape, generator=generator), alpha=0.01)
            phi.copy_(theta)
    before = torch.stack([torch.cat([t.flatten().double() for t in replica.theta]) for replica in run.replicas])

    run.run(examiner)

    after = torch.stack([torch.cat([t.flatten().double() for t in replica.theta]) for replica in run.replicas])
    assert torch.allclose(after.mean(0), before.mean(0), atol=_FP32)
    assert float((after - after.mean(0)).norm()) < 0.8 * float((before - before.mean(0)).norm())


def test_bytes_are_those_of_the_payloads(tmp_path: Path) -> None:
    """Two whole models a meeting in fp32: one there, one back."""
    trial = tiny_trial(text_in(tmp_path), "meet-dense-k2", {"meeting.dtype": "fp32"})

    result = run_trial(trial)

    # An offer to somebody busy is sent as well.
    assert result.bytes_per_node >= result.meetings * 2 * result.parameters * 4 / trial.replicas
    assert result.bytes_per_node < 1.5 * result.meetings * 2 * result.parameters * 4 / trial.replicas


def test_whole_tensors_take_the_whole_difference(tmp_path: Path) -> None:
    """fp32 and no delay: nothing of a difference is left over, and a low rank leaves something."""
    paths = text_in(tmp_path)
    whole = {"meeting.dtype": "fp32", "meeting.clip_ratio": 0.0}

    dense = run_trial(tiny_trial(paths, "meet-dense-k2", whole, delay_steps=0.0))
    rank = run_trial(tiny_trial(paths, "meet-ab-8k-bf16-k2", {"meeting.budget_bytes": 1024}, delay_steps=0.0))

    assert dense.captured_ratio == pytest.approx(1.0, abs=1e-3)
    assert 0.0 < rank.captured_ratio < 0.999


def test_unequal_replicas_share_the_work(tmp_path: Path) -> None:
    """Tokens are equal in total; nobody waits, so it takes about as long as the sum of speeds says."""
    paths = text_in(tmp_path)
    longer = {"training.total_steps": 24}

    equal = run_trial(tiny_trial(paths, "meet", longer))
    unequal = run_trial(tiny_trial(paths, "meet", longer, speeds=Speeds.UNEQUAL))

    assert equal.tokens == unequal.tokens
    assert equal.duration_steps == pytest.approx(24, abs=1)
    assert 24 * 4 / 1.875 - 2 < unequal.duration_steps < 24 * 4 / 1.875 * 1.5


def test_busy_partners_are_counted(tmp_path: Path) -> None:
    """Messages that travel for long make nodes meet others who are in a meeting."""
    result = run_trial(tiny_trial(text_in(tmp_path), "meet-dense-k2", {"training.total_steps": 40}, delay_steps=1.5))

    assert sum(result.failures.values()) > 0
    assert result.meetings > 0


def test_the_manifests_timing_is_followed(tmp_path: Path) -> None:
    """Gaps drawn as the manifest says: geometric ones bring other meetings than uniform ones."""
    texts = text_in(tmp_path)
    uniform = tiny_trial(texts, "meet", {"training.total_steps": 12, "meeting.params_every_steps": 4})
    geometric = tiny_trial(
        texts,
        "meet",
        {"training.total_steps": 12, "meeting.params_every_steps": 4, "meeting.timing": "bernoulli"},
    )

    assert run_trial(uniform).curve != run_trial(geometric).curve
