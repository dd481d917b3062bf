"""settings.presets: fitting values for each optimizer the manifest allows."""

from dataclasses import asdict
from typing import get_args, get_type_hints

import pytest

from lowcomm_node.settings.load import build
from lowcomm_node.settings.manifest import Manifest, OptimizerConfig
from lowcomm_node.settings.presets import MODELS, OPTIMIZERS, model_table, with_model
from lowcomm_node.settings.rules import OneOf


def test_each_allowed_kind_has_a_preset_of_its_own() -> None:
    """A kind that is added to the manifest must be given values here."""
    _, rule = get_args(get_type_hints(OptimizerConfig, include_extras=True)["kind"])
    assert isinstance(rule, OneOf)

    assert tuple(OPTIMIZERS) == rule.words
    assert all(kind == config.kind for kind, config in OPTIMIZERS.items())


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_each_preset_passes_the_manifests_rules(kind: str) -> None:
    """Dataclasses made in code are not checked when they are made."""
    manifest = Manifest(optimizer=OPTIMIZERS[kind])

    assert build(Manifest, asdict(manifest), "preset") == manifest


def test_the_default_manifest_has_the_muon_preset() -> None:
    """``init`` with and without ``--optimizer muon``, and a manifest without [optimizer], are the same run."""
    assert OPTIMIZERS["muon"] == OptimizerConfig()


@pytest.mark.parametrize("size", MODELS)
def test_each_size_is_about_what_its_name_says(size: str) -> None:
    """Within a tenth, in a manifest that passes every rule."""
    manifest = with_model(Manifest(), MODELS[size])
    wished = float(size[:-1]) * {"m": 1e6, "b": 1e9}[size[-1]]

    assert manifest.model.num_parameters == pytest.approx(wished, rel=0.1)
    assert build(Manifest, asdict(manifest), "preset") == manifest


def test_wider_models_learn_in_smaller_steps() -> None:
    """By 1 / width where updates have the size of Adam's; otherwise the preset's rate stays."""
    large = MODELS["1.3b"]
    for kind, optimizer in OPTIMIZERS.items():
        lr = with_model(Manifest(optimizer=optimizer), large).optimizer.lr
        expected = optimizer.lr if kind in ("sgd", "dion") else optimizer.lr * 96 / 2048
        assert lr == pytest.approx(expected, rel=0.05), kind


def test_the_table_lists_every_size_with_its_cost() -> None:
    """A line each, numbers from the same formulas as everywhere."""
    head, *rows = model_table().splitlines()

    assert head.split() == ["size", "parameters", "layers", "width", "heads", "context", "GFLOP", "a", "token"]
    assert [row.split()[0] for row in rows] == list(MODELS)
    assert rows[3].split() == ["125m", "127,823,616", "18", "768", "12", "1024", "0.935"]
