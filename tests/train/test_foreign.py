"""Models of the package transformers: the same everywhere, trained as ours, and nothing fetched."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.load import build
from lowcomm_node.settings.manifest import Manifest, OptimizerConfig
from lowcomm_node.train.evaluate import validation_loss
from lowcomm_node.train.foreign import sized
from lowcomm_node.train.model import build_model, count_parameters, load_parameters, matrices_of, output_head, recompute
from lowcomm_node.train.replica import Replica
from lowcomm_node.train.state_file import read_state, write_state
from lowcomm_node.units import Stream
from tests.train.pairs import RUN, Pair, distance, tiny_manifest, tiny_meeting, tiny_session, train

LLAMA = {
    "model_type": "llama", "vocab_size": 256, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
GPT2 = {
    "model_type": "gpt2", "vocab_size": 256, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32,
    "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
}  # fmt: skip
KINDS = {"llama": LLAMA, "gpt2": GPT2}


def manifest_of(config: dict[str, Any], **changes: Any) -> Manifest:
    """A tiny run of this model, with the number of parameters that it has."""
    model = {"kind": "transformers", "config": config, "context_length": 16, "parameters": 1}
    read = build(Manifest, {"model": model}, "run.toml").model
    return sized(dataclasses.replace(tiny_manifest(**changes), model=read))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_drawn_from_the_seed_alone(kind: str) -> None:
    """Twice the same, another seed others; torch's own generator stays where it was."""
    manifest = manifest_of(KINDS[kind])
    torch.manual_seed(5)
    expected_next = torch.rand(3)
    torch.manual_seed(5)

    one, same, other = (build_model(dataclasses.replace(manifest, seed=seed)) for seed in (7, 7, 8))

    assert torch.equal(torch.rand(3), expected_next)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert count_parameters(one) == manifest.model.num_parameters


@pytest.mark.parametrize(
    "optimizer", [OptimizerConfig(kind="adamw", lr=1e-2), OptimizerConfig()], ids=["adamw", "muon"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_two_nodes_train_and_meet(kind: str, optimizer: OptimizerConfig) -> None:
    """Loss falls, and a whole-tensor meeting of two nodes on different data leaves them with the same weights."""
    meeting = tiny_meeting(codec="dense", dtype="fp32")
    pair = Pair(manifest_of(KINDS[kind], optimizer=optimizer, meeting=meeting))
    session = pair.sessions[0]
    before = validation_loss(session.replica.model, session.validation)

    pair.step(30)
    pair.meet(Stream.PARAMS)

    assert validation_loss(session.replica.model, session.validation) < 0.8 * before
    start = Replica(session.manifest, torch.device("cpu")).theta
    one, other = (s.replica.theta for s in pair.sessions)
    assert distance(one, other) < 0.02 * distance(one, start)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_file_brings_everything_back(kind: str, tmp_path: Path) -> None:
    """Tied weights once; a node that takes the file over computes the same loss and takes the same next step."""
    manifest = manifest_of(KINDS[kind])
    one, other = tiny_session(manifest), tiny_session(manifest)
    train(one, 3)
    write_state(tmp_path / "state", one.replica.state(), RUN)

    other.replica.load(read_state(tmp_path / "state", RUN, other.replica.layout()), is_own=True)

    assert train(one, 2) == train(other, 2)
    fresh = build_model(manifest)
    load_parameters(fresh, dict(zip(one.replica.names, one.replica.theta, strict=True)))
    assert validation_loss(fresh, one.validation) == validation_loss(one.replica.model, one.validation)


def test_what_is_a_hidden_matrix() -> None:
    """All matrices of the blocks; no embedding, no output head, tied or not."""
    for config, per_layer in ((LLAMA, 7), (GPT2, 4)):
        manifest = manifest_of(config)
        model = build_model(manifest)
        names = [name for name, _ in model.named_parameters()]
        hidden = [names[position] for position in matrices_of(model, manifest)]

        assert len(hidden) == 2 * per_layer
        assert not [name for name in hidden if "embed" in name or "wte" in name or "wpe" in name or "head" in name]
        head = output_head(model)
        assert (head is None) == (config is GPT2)


@pytest.mark.parametrize("micro_batches", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_parts_and_recomputation_give_the_batchs_gradient(kind: str, micro_batches: int) -> None:
    """To rounding, as for our own model."""
    manifest = manifest_of(KINDS[kind])
    whole, parts = tiny_session(manifest), tiny_session(manifest)
    parts.replica.micro_batches = micro_batches
    assert recompute(parts.replica.model)

    results = [session.replica.train_step(session.stream.batch(0)) for session in (whole, parts)]

    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-6)
    assert results[0].gradient_norm == pytest.approx(results[1].gradient_norm, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "no-such"}, 'cannot build a "no-such"'),
        (
            {"model_type": "llama", "num_attention_heads": 3, "num_key_value_heads": 2},
            "not a multiple of the number of attention heads",
        ),
        ({"max_position_embeddings": 8}, "model.context_length = 16, but the model of model.config has 8 positions"),
    ],
)
def test_a_model_that_cannot_be_had_is_a_config_error(changes: dict[str, Any], words: str) -> None:
    """With the reason that transformers gives."""
    with pytest.raises(ConfigError) as caught:
        manifest_of({**LLAMA, **changes})

    assert words in str(caught.value)


def test_another_number_of_parameters_is_refused() -> None:
    """And the right one named: budgets and limits of all nodes follow from it."""
    manifest = manifest_of(LLAMA)
    wrong = dataclasses.replace(manifest, model=dataclasses.replace(manifest.model, parameters=1000))

    with pytest.raises(ConfigError, match=f"model.parameters = 1000, but .* has {manifest.model.parameters}"):
        build_model(wrong)


@pytest.mark.parametrize(
    "unsafe",
    [
        {"auto_map": {"AutoModelForCausalLM": "evil--modeling.Evil"}},
        {"attn_implementation": "kernels-community/evil"},
        {"_attn_implementation": "kernels-community/evil"},
        {"text_config": {"quantization_config": {"quant_method": "evil"}}},
    ],
)
def test_what_would_fetch_or_run_something_is_refused(unsafe: dict[str, Any]) -> None:
    """Before transformers sees it, by the manifest's own rules; in nested tables and in JSON text too."""
    for config in ({**LLAMA, **unsafe}, json.dumps({**LLAMA, **unsafe})):
        mapping = {"model": {"kind": "transformers", "config": config, "parameters": 1}}
        with pytest.raises(ConfigError, match="keys that neither fetch nor run code"):
            build(Manifest, mapping, "run.toml")
