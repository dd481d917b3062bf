"""settings.load: strict types, rules and names, and sentences that say what to do."""

import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.load import build, read_manifest, read_toml, toml_value
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NodeSettings


def refusal(cls: type[object], mapping: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        build(cls, mapping, "run.toml")
    return str(caught.value)


def test_an_empty_document_is_all_defaults() -> None:
    """No key is required."""
    assert build(Manifest, {}, "run.toml") == Manifest()
    assert build(NodeSettings, {}, "config.toml") == NodeSettings()


def test_every_default_passes_its_own_rules() -> None:
    """Defaults that are written out are accepted and change nothing."""
    assert build(Manifest, asdict(Manifest()), "run.toml") == Manifest()
    assert build(NodeSettings, asdict(NodeSettings()), "config.toml") == NodeSettings()


def test_a_typo_names_file_key_nearest_and_known_keys() -> None:
    """An unknown key is an error with everything needed to repair it."""
    text = refusal(Manifest, {"model": {"num_layrs": 3}})

    assert text.startswith("run.toml: unknown key model.num_layrs; did you mean model.num_layers?")
    assert "known in [model]: kind, vocab_size, num_layers" in text


def test_a_mistyped_section_names_the_nearest() -> None:
    """Sections are names like any other."""
    text = refusal(Manifest, {"modle": {"num_layers": 3}})

    assert "unknown section modle; did you mean model?" in text
    assert "known in the top level: name, seed" in text


def test_a_key_in_the_wrong_section_is_found_in_the_right_one() -> None:
    """``lr`` under training means one of the learning rates."""
    assert "did you mean optimizer.lr or outer.lr?" in refusal(Manifest, {"training": {"lr": 0.1}})


def test_the_two_documents_know_of_each_other() -> None:
    """A node setting in a manifest, and the reverse, is told where it belongs."""
    assert "network; it is a node setting" in refusal(Manifest, {"network": {"grpc_port": 1}})
    assert "data.paths; it is a node setting" in refusal(Manifest, {"data": {"paths": []}})
    assert "optimizer; it is part of the run manifest" in refusal(NodeSettings, {"optimizer": {"lr": 1.0}})


@pytest.mark.parametrize(
    ("section", "key", "value", "sentence"),
    [
        (
            "training",
            "batch_size",
            "8",
            'training.batch_size = "8" is not allowed; allowed: a whole number from 1 to 65536',
        ),
        ("training", "batch_size", 8.0, "training.batch_size = 8.0 is not allowed; allowed: a whole number"),
        ("training", "batch_size", True, "training.batch_size = true is not allowed; allowed: a whole number"),
        (
            "training",
            "batch_size",
            0,
            "training.batch_size = 0 is not allowed; allowed: a whole number from 1 to 65536",
        ),
        ("optimizer", "lr", True, "optimizer.lr = true is not allowed; allowed: a number from 1e-08 to 10"),
        ("optimizer", "lr", float("nan"), "optimizer.lr = nan is not allowed"),
        ("optimizer", "lr", float("inf"), "optimizer.lr = inf is not allowed"),
        ("optimizer", "lr", 10**400, "optimizer.lr = 1000"),
        pytest.param("optimizer", "lr", 10**5000, "optimizer.lr = a value too large to show is not allowed", id="huge"),
        ("model", "tie_embeddings", 1, "model.tie_embeddings = 1 is not allowed; allowed: true or false"),
        ("model", "kind", "rnn", 'model.kind = "rnn" is not allowed; allowed: "gpt"'),
        ("model", "kind", {"a": 1}, "model.kind = a table is not allowed"),
        ("optimizer", "kind", "adam", 'optimizer.kind = "adam" is not allowed; allowed: "adamw", "adopt", "mtdao"'),
        ("meeting", "dtype", "int2", 'meeting.dtype = "int2" is not allowed; allowed: "fp32", "bf16", "int8", "int4"'),
        (
            "meeting",
            "exp_avg_every_steps",
            -2,
            "meeting.exp_avg_every_steps = -2 is not allowed; allowed: a whole number",
        ),
        ("model", "num_heads", 5, "model.num_heads = 5 is not allowed; allowed: an even head width that divides"),
        ("training", "warmup_steps", 2000, "training.warmup_steps = 2000 is not allowed; allowed: less than"),
        ("model", "vocab_size", 255, "model.vocab_size = 255 is not allowed; allowed: at least 256"),
    ],
)
def test_a_refused_value_is_shown_with_what_is_allowed(section: str, key: str, value: object, sentence: str) -> None:
    """Wrong type, out of range, not one of the words, at odds with another key: one sentence each."""
    assert refusal(Manifest, {section: {key: value}}).startswith(f"run.toml: {sentence}")


def test_a_section_that_is_a_value_is_refused() -> None:
    """``model = 3`` is answered with how a table is written."""
    assert refusal(Manifest, {"model": 3}) == "run.toml: model = 3 must be a table, written [model]"


def test_lists_hold_strings_only() -> None:
    """A list of strings becomes a tuple; numbers inside are refused, and so is a bare string."""
    assert build(NodeSettings, {"data": {"paths": ["a", "b"]}}, "c.toml").data.paths == ("a", "b")
    assert 'data.paths = ["a", 1] is not allowed; allowed: a list of strings' in refusal(
        NodeSettings, {"data": {"paths": ["a", 1]}}
    )
    assert "allowed: a list of strings" in refusal(NodeSettings, {"data": {"paths": "a"}})


def test_names_with_control_characters_are_refused() -> None:
    """A run's name is printed on terminals of strangers: no escape sequence may ride on it."""
    text = refusal(Manifest, {"name": "x\x1b[2J"})

    assert "cannot be printed" in text
    assert "\x1b" not in text


def test_an_unknown_name_from_a_stranger_is_shown_harmlessly() -> None:
    """Unknown keys may be of any length and hold anything; the sentence stays short and printable."""
    text = refusal(Manifest, {"\x1b[2J" + "x" * 100_000: 1})

    assert "\x1b" not in text
    assert len(text) < 400


def test_whole_numbers_are_fine_where_a_number_is_asked() -> None:
    """``lr = 1`` is 1.0, and -0.0 is 0.0: equal values have one form."""
    manifest = build(Manifest, {"optimizer": {"lr": 1, "weight_decay": -0.0}}, "run.toml")

    assert isinstance(manifest.optimizer.lr, float)
    assert str(manifest.optimizer.weight_decay) == "0.0"


def test_mixing_beyond_the_stability_bound_is_refused_with_the_formula() -> None:
    """Momentum mixing with a = 0.9 is stable only below g = 0.38; direct mixing has no such bound."""
    outer = {"momentum": 0.9, "mixing_gain": 0.7}

    text = refusal(Manifest, {"outer": {**outer, "mixing": "momentum"}})
    stable = build(Manifest, {"outer": {**outer, "mixing": "direct"}}, "run.toml")

    assert "outer.mixing_gain = 0.7" in text
    assert "g < 2 (1 - a^2) = 0.38 with a = outer.momentum = 0.9" in text
    assert stable.outer.mixing_gain == 0.7


def test_the_stability_bound_itself_is_refused() -> None:
    """g equal to 2 (1 - a^2) neither shrinks nor grows the disagreement: not allowed; a little below is."""
    at_bound = {"momentum": 0.5, "mixing_gain": 1.5, "every_steps": 50, "mixing": "momentum"}

    assert "g < 2 (1 - a^2) = 1.5" in refusal(Manifest, {"outer": at_bound})
    assert build(Manifest, {"outer": {**at_bound, "mixing_gain": 1.49}}, "run.toml").outer.mixing_gain == 1.49


def test_momentum_mixing_without_outer_steps_is_refused() -> None:
    """It would do nothing at all."""
    with pytest.raises(ConfigError, match="without outer steps there is no momentum"):
        build(Manifest, {"outer": {"mixing": "momentum", "mixing_gain": 0.7, "every_steps": 0}}, "run.toml")


def test_all_problems_are_listed_together() -> None:
    """Two typos need one run of the checker, not two."""
    text = refusal(Manifest, {"model": {"num_layrs": 3}, "training": {"batch_size": "8"}})

    assert text.startswith("2 problems:")
    assert "model.num_layrs" in text
    assert "training.batch_size" in text


def test_the_list_of_problems_is_bounded() -> None:
    """A document that is nothing but problems gets a short answer, soon."""
    text = refusal(Manifest, {f"key{i}": i for i in range(10_000)})

    assert text.startswith("20 problems:")


def test_a_syntax_error_names_line_and_column(tmp_path: Path) -> None:
    """TOML that does not parse is located."""
    path = tmp_path / "run.toml"
    path.write_text("seed = 1\nname = = 3\n")

    with pytest.raises(ConfigError, match=r"run\.toml, line 2, column 8: not valid TOML"):
        read_toml(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"name = 'a\xff'", "not UTF-8"),
        (b"seed = " + b"9" * 5000, "not usable as TOML"),
        (b"a = " + b"[" * 5000, "not usable as TOML"),
        (b"a = [", "not valid TOML"),
    ],
)
def test_strange_files_are_config_errors(tmp_path: Path, content: bytes, sentence: str) -> None:
    """Whatever the bytes, the error is ours and names the file."""
    path = tmp_path / "run.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=sentence) as caught:
        read_toml(path)
    assert str(path) in str(caught.value)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    """No traceback for a wrong path."""
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: no such file"):
        read_manifest(tmp_path / "none.toml")


@given(st.text(st.characters(blacklist_categories=["Cs"]), max_size=20))
def test_written_strings_read_back(text: str) -> None:
    """toml_value writes any text so that TOML reads the same text."""
    assert tomllib.loads(f"value = {toml_value(text)}") == {"value": text}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["model", "name", "outer", "seed", "data", "x"]), _JSON, max_size=4))
def test_any_mapping_gives_settings_or_a_config_error(mapping: dict[str, object]) -> None:
    """No mapping brings out another exception, and what passes obeys the schema's types."""
    try:
        manifest = build(Manifest, mapping, "run.toml")
    except ConfigError:
        return
    assert build(Manifest, asdict(manifest), "run.toml") == manifest
