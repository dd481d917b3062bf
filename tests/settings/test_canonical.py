"""settings.canonical: one form and one run id per manifest, and only that form is accepted back."""

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.ab_training import AbTrainingConfig
from lowcomm_node.settings.canonical import canonical_bytes, manifest_from_canonical, run_id, run_id_of_bytes
from lowcomm_node.settings.load import build
from lowcomm_node.settings.manifest import Manifest, OptimizerConfig, OuterConfig

LIMIT = 1 << 18

GOLDEN = (
    b'{"data":{"kind":"text","tokenizer":"byte","validation_ratio":0.05},"meeting":{"budget_bytes":0,'
    b'"clip_ratio":4.0,"codec":"sparse","dense_last_ratio":0.02,"dtype":"int4","exp_avg_every_steps":-1,'
    b'"exp_avg_sq_codec":"rank1","exp_avg_sq_every_steps":-1,"momentum_every_steps":-1,"omega":"seeded",'
    b'"params_every_steps":5,"timing":"uniform"},"model":{"context_length":96,"d_ff":256,"d_model":96,'
    b'"kind":"gpt","num_heads":4,"num_layers":3,"qk_norm":true,"rope_base":10000.0,"tie_embeddings":false,'
    b'"vocab_size":256},"name":"my-run","optimizer":{"beta1":0.9,"beta2":0.99,"eps":1e-08,"kind":"muon",'
    b'"lr":0.012,"momentum":0.95,"momentum_share":0.9,"rank_fraction":0.25,"rank_multiple":1,"scalar":"adamw",'
    b'"scalar_lr_ratio":1.0,"state_dtype":"fp32","weight_decay":0.1},"outer":{"every_steps":0,"lr":0.7,'
    b'"mixing":"direct","mixing_gain":1.0,"momentum":0.5},"protocol_version":1,"security":{"admission":"open","members":[],"organiser":""},'
    b'"seed":0,"training":{"batch_size":8,"grad_clip":1.0,"min_lr_ratio":0.1,"total_steps":2000,'
    b'"warmup_steps":50}}'
)
"""The default manifest. A change here is a change of every run id: it needs a new protocol version."""


