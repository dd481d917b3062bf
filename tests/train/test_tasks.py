"""Own tasks: found by name, held to their interface, trained and exchanged like a language model."""

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lowcomm_node.errors import ConfigError, DataError
from lowcomm_node.settings.load import build
from lowcomm_node.settings.manifest import Manifest, OptimizerConfig
from lowcomm_node.settings.node import DeviceSettings, NodeSettings
from lowcomm_node.train.evaluate import loss_of, validation_loss
from lowcomm_node.train.execution import Execution
from lowcomm_node.train.foreign import sized
from lowcomm_node.train.model import matrices_of
from lowcomm_node.train.replica import Replica
from lowcomm_node.train.session import Session, build_session
from lowcomm_node.train.tasks import find_task, load_task
from lowcomm_node.units import PeerId
from tests.train.pairs import RUN, tiny_manifest, train
from tests.train.shapes import EXAMPLE, install


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example, for each test anew."""
    (tmp_path / "site").mkdir()
    install(tmp_path / "site", monkeypatch)


def manifest_of(**options: object) -> Manifest:
    """A run of the example, small."""
    model: dict[str, Any] = {"kind": "task", "task": "shapes", "context_length": 8, "parameters": 1}
    model["config"] = {"size": 8, "width": 16, "examples": 400, **options}
    read = build(Manifest, {"model": model}, "run.toml").model
    return sized(dataclasses.replace(tiny_manifest(), model=read, optimizer=OptimizerConfig(kind="muon", lr=0.02)))


def session_of(manifest: Manifest, peer: str = "me") -> Session:
    """A replica on the example's pictures."""
    settings = NodeSettings(eval_every_steps=10, device=DeviceSettings(name="cpu", threads=1))
    return build_session(manifest, settings, RUN, PeerId(peer))


def test_the_example_learns() -> None:
    """From even odds, log 2, to much better ones on pictures that it was not trained on; tokens count examples."""
    manifest = manifest_of()
    manifest = dataclasses.replace(manifest, training=dataclasses.replace(manifest.training, batch_size=16))
    session = session_of(manifest)
    replica = session.replica

    def look(parts: int = 1) -> float:
        return validation_loss(replica.model, session.validation, parts, replica.loss)

    before = look()
    train(session, 150)

    assert before == pytest.approx(0.69, abs=0.1)
    assert look() < 0.5
    assert look(3) == pytest.approx(look(), rel=1e-5)
    assert replica.tokens == 150 * 16 * 8
    assert session.validation_tokens == 20 * 8


def test_weights_and_batches_are_reproducible() -> None:
    """Of run, node and number alone: another node draws other pictures, and begins with the same weights."""
    manifest = manifest_of()
    one, same, other = session_of(manifest), session_of(manifest), session_of(manifest, "other")

    for a, b in zip(one.replica.theta, other.replica.theta, strict=True):
        assert torch.equal(a, b)
    torch.manual_seed(3)
    assert torch.equal(one.stream.batch(4)[0], same.stream.batch(4)[0])
    assert not torch.equal(one.stream.batch(4)[0], one.stream.batch(5)[0])
    assert not torch.equal(one.stream.batch(4)[0], other.stream.batch(4)[0])
    assert train(one, 3) == train(same, 3)


def test_parts_of_a_batch_give_its_gradient() -> None:
    """Of a batch of several tensors."""
    whole, parts = session_of(manifest_of()), session_of(manifest_of())
    parts.replica.micro_batches = 3

    results = [session.replica.train_step(session.stream.batch(0)) for session in (whole, parts)]

    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-6)
    assert results[0].gradient_norm == pytest.approx(results[1].gradient_norm, rel=1e-5)


def test_the_task_says_which_matrices_are_hidden() -> None:
    """By name; filters have four dimensions."""
    manifest = manifest_of()
    model = session_of(manifest).replica.model

    names = [name for name, _ in model.named_parameters()]
    assert [names[position] for position in matrices_of(model, manifest)] == ["4.weight"]


def test_a_task_that_is_not_installed_is_named_with_those_that_are() -> None:
    """Before anything is built: nothing of a manifest is ever fetched or run."""
    manifest = manifest_of()
    unknown = dataclasses.replace(manifest, model=dataclasses.replace(manifest.model, task="forms"))

    with pytest.raises(
        ConfigError, match=r"model.task = 'forms': no installed package brings it \(installed: shapes, vgg, vit\)"
    ):
        loss_of(unknown)


def test_a_task_without_its_functions_is_none(tmp_path: Path) -> None:
    """The missing ones are named; a module that cannot be imported says why."""
    module = tmp_path / "site" / "lowcomm_shapes.py"
    module.write_text("def build(options): ...\ndef loss(model, batch): ...\n")
    with pytest.raises(ConfigError, match="lacks the functions matrices, load, batch"):
        find_task("shapes")

    sys.modules.pop("lowcomm_shapes")
    module.write_text("import no_such_package_at_all\n")
    with pytest.raises(ConfigError, match="lowcomm_shapes cannot be loaded: No module named 'no_such_package_at_all'"):
        find_task("shapes")


def test_data_must_leave_something_for_both_sides() -> None:
    """Nothing to train on is a data error."""
    with pytest.raises(DataError, match="0 examples to train on and 1 held out"):
        load_task(manifest_of(examples=1), (), RUN, PeerId("me"), 4)


def test_models_whose_state_would_not_be_exchanged_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Running statistics and frozen weights: nodes would differ, and nobody would see it."""
    manifest, task = manifest_of(), find_task("shapes")
    frozen = nn.Linear(2, 2)
    frozen.weight.requires_grad_(False)
    for model, words in (
        (nn.Sequential(nn.BatchNorm2d(1)), "0 keeps running statistics"),
        (frozen, "weight is frozen"),
    ):
        monkeypatch.setattr(task, "build", lambda _options, model=model: model)
        with pytest.raises(ConfigError, match=words):
            sized(manifest)


def test_a_model_that_cannot_recompute_says_so() -> None:
    """When it is asked to; in need it is left as it is."""
    manifest = manifest_of()
    Replica(manifest, torch.device("cpu"), execution=Execution(recompute="when_short"))

    with pytest.raises(ConfigError, match="model cannot do that"):
        Replica(manifest, torch.device("cpu"), execution=Execution(recompute="always"))


def test_the_page_shows_the_example_that_there_is() -> None:
    """docs/tasks.md: its entry point, its functions' names and its number of parameters are those of the package."""
    page = (EXAMPLE.parents[1] / "tasks.md").read_text(encoding="utf-8")

    assert 'shapes = "lowcomm_shapes"' in page
    assert 'shapes = "lowcomm_shapes"' in (EXAMPLE / "pyproject.toml").read_text()
    assert re.findall(r"^\| `(\w+)\(", page, re.MULTILINE) == ["build", "matrices", "loss", "load", "batch"]
    model = {"kind": "task", "task": "shapes", "parameters": 1}
    parameters = sized(build(Manifest, {"model": model}, "run.toml")).model.parameters
    assert f"parameters = {parameters}\n" in page
