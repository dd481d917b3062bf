"""AB-training among peers in the laboratory: by the daemon's decisions and the trainer's code, in virtual time."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lowcomm_node.bench.examine import Examiner
from lowcomm_node.bench.meetings import MeetingsRun
from lowcomm_node.bench.methods import Overrides
from lowcomm_node.bench.perform import run_trial
from lowcomm_node.bench.texts import load_texts
from lowcomm_node.bench.trial import Speeds, Trial
from lowcomm_node.units import Factor
from tests.bench.tiny import text_in, tiny_trial

_FP32 = 1e-5
_SHORT: Overrides = {
    "training.total_steps": 40,
    "ab_training.warm_up_ratio": 0.1,
    "ab_training.epochs": 2,
    "ab_training.rebound_ratio": 0.1,
    "meeting.dense_last_ratio": 0.05,
    "meeting.budget_bytes": 16384,
}
_STILL: Overrides = {"optimizer.lr": 1e-8, "optimizer.weight_decay": 0.0}


def _trial(folder: Path, *overrides: Overrides, speeds: Speeds = Speeds.EQUAL, delay_steps: float = 0.1) -> Trial:
    return tiny_trial(text_in(folder), "ab-swarm", _SHORT, *overrides, speeds=speeds, delay_steps=delay_steps)


def _started(trial: Trial) -> tuple[MeetingsRun, Examiner]:
    texts = load_texts(trial)
    return MeetingsRun(trial, texts), Examiner(
        trial.manifest, texts, trial.replicas * trial.manifest.training.total_steps
    )


@pytest.mark.parametrize("speeds", [*Speeds])
def test_a_run_is_repeatable_and_tells_what_was_sent_in_which_stage(speeds: Speeds, tmp_path: Path) -> None:
    """Frozen factors are fetched, meetings in role take place, and parts add up to all bytes."""
    trial = _trial(tmp_path, {"meeting.params_every_steps": 2}, speeds=speeds)

    first, again = run_trial(trial), run_trial(trial)

    assert replace(first, seconds=0.0) == replace(again, seconds=0.0)
    assert set(first.bytes_by_part) == {"warm-up", "factors", "rebound", "frozen factors"}
    assert all(first.bytes_by_part.values())
    assert sum(first.bytes_by_part.values()) == pytest.approx(first.bytes_per_node)
    assert 0 < first.rank_ratio <= 1


def test_everybody_ends_an_epoch_with_the_same_frozen_factors_and_both_are_trained(tmp_path: Path) -> None:
    """Late records and downloads change when, and not whether; the roles are halves."""
    run, examiner = _started(_trial(tmp_path, delay_steps=1.0))

    run.run(examiner)

    notes = [note for note in run.notes if note is not None]
    assert len(notes) == 4
    assert len({(note.epoch, note.digest) for note in notes}) == 1
    assert sorted(note.factor for note in notes) == [Factor.A, Factor.A, Factor.B, Factor.B]


@pytest.mark.parametrize("delay_steps", [0.1, 2.0])
def test_meetings_in_role_keep_the_mean(delay_steps: float, tmp_path: Path) -> None:
    """Replicas that hardly learn come together around the mean they had, whatever coordinates their meetings were in."""
    run, examiner = _started(_trial(tmp_path, _STILL, {"meeting.params_every_steps": 2}, delay_steps=delay_steps))
    generator = torch.Generator().manual_seed(0)
    for replica in run.replicas:
        for theta in replica.theta:
            theta.add_(0.05 * torch.randn(theta.shape, generator=generator))
    before = _mean(run)

    run.run(examiner)

    assert torch.allclose(_mean(run), before, atol=_FP32)
    assert run.bytes_by_part["factors"] > 0


def _mean(run: MeetingsRun) -> torch.Tensor:
    flat = [torch.cat([theta.flatten() for theta in replica.theta]) for replica in run.replicas]
    return torch.stack(flat).double().mean(0)
