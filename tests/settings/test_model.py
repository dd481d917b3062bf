"""settings.model: what may stand in [model], and what a model costs."""

from collections.abc import Mapping
from typing import Any

import pytest

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.canonical import canonical_bytes, manifest_from_canonical, run_id
from lowcomm_node.settings.load import build
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.model import ModelConfig

CONFIG = {"model_type": "llama", "vocab_size": 256, "rope_theta": 1e4, "tie_word_embeddings": False}


def manifest_of(**model: object) -> Manifest:
    """Of a model section."""
    return build(Manifest, {"model": {"kind": "transformers", "parameters": 1000, **model}}, "run.toml")


def test_flops_are_those_of_the_products() -> None:
    """Each of forward, gradient of inputs and of weights: twice a product's size; scores and mixing likewise."""
    config = ModelConfig(num_layers=2, d_model=32, num_heads=2, d_ff=48, vocab_size=300, context_length=64)
    products = 2 * (4 * 32 * 32 + 3 * 32 * 48) + 300 * 32
    attention = 2 * 2 * 32 * 64

    assert config.flops_per_token == 3 * 2 * (products + attention)


def test_a_table_and_its_json_are_one_run() -> None:
    """In any order, with any white space; another value is another run."""
    table = manifest_of(config=CONFIG)
    text = manifest_of(
        config='{"vocab_size": 256,  "tie_word_embeddings": false, "rope_theta": 10000.0, "model_type": "llama"}'
    )

    assert table == text
    assert run_id(table) == run_id(text)
    assert table.model.options == CONFIG
    assert run_id(manifest_of(config={**CONFIG, "rope_theta": 1e5})) != run_id(table)


def test_the_canonical_form_reads_back() -> None:
    """A joiner gets this manifest from the swarm; other spellings of the table are refused."""
    data = canonical_bytes(manifest_of(config=CONFIG))

    assert manifest_from_canonical(data, 1 << 18) == manifest_of(config=CONFIG)
    with pytest.raises(ConfigError, match="not in canonical form"):
        manifest_from_canonical(data.replace(rb"\"llama\"", rb" \"llama\""), 1 << 18)


def test_keys_that_came_later_keep_old_run_ids() -> None:
    """They are in the canonical form only where they say something."""
    assert b"parameters" not in canonical_bytes(Manifest())
    assert b'"parameters":1000' in canonical_bytes(manifest_of(config=CONFIG))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"config": "{"}, 'model.config = "{" is not allowed; allowed: a table, or a JSON object as a text'),
        ({"config": "[1]"}, "a table, or a JSON object"),
        ({"config": '{"a": NaN}'}, "a table, or a JSON object"),
        ({"config": '{"a": ' + "[" * 20_000}, "a table, or a JSON object"),
        ({"config": {"a": "x" * 40_000}}, "of at most 16384 characters"),
        ({}, 'the config of a model, with its "model_type"'),
        ({"config": {"model_type": 3}}, 'with its "model_type"'),
        ({"config": {**CONFIG, "vocab_size": 300}}, "model.vocab_size = 256 is not allowed; allowed: 300"),
        ({"config": CONFIG, "parameters": 0}, "the number of trained values"),
        ({"config": CONFIG, "task": "x"}, "model.task = 'x'"),
        ({"kind": "task"}, "the name of an installed task"),
        ({"kind": "gpt"}, "model.parameters = 1000 is not allowed; allowed: nothing"),
    ],
)
def test_what_makes_no_sense_together_is_refused(model: Mapping[str, Any], words: str) -> None:
    """With what would."""
    with pytest.raises(ConfigError) as caught:
        manifest_of(**model)

    assert words in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_budget_is_a_bit_for_each_parameter_of_any_model() -> None:
    """With 64 KiB for the smallest, whose tensors are not known before they are built."""
    small, large = (manifest_of(config=CONFIG, parameters=count) for count in (1000, 80_000_000))

    assert (small.budget_bytes, large.budget_bytes) == (1 << 16, 10_000_000)
