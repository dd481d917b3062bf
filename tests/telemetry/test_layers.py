"""Layers of all kinds of models in a few words."""

import pytest

from lowcomm_node.telemetry.layers import layers_of


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("blocks.*.attention.query", "attention"),
        ("model.layers.*.self_attn.q_proj.weight", "attention"),
        ("blocks.*.mlp.gate", "mlp"),
        ("blocks.*.rise.weight", "mlp"),
        ("transformer.h.*.mlp.c_fc.weight", "mlp"),
        ("features.*.weight", "convolution"),
        ("layer1.*.conv2.weight", "convolution"),
        ("head.weight", "other"),
        ("", "other"),
    ],
)
def test_names_of_parameters_have_a_word(name: str, word: str) -> None:
    """Those of the project's models and of well-known ones."""
    assert layers_of(name) == word
