"""What a node trains with."""

import pytest
import torch

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.node import DeviceSettings
from lowcomm_node.train.session import VALIDATION_BATCHES, choose_device
from tests.train.pairs import tiny_manifest, tiny_session


def test_auto_takes_what_is_there() -> None:
    """auto is cuda where there is one, else the CPU."""
    expected = "cuda" if torch.cuda.is_available() else "cpu"

    assert choose_device(DeviceSettings(name="auto")).type == expected
    assert choose_device(DeviceSettings(name="cpu")).type == "cpu"


@pytest.mark.parametrize(
    ("name", "reason"), [("gpu", "is not a device"), ("meta", "not supported"), ("cuda:99", "CUDA devices here")]
)
def test_wrong_devices_are_refused_by_name(name: str, reason: str) -> None:
    """The error names the key, the value and what would be allowed."""
    with pytest.raises(ConfigError, match=reason) as caught:
        choose_device(DeviceSettings(name=name))

    assert f"device.name = '{name}'" in str(caught.value)


def test_validation_is_the_same_for_all_nodes_and_cheap() -> None:
    """Peers that hold out the same text look at the same few windows."""
    one, other = tiny_session(tiny_manifest(), "a"), tiny_session(tiny_manifest(), "b")

    for a, b in zip(one.validation, other.validation, strict=True):
        assert isinstance(a, torch.Tensor)
        assert isinstance(b, torch.Tensor)
        assert torch.equal(a, b)
    assert len(one.validation) <= VALIDATION_BATCHES
