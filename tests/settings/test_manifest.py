"""settings.manifest and settings.node: derived numbers, and values that only together make no sense."""

import re
from dataclasses import asdict, replace
from typing import Any

import pytest

from lowcomm_node.algo.budget import EnergyModel, choose_counts
from lowcomm_node.algo.shapes import matrix_shape
from lowcomm_node.algo.sizes import is_integer, low_rank_bytes
from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.load import build
from lowcomm_node.settings.manifest import Manifest, MeetingConfig, ModelConfig
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.train.model import build_model, count_parameters, parameter_shapes
from lowcomm_node.units import Dtype, Omega


@pytest.mark.parametrize("tied", [False, True])
def test_the_number_of_parameters_is_that_of_the_real_network(tied: bool) -> None:
    """The formula that needs no torch agrees with torch."""
    config = ModelConfig(num_layers=2, d_model=32, num_heads=2, d_ff=48, vocab_size=300, tie_embeddings=tied)

    assert config.num_parameters == count_parameters(build_model(Manifest(model=config)))


@pytest.mark.parametrize("omega", Omega)
@pytest.mark.parametrize("dtype", Dtype)
def test_a_budget_that_some_matrix_can_never_fit_is_refused(dtype: Dtype, omega: Omega) -> None:
    """The smallest budget that is allowed gives every tensor its turn; a little less would leave one out for ever."""
    config = ModelConfig(num_layers=1, d_model=64, num_heads=2, d_ff=800)
    meeting = {"codec": "ab", "dtype": dtype.value, "omega": omega.value}
    mapping: dict[str, Any] = {"model": asdict(config), "meeting": meeting}
    smallest = _smallest(mapping)
    shapes = parameter_shapes(build_model(Manifest(model=config)))
    energy = EnergyModel(shapes)

    sent: set[int] = set()
    for _ in range(40):
        ranks = energy.choose_ranks(smallest, dtype, omega)
        if not energy.knows(ranks):  # as the planner does
            ranks = energy.choose_ranks(smallest, Dtype.BF16 if is_integer(dtype) else dtype, omega)
        sent |= {index for index, rank in enumerate(ranks) if rank}
        energy.observe(ranks, [(1.0,) * max(rank, 1) if rank else None for rank in ranks])

    assert sent == set(range(len(shapes)))
    first = Dtype.BF16 if is_integer(dtype) else dtype
    largest = max(
        low_rank_bytes(*matrix, 1, first, omega).largest_direction
        for shape in shapes
        if (matrix := matrix_shape(shape)) is not None
    )
    assert largest <= smallest <= largest + 4


def _smallest(mapping: dict[str, Any]) -> int:
    """The smallest budget that is taken, from the text that refuses a smaller one, which it then keeps."""
    mapping["meeting"]["budget_bytes"] = 1024
    with pytest.raises(ConfigError, match=r"meeting\.budget_bytes = 1024 .* at least") as refused:
        build(Manifest, mapping, "run.toml")
    found = re.search(r"at least (\d+)", str(refused.value))
    assert found is not None
    smallest = int(found[1])
    mapping["meeting"]["budget_bytes"] = smallest - 1
    with pytest.raises(ConfigError, match=f"at least {smallest}"):
        build(Manifest, mapping, "run.toml")
    mapping["meeting"]["budget_bytes"] = smallest
    build(Manifest, mapping, "run.toml")
    return smallest


@pytest.mark.parametrize("dtype", Dtype)
def test_a_sparse_budget_has_a_number_for_each_tensor(dtype: Dtype) -> None:
    """At the smallest budget that is allowed no tensor is left out, of a network whose number of tensors the formula knows."""
    config = ModelConfig(num_layers=40, d_model=8, num_heads=2, d_ff=8)
    shapes = parameter_shapes(build_model(Manifest(model=config)))
    mapping = {"model": asdict(config), "meeting": {"dtype": dtype.value, "codec": "sparse"}}

    assert len(shapes) == config.num_tensors
    assert all(choose_counts(shapes, _smallest(mapping), dtype))


def test_verdicts_must_be_kept_at_least_as_long_as_a_phase_may_take() -> None:
    """Two allowed numbers that together would make every slow meeting a half one."""
    with pytest.raises(ConfigError, match=r"verdict_keep_s = 30.*meeting\.deadline_s = 60"):
        build(NodeSettings, {"meeting": {"deadline_s": 60.0, "verdict_keep_s": 30.0}}, "config.toml")


