"""What a training state looks like from afar (``core.fingerprint`` says what for)."""

import math

import torch
from torch import Tensor

from lowcomm_node.algo.consensus import count_sketch
from lowcomm_node.core.fingerprint import DISPLACEMENT, Fingerprint
from lowcomm_node.train.state_file import TrainingState

__all__ = ["fingerprint_of"]


def fingerprint_of(state: TrainingState) -> Fingerprint:
    """Sketch of the parameters and norm of each group of tensors, live or from a file: the same numbers for the same state.

    Groups are what stands before the "/" of a tensor's key. Memory: one tensor more.
    """
    squares: dict[str, float] = {}
    for key, tensor in state.tensors.items():
        group, _, name = key.partition("/")
        squares[group] = squares.get(group, 0.0) + _square(tensor)
        slow = state.tensors.get(f"slow/{name}")
        if group == "params" and slow is not None:
            squares[DISPLACEMENT] = squares.get(DISPLACEMENT, 0.0) + _square(tensor - slow)
    parameters = [tensor for key, tensor in state.tensors.items() if key.startswith("params/")]
    return Fingerprint(
        progress_steps=state.counters.progress_steps,
        sketch=tuple(count_sketch(parameters).tolist()),
        norms=tuple((group, math.sqrt(square)) for group, square in squares.items()),
    )


def _square(tensor: Tensor) -> float:
    """Squared norm; in fp64 no finite float32 overflows."""
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2
