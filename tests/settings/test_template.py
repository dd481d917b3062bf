"""settings.template: comments and values from the schema, and nothing lost on the way back."""

import re
import tomllib
from dataclasses import fields

from lowcomm_node.settings.load import build
from lowcomm_node.settings.manifest import Manifest, ModelConfig
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.settings.schema import keys_of
from lowcomm_node.settings.template import field_docs, manifest_template, settings_template

KEY_LINE = re.compile(r"^# (\w+ = )", re.MULTILINE)


def test_a_manifest_template_reads_back() -> None:
    """What ``init`` writes is the manifest it was made of, values that are not defaults included."""
    manifest = Manifest(name='the "first" \\ run', seed=7, model=ModelConfig(d_model=128, qk_norm=False))

    assert build(Manifest, tomllib.loads(manifest_template(manifest)), "x") == manifest


def test_a_settings_template_changes_nothing_until_edited() -> None:
    """All keys are comments; with the # removed they are the defaults."""
    text = settings_template(NodeSettings())

    assert build(NodeSettings, tomllib.loads(text), "x") == NodeSettings()
    uncommented = tomllib.loads(KEY_LINE.sub(r"\1", text))
    assert build(NodeSettings, uncommented, "x") == NodeSettings()
    assert sum(len(v) if isinstance(v, dict) else 1 for v in uncommented.values()) == len(keys_of(NodeSettings))


def test_each_key_stands_under_its_comment() -> None:
    """Docstring, allowed values and default, then the key."""
    text = manifest_template(Manifest())

    assert "# Transformer blocks.\n# Allowed: a whole number from 1 to 512. Default: 3.\nnum_layers = 3\n" in text
    assert '# Allowed: "direct", "momentum". Default: "direct".\nmixing = "direct"\n' in text
    assert "# The network every node trains.\n[model]\n" in text


def test_every_field_is_documented() -> None:
    """A key without a sentence is a key nobody can use."""
    for document in (Manifest, NodeSettings):
        parts = {key.rpartition(".")[0] for key in keys_of(document)}
        classes = [document, *(type(getattr(document(), part)) for part in parts if part)]
        for cls in classes:
            plain = {field.name for field in fields(cls)} - parts
            assert plain <= field_docs(cls).keys(), cls
