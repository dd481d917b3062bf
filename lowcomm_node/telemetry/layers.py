"""Kinds of layers in the few words that metrics have for them."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from lowcomm_node.telemetry.catalogue.words import LAYERS, OTHER
from lowcomm_node.telemetry.reports import SplitGroup

__all__ = ["Kept", "kept_by_layers", "layers_of"]

_SIGNS: Mapping[str, tuple[str, ...]] = {
    "attention": ("attention", "attn"),
    "mlp": ("mlp", "feed_forward", "ffn", "rise", "fall", "fc", "hidden"),
    "convolution": ("conv", "features"),
}
"""Parts of parameters' names, of our models and of those that are known elsewhere."""


class Kept(NamedTuple):
    """Of the matrices of some layers: shares of their whole rank and of their energy."""

    rank_ratio: float
    energy_ratio: float


def layers_of(name: str) -> str:
    """The word for the layers that a parameter of this name belongs to."""
    return next((word for word in LAYERS if any(sign in name for sign in _SIGNS.get(word, ()))), OTHER)


def kept_by_layers(groups: Iterable[SplitGroup]) -> dict[str, Kept]:
    """What a split has left of each kind of layers; energies are averaged over matrices."""
    members: dict[str, list[SplitGroup]] = {}
    for group in groups:
        members.setdefault(layers_of(group.name), []).append(group)
    return {
        word: Kept(
            sum(group.rank for group in found) / sum(group.whole_rank for group in found),
            sum(group.energy_kept * group.tensors for group in found) / sum(group.tensors for group in found),
        )
        for word, found in members.items()
    }
