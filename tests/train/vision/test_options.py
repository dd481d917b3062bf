"""Options of the tasks on pictures: what is refused, and what follows from what is not given."""

from typing import Any

import pytest

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.load import build
from lowcomm_node.train.vision.options import VggOptions, VitOptions
from lowcomm_node.train.vision.tasks import VGG, VIT, PictureTask


def test_sizes_follow_from_the_data_set() -> None:
    """Nothing has to be given for digits; CIFAR-10 and folders take what is usual for their sides."""
    vit, vgg = VitOptions(), VggOptions()
    assert (vit.side, vit.channels, vit.num_classes, vit.patch_side, vgg.num_stages) == (8, 1, 10, 2, 2)
    vit, vgg = VitOptions(dataset="cifar10"), VggOptions(dataset="cifar10")
    assert (vit.side, vit.channels, vit.num_classes, vit.patch_side, vgg.num_stages) == (32, 3, 10, 4, 3)
    classes = ("a", "b", "c")
    vit, vgg = VitOptions(dataset="folder", classes=classes), VggOptions(dataset="folder", classes=classes)
    assert (vit.side, vit.channels, vit.num_classes, vit.patch_side, vgg.num_stages) == (64, 3, 3, 8, 4)


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        (VIT, {"widht": 32}, "unknown key widht; did you mean width"),
        (VIT, {"width": 10**9}, "width = 1000000000 is not allowed; allowed: a whole number from 8 to 4096"),
        (VIT, {"dataset": "mnist"}, 'allowed: "digits", "cifar10", "folder"'),
        (VIT, {"patch": 3}, "patch = 3 is not allowed; allowed: a divisor of the picture's side, 8"),
        (VIT, {"heads": 3}, "heads = 3 is not allowed; allowed: a divisor of width = 64"),
        (VIT, {"dataset": "folder"}, "at least two folders"),
        (VIT, {"dataset": "folder", "classes": ["a", "b", "a"]}, "each once"),
        (VIT, {"classes": ["a", "b"]}, 'nothing but with dataset = "folder"'),
        (VGG, {"size": 16}, '8 with dataset = "digits"'),
        (VGG, {"stages": 4}, "stages = 4 is not allowed; allowed: halvings that a side of 8 allows"),
        (VGG, {"width": 12}, "a multiple of 8"),
    ],
)
def test_what_is_not_allowed_says_what_is(task: PictureTask[Any], options: dict[str, object], words: str) -> None:
    """Before anything is built: a stranger's manifest has them."""
    with pytest.raises(ConfigError, match=words) as refused:
        task.build(options)
    assert "model.config" in str(refused.value)


def test_a_table_of_a_manifest_has_lists() -> None:
    """As parsed JSON gives them."""
    assert build(VitOptions, {"dataset": "folder", "classes": ["a", "b"]}, "x").classes == ("a", "b")
