"""Bytes that methods in lockstep send, by formula: the laboratory's own averages never leave the process."""

from torch import nn

from lowcomm_node.algo.dion import rank_of
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.model import matrices_of

__all__ = ["dion_numbers", "handed_on_bytes", "pair_bytes", "ring_bytes"]


def dion_numbers(model: nn.Module, manifest: Manifest) -> int:
    """Averaged in a step of distributed Dion: (m + n) r of each hidden matrix, the whole gradient of everything else (2504.05295)."""
    hidden, config = set(matrices_of(model, manifest)), manifest.optimizer
    numbers = 0
    for position, parameter in enumerate(model.parameters()):
        rank = rank_of(parameter.shape, config.rank_fraction, config.rank_multiple) if position in hidden else 0
        numbers += rank * sum(parameter.shape) if rank else parameter.numel()
    return numbers


def ring_bytes(numbers: int, nodes: int, bits: int) -> float:
    """Sent per node by a ring all-reduce of ``numbers``: 2 (N - 1) / N of them."""
    return 2 * (nodes - 1) / nodes * numbers * bits / 8


def handed_on_bytes(numbers: int, some: int, nodes: int, bits: int) -> float:
    """Sent, mean over ``nodes``, when ``some`` of them average ``numbers`` in a ring and every other node is then sent the mean once."""
    return (some * ring_bytes(numbers, some, bits) + (nodes - some) * numbers * bits / 8) / nodes


def pair_bytes(parameters: int, bits: int) -> float:
    """Sent per node by NoLoCo's exchange as published: displacement and slow weights, 2 P numbers (2506.10911, Eq. 2)."""
    return 2 * parameters * bits / 8
