"""Judging the last states of a swarm's nodes."""

from pathlib import Path

import pytest
import torch

from lowcomm_node.cli.pace import measure_pace
from lowcomm_node.cli.swarm.evaluation import Judge
from lowcomm_node.errors import StoreError
from lowcomm_node.settings.canonical import run_id
from lowcomm_node.settings.manifest import Manifest, ModelConfig
from lowcomm_node.settings.node import DataSettings, DeviceSettings, NodeSettings
from lowcomm_node.train.replica import Replica
from lowcomm_node.train.state_file import write_state

MANIFEST = Manifest(
    name="tiny", model=ModelConfig(num_layers=1, num_heads=2, d_model=16, d_ff=32, context_length=16), seed=4
)
RUN = run_id(MANIFEST)


@pytest.fixture
def settings(tmp_path: Path) -> NodeSettings:
    text = tmp_path / "text"
    text.mkdir()
    for index in range(40):
        (text / f"{index}.txt").write_text(f"number {index} is followed by {index + 1}\n" * 20)
    return NodeSettings(data=DataSettings(paths=(str(text),)), device=DeviceSettings(name="cpu", threads=1))


def _write(path: Path, shift: float) -> Path:
    """A state whose parameters all lie ``shift`` beside the initial ones."""
    replica = Replica(MANIFEST, torch.device("cpu"))
    for tensor in replica.theta:
        tensor.add_(shift)
    write_state(path, replica.state(), RUN)
    return path


def test_the_averaged_model_is_judged_by_its_own_loss(tmp_path: Path, settings: NodeSettings) -> None:
    """Two nodes equally far on either side of the initial model: their average is it, their distance is known."""
    states = {"n0": _write(tmp_path / "a", 0.25), "n1": _write(tmp_path / "b", -0.25)}
    judge = Judge(MANIFEST, RUN, settings)
    shares: list[float] = []

    def goes_on(share: float) -> bool:
        shares.append(share)
        return True

    evaluation = judge.evaluate(states, goes_on)

    assert evaluation.loss_consensus == pytest.approx(evaluation.loss_start, abs=1e-5)
    assert evaluation.spread == pytest.approx(0.25, rel=1e-4)
    assert evaluation.losses["n0"] == judge.loss_of(states["n0"])
    assert evaluation.losses["n0"] != pytest.approx(evaluation.losses["n1"], abs=1e-3)
    assert evaluation.loss_mean == pytest.approx((evaluation.losses["n0"] + evaluation.losses["n1"]) / 2)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_an_interrupted_judgement_says_what_it_knows(tmp_path: Path, settings: NodeSettings) -> None:
    """One loss was measured when Ctrl+C came: no average is claimed."""
    states = {"n0": _write(tmp_path / "a", 0.0), "n1": _write(tmp_path / "b", 0.0)}
    answers = iter([True, False])

    evaluation = Judge(MANIFEST, RUN, settings).evaluate(states, lambda share: next(answers))

    assert list(evaluation.losses) == ["n0"]
    assert evaluation.loss_consensus is None
    assert evaluation.spread is None


def test_a_state_of_another_run_is_refused(tmp_path: Path, settings: NodeSettings) -> None:
    """Nobody's report gets somebody else's loss."""
    judge = Judge(MANIFEST, run_id(Manifest(name="other")), settings)

    with pytest.raises(StoreError, match="belongs to run"):
        judge.loss_of(_write(tmp_path / "a", 0.0))


def test_the_pace_is_measured_at_least_once(settings: NodeSettings) -> None:
    """Also when nobody wants to wait for it."""
    assert measure_pace(MANIFEST, settings, lambda: True).steps_per_second > 0
