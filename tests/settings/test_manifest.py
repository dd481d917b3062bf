"""settings.manifest and settings.node: derived numbers, and values that only together make no sense."""

from dataclasses import asdict

import pytest

from lowcomm_node.algo.budget import EnergyModel
from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.load import build
from lowcomm_node.settings.manifest import Manifest, ModelConfig
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.train.model import build_model, count_parameters, parameter_shapes
from lowcomm_node.units import Dtype


@pytest.mark.parametrize("tied", [False, True])
def test_the_number_of_parameters_is_that_of_the_real_network(tied: bool) -> None:
    """The formula that needs no torch agrees with torch."""
    config = ModelConfig(num_layers=2, d_model=32, num_heads=2, d_ff=48, vocab_size=300, tie_embeddings=tied)

    assert config.num_parameters == count_parameters(build_model(Manifest(model=config)))


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_a_budget_that_some_matrix_can_never_fit_is_refused(dtype: str) -> None:
    """The smallest budget that is allowed gives every tensor its turn; one byte less would leave one out for ever."""
    model = ModelConfig(num_layers=1, d_model=64, num_heads=2, d_ff=800)
    itemsize = Dtype(dtype).itemsize
    smallest = (64 + 800) * itemsize
    shapes = parameter_shapes(build_model(Manifest(model=model)))
    energy = EnergyModel(shapes)

    sent: set[int] = set()
    for _ in range(30):
        ranks = energy.choose_ranks(smallest, itemsize)
        sent |= {index for index, rank in enumerate(ranks) if rank}
        energy.observe(ranks, [(1.0,) * max(rank, 1) if rank else None for rank in ranks])

    assert sent == set(range(len(shapes)))
    mapping = {"model": asdict(model), "meeting": {"dtype": dtype, "budget_bytes": smallest}}
    build(Manifest, mapping, "run.toml")
    mapping["meeting"]["budget_bytes"] = smallest - 1
    with pytest.raises(ConfigError, match=rf"meeting\.budget_bytes = {smallest - 1}.*at least {smallest}"):
        build(Manifest, mapping, "run.toml")


def test_verdicts_must_be_kept_at_least_as_long_as_a_phase_may_take() -> None:
    """Two allowed numbers that together would make every slow meeting a half one."""
    with pytest.raises(ConfigError, match=r"verdict_keep_s = 30.*meeting\.deadline_s = 60"):
        build(NodeSettings, {"meeting": {"deadline_s": 60.0, "verdict_keep_s": 30.0}}, "config.toml")