def refusal(data: bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        manifest_from_canonical(data, LIMIT)
    return str(caught.value)


def test_golden_vector() -> None:
    """The canonical form of the defaults, byte for byte, and its hash."""
    assert canonical_bytes(Manifest()) == GOLDEN
    assert run_id(Manifest()) == hashlib.sha256(GOLDEN).hexdigest()
    assert run_id_of_bytes(GOLDEN) == "882b87806956b39de64f73b5691945ba7538134c6882a10ef1c019502685dd09"


def test_a_written_default_is_the_same_run() -> None:
    """Omitted, written, in another order, or as a whole number: the same id."""
    written = build(Manifest, {"seed": 0, "outer": {"mixing_gain": 1, "every_steps": 0}, "name": "my-run"}, "x")

    assert run_id(written) == run_id(Manifest())


def test_what_came_later_is_left_out_where_it_does_nothing() -> None:
    """A run of another method has its keys in its id; at their defaults, in part or in all, they are not in the form."""
    plain = Manifest(outer=OuterConfig(method="ab"))
    tuned = replace(plain, ab_training=AbTrainingConfig(epochs=3))

    forms = [json.loads(canonical_bytes(manifest)) for manifest in (Manifest(), plain, tuned)]

    assert ["ab_training" in form for form in forms] == [False, False, True]
    assert forms[2]["ab_training"] == {"epochs": 3}
    assert forms[1]["outer"]["method"] == "ab"
    assert len({run_id(manifest) for manifest in (Manifest(), plain, tuned)}) == 3
    for manifest in (plain, tuned):
        assert manifest_from_canonical(canonical_bytes(manifest), LIMIT) == manifest


def test_numbers_of_python_code_are_normalised() -> None:
    """A manifest made in code with 1 for a float has the id of the same manifest read from a file."""
    assert run_id(Manifest(optimizer=OptimizerConfig(lr=1))) == run_id(Manifest(optimizer=OptimizerConfig(lr=1.0)))


def test_every_key_changes_the_run_id() -> None:
    """Nothing in a manifest is outside the id: each value is read back from the canonical form."""
    assert run_id(replace(Manifest(), name="other")) != run_id(Manifest())
    assert run_id(Manifest(outer=OuterConfig(every_steps=51))) != run_id(Manifest())


def test_a_manifest_that_breaks_its_rules_has_no_id() -> None:
    """Code cannot get round the checks that files and peers meet."""
    with pytest.raises(ConfigError, match="at least 256"):
        run_id(replace(Manifest(), model=replace(Manifest().model, vocab_size=2)))


@given(
    st.text(st.characters(whitelist_categories=["L", "N", "P", "S"]), min_size=1, max_size=30),
    st.integers(0, 2**63 - 1),
    st.floats(1e-8, 10.0),
)
def test_round_trip(name: str, seed: int, lr: float) -> None:
    """Parsing the canonical form gives the manifest back, and the id is the hash of the bytes."""
    manifest = Manifest(name=name, seed=seed, optimizer=OptimizerConfig(lr=lr))

    data = canonical_bytes(manifest)

    assert manifest_from_canonical(data, LIMIT) == manifest
    assert run_id(manifest) == run_id_of_bytes(data)


def test_other_forms_of_the_same_manifest_are_refused() -> None:
    """White space, another order, doubled keys, whole numbers for floats, -0.0: equal contents, but another hash."""
    tree = json.loads(GOLDEN)
    forms = [
        GOLDEN + b"\n",
        json.dumps(tree, sort_keys=True).encode(),
        json.dumps(dict(reversed(tree.items())), separators=(",", ":")).encode(),
        GOLDEN.replace(b'"seed":0', b'"seed":0,"seed":0'),
        GOLDEN.replace(b'"mixing_gain":1.0', b'"mixing_gain":1'),
        GOLDEN.replace(b'"weight_decay":0.1', b'"weight_decay":-0.0'),
        GOLDEN.replace(b"my-run", b"my\\u002drun"),
    ]

    for form in forms:
        assert form != GOLDEN
        assert "not in canonical form" in refusal(form)


def test_a_manifest_of_another_version_is_told_apart() -> None:
    """A missing key is named; an unknown one too."""
    assert "lacks seed; its run was started with another version" in refusal(GOLDEN.replace(b'"seed":0,', b""))
    assert "unknown key sead; did you mean seed?" in refusal(GOLDEN.replace(b'"seed"', b'"sead"'))


def test_size_is_checked_before_anything_is_parsed() -> None:
    """The caller's limit counts for the bytes as they came."""
    with pytest.raises(ConfigError, match=f"{len(GOLDEN)} bytes are more than the 10"):
        manifest_from_canonical(GOLDEN, 10)
    assert manifest_from_canonical(GOLDEN, len(GOLDEN)) == Manifest()


def test_out_of_range_values_of_a_peer_are_refused() -> None:
    """A hostile manifest passes the same rules as a file."""
    assert "model.d_model = 99999999 is not allowed" in refusal(GOLDEN.replace(b'"d_model":96', b'"d_model":99999999'))
    assert "g < 2 (1 - a^2)" in refusal(GOLDEN.replace(b'"direct"', b'"momentum"').replace(b"0.5}", b"0.9}"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"seed":' + b"9" * 5000 + b"}",
        b'{"a":' * 30_000,
        b"NaN",
        b"{}",
    ],
)
def test_hostile_bytes_are_config_errors(data: bytes) -> None:
    """Not JSON, not an object, nested without end, numbers without end: one error type, one short sentence."""
    assert len(refusal(data)) < 2000


@given(st.binary(max_size=64), st.integers(0, len(GOLDEN) - 1))
def test_damaged_bytes_are_never_accepted_as_another_form(noise: bytes, at: int) -> None:
    """Whatever is accepted hashes to its own run id."""
    data = GOLDEN[:at] + noise + GOLDEN[at + len(noise) :]
    try:
        manifest = manifest_from_canonical(data, LIMIT)
    except ConfigError:
        return
    assert canonical_bytes(manifest) == data
