"""The tasks vit and vgg as a node trains them: on digits, exchanged, resumed and judged."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import DataSettings, DeviceSettings, NodeSettings
from lowcomm_node.train.evaluate import look_at
from lowcomm_node.train.held_out import held_out_batches
from lowcomm_node.train.model import matrices_of
from lowcomm_node.train.session import Session, build_session
from lowcomm_node.train.tasks import find_task
from lowcomm_node.units import PeerId
from tests.train.pairs import RUN, train
from tests.train.vision.manifests import SMALL, picture_manifest

TASKS = ("vit", "vgg")


def session_of(manifest: Manifest, peer: str = "me", *paths: Path) -> Session:
    """A node's replica and data."""
    data = DataSettings(paths=tuple(map(str, paths)))
    settings = NodeSettings(eval_every_steps=10, device=DeviceSettings(name="cpu", threads=1), data=data)
    return build_session(manifest, settings, RUN, PeerId(peer))


@pytest.mark.parametrize("task", TASKS)
def test_digits_are_learnt(task: str) -> None:
    """From one in ten to most of those that nobody trains on; parts of a batch, and tokens, count pictures."""
    session = session_of(picture_manifest(task))
    replica = session.replica
    before = look_at(replica.model, session.validation, replica.loss)

    train(session, 100)

    after, in_parts = (look_at(replica.model, session.validation, replica.loss, parts) for parts in (1, 5))
    assert before.accuracy == pytest.approx(0.1, abs=0.1)
    assert after.accuracy > 0.8
    assert after.loss < 0.5 * before.loss
    assert in_parts.accuracy == pytest.approx(after.accuracy, abs=1e-6)
    assert in_parts.loss == pytest.approx(after.loss, rel=1e-5)
    assert replica.tokens == 100 * 32
    assert session.validation_tokens == 376
    assert session.bytes_per_token == 0


@pytest.mark.parametrize("task", TASKS)
def test_nodes_begin_alike_and_go_on_where_they_were(task: str) -> None:
    """Weights are the run's; a batch is that of run, node and number, whoever asks and when."""
    manifest = picture_manifest(task)
    one, again, other = session_of(manifest), session_of(manifest), session_of(manifest, "other")

    for a, b in zip(one.replica.theta, other.replica.theta, strict=True):
        assert torch.equal(a, b)
    assert train(one, 4) == train(again, 4)
    assert torch.equal(one.stream.batch(9)[0], again.stream.batch(9)[0])
    assert not torch.equal(one.stream.batch(9)[0], other.stream.batch(9)[0])


@pytest.mark.parametrize(("task", "parameters"), [("vit", 201_034), ("vgg", 99_370)])
def test_networks_have_the_size_that_the_page_says(task: str, parameters: int) -> None:
    """docs/tasks.md names it; hidden matrices are neither input, head nor vectors, and nothing is a buffer."""
    found = find_task(task)
    model = found.build({})
    page = (Path(__file__).resolve().parents[3] / "docs" / "tasks.md").read_text(encoding="utf-8")

    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert f"{parameters:,}" in page
    named = dict(model.named_parameters())
    assert set(found.matrices(model)) <= named.keys()
    assert not any(name.startswith(("head", "embed", "features", "positions")) for name in found.matrices(model))
    assert len(matrices_of(model, picture_manifest(task))) == {"vit": 4 * 6, "vgg": 1}[task]
    assert not list(model.buffers())
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


@pytest.mark.parametrize("task", TASKS)
def test_other_data_sets_fit(task: str) -> None:
    """Colours, other sides and other numbers of classes; one example's logits do not depend on its neighbours."""
    found = find_task(task)
    for options in ({"dataset": "cifar10"}, {"dataset": "folder", "classes": ["a", "b", "c"], "size": 48}):
        side = 32 if options["dataset"] == "cifar10" else 48
        model = found.build({**SMALL[task], **options})
        pictures = torch.rand(3, 3, side, side)

        logits = model(pictures)

        assert logits.shape == (3, 10 if side == 32 else 3)
        assert torch.allclose(model(pictures[:1]), logits[:1], atol=1e-5)


def test_accuracy_counts_right_answers() -> None:
    """Over batches of unequal size, autocast or not."""
    loss = session_of(picture_manifest("vgg")).replica.loss
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2))
    model = nn.Sequential(nn.Flatten(), layer)
    sides = torch.tensor([[1.0, 0.0]] * 4 + [[0.0, 1.0]])
    answers = torch.tensor([0, 0, 0, 1, 0])
    batches = [(sides[:2], answers[:2]), (sides[2:], answers[2:])]

    for is_autocast in (False, True):
        look = look_at(model, batches, dataclasses.replace(loss, is_autocast=is_autocast))
        assert look.accuracy == pytest.approx(3 / 5)


def test_export_is_judged_on_the_same_pictures() -> None:
    """``eval`` looks at all that is held out, a training node at the first of it."""
    manifest = picture_manifest("vgg")
    batches = held_out_batches(manifest, DataSettings(), Path("unused"), RUN)
    assert sum(len(batch[1]) for batch in batches) == 376
