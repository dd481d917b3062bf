"""The example files under deploy/configs are what they say they are."""

from pathlib import Path

import pytest

from lowcomm_node.settings.load import read_manifest, read_toml
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.merge import TomlDocument, merge
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.settings.presets import OPTIMIZERS

CONFIGS = Path(__file__).parents[2] / "deploy" / "configs"


def test_home_node_is_sound() -> None:
    """A volunteer may copy it as it is."""
    path = CONFIGS / "home-node.toml"
    settings, _ = merge(NodeSettings(), TomlDocument(path=str(path), table=read_toml(path)), {}, [])
    assert settings.network.host == "0.0.0.0"
    assert settings.metrics.host == "127.0.0.1"


def test_the_30m_manifest_is_sound_and_of_its_size() -> None:
    """Its name promises a number of parameters."""
    manifest = read_manifest(CONFIGS / "language-model-30m.toml")
    assert manifest.model.num_parameters == pytest.approx(30e6, rel=0.1)


@pytest.mark.parametrize("kind", ["adamw", "dion"])
def test_the_manifest_of_an_optimizer_has_its_preset(kind: str) -> None:
    """The example is the default run but for its name and what ``init --optimizer`` would write."""
    manifest = read_manifest(CONFIGS / f"{kind}.toml")

    assert manifest == Manifest(name=f"bytes-{kind}", optimizer=OPTIMIZERS[kind])
