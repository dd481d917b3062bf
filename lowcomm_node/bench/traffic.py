"""Bytes that methods in lockstep send, by formula: the laboratory's own averages never leave the process."""

__all__ = ["pair_bytes", "ring_bytes"]


def ring_bytes(numbers: int, nodes: int, bits: int) -> float:
    """Sent per node by a ring all-reduce of ``numbers``: 2 (N - 1) / N of them."""
    return 2 * (nodes - 1) / nodes * numbers * bits / 8


def pair_bytes(parameters: int, bits: int) -> float:
    """Sent per node by NoLoCo's exchange as published: displacement and slow weights, 2 P numbers (2506.10911, Eq. 2)."""
    return 2 * parameters * bits / 8
