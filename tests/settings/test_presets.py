"""settings.presets: fitting values for each optimizer the manifest allows."""

from dataclasses import asdict
from typing import get_args, get_type_hints

import pytest

from lowcomm_node.settings.load import build
from lowcomm_node.settings.manifest import Manifest, OptimizerConfig
from lowcomm_node.settings.presets import OPTIMIZERS
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
