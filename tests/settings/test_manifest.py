"""settings.manifest: numbers that are derived from it."""

import pytest

from lowcomm_node.settings.manifest import Manifest, ModelConfig
from lowcomm_node.train.model import build_model, count_parameters


@pytest.mark.parametrize("tied", [False, True])
def test_the_number_of_parameters_is_that_of_the_real_network(tied: bool) -> None:
    """The formula that needs no torch agrees with torch."""
    config = ModelConfig(num_layers=2, d_model=32, num_heads=2, d_ff=48, vocab_size=300, tie_embeddings=tied)

    assert config.num_parameters == count_parameters(build_model(Manifest(model=config)))