@pytest.mark.parametrize(
    "publish", ["node1.example", "node1.example:", ":", ":http", "node1.example:0", "node1.example:http", "a:65536"]
)
def test_a_published_address_is_a_host_and_a_port(publish: str) -> None:
    """What others could not fetch from is refused here, and not passed over in silence there."""
    with pytest.raises(ConfigError, match=r"metrics\.publish = .*host:port"):
        build(NodeSettings, {"metrics": {"publish": publish}}, "config.toml")
    for allowed in ("[2001:db8::1]:9464", ":9464"):
        assert build(NodeSettings, {"metrics": {"publish": allowed}}, "x").metrics.discover == "off"


@pytest.mark.parametrize(
    ("config", "expected"),
    [(ModelConfig(), 381_600 // 8), (ModelConfig(num_layers=1, d_model=8, num_heads=2, d_ff=8), 528)],
)
def test_no_budget_is_a_bit_for_each_parameter(config: ModelConfig, expected: int) -> None:
    """But enough for rank 1 of the largest matrix: at least (256 + 8) numbers of 2 bytes, and what it takes to check them."""
    manifest = Manifest(model=config)

    assert expected <= manifest.budget_bytes <= 1.1 * expected
    assert replace(manifest, meeting=MeetingConfig(budget_bytes=5000)).budget_bytes == 5000


@pytest.mark.parametrize(
    ("network", "allowed"),
    [
        ({"tls": "off"}, True),
        ({"tls": "off", "host": "::1", "announce_host": "localhost"}, True),
        ({"tls": "off", "host": "0.0.0.0"}, False),
        ({"tls": "off", "host": "127.0.0.1", "announce_host": "node.example"}, False),
        ({"tls": "on", "host": "0.0.0.0"}, True),
    ],
)
def test_without_tls_a_node_stays_on_loopback(network: dict[str, object], allowed: bool) -> None:
    """Plain text is for looking at what nodes say to each other, on one computer."""
    if allowed:
        build(NodeSettings, {"network": network}, "config.toml")
        return
    with pytest.raises(
        ConfigError, match=r'network\.tls = .off. is not allowed; allowed: "on" where others can connect'
    ):
        build(NodeSettings, {"network": network}, "config.toml")


@pytest.mark.parametrize(
    ("security", "words"),
    [
        ({"admission": "invite"}, "security.organiser"),
        ({"admission": "allow-list"}, "security.members"),
        ({"organiser": "me"}, "security.organiser = 'me'"),
        ({"admission": "allow-list", "members": ["12D3KooW"]}, "security.members = '12D3KooW'"),
    ],
)
def test_a_run_that_nobody_could_join_is_refused(security: dict[str, object], words: str) -> None:
    """And the error says what is missing."""
    with pytest.raises(ConfigError) as caught:
        build(Manifest, {"security": security}, "run.toml")

    assert words in str(caught.value)


@pytest.mark.parametrize("tokenizer", ["gpt2", "", "sha256:abc", "sha256:" + "G" * 64, "byte "])
def test_a_tokenizer_is_named_by_its_digest(tokenizer: str) -> None:
    """Anything else than bytes, none or a digest is refused with what may be written."""
    assert build(Manifest, {"data": {"tokenizer": "sha256:" + "0a" * 32}}, "x").data.tokenizer.startswith("sha256:0a")
    with pytest.raises(ConfigError, match="'lowcomm-node tokenizer show' prints"):
        build(Manifest, {"data": {"tokenizer": tokenizer}}, "x")


def test_a_node_reads_paths_or_a_dataset() -> None:
    """Not both: nobody could say which it trains on."""
    with pytest.raises(ConfigError, match=r"a dataset or data\.paths, not both"):
        build(NodeSettings, {"data": {"paths": ["a"], "dataset": "b"}}, "x")


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        (
            {"ab_training": {"cutoff": 0.2}},
            "ab_training.cutoff = 0.2 is not allowed; allowed: 0.15, its default, unless",
        ),
        ({"outer": {"method": "ab", "every_steps": 5}}, "outer.every_steps = 5"),
        ({"outer": {"method": "ab"}, "ab_training": {"join": "with-stale"}}, "unknown key"),
        ({"outer": {"method": "ab"}, "ab_training": {"budget_ratio": 0.0}}, "budget_ratio"),
        ({"outer": {"method": "ab"}, "ab_training": {"warm_up_ratio": 0.99}}, "rebound_ratio"),
    ],
)
def test_what_would_do_nothing_or_harm_in_ab_training_is_refused(mapping: dict[str, Any], words: str) -> None:
    """Settings of a method that the run does not have, an outer momentum across factors, what is the laboratory's alone."""
    with pytest.raises(ConfigError) as refused:
        build(Manifest, mapping, "x")

    assert words in str(refused.value)
