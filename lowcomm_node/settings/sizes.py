"""What training takes of a machine, reckoned from the manifest: estimates that need neither torch nor the model."""

import math

from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.model import ModelConfig

__all__ = ["example_bytes", "fixed_bytes", "memory_bytes", "state_bytes"]

_STATE_BYTES_PER_PARAMETER = 24
"""Weights, slow weights, outer momentum and the optimizer's two, in fp32, and a little."""
_OPTIMIZER_BYTES_PER_PARAMETER = 32
"""As above, with the gradient and the copy that a checkpoint is written from."""
_FROZEN_BYTES_PER_PARAMETER = 12
"""AB-training: at most two sets of frozen factors, and the copy that a step's change is taken from."""
_PROCESS_BYTES = 400 << 20
"""torch itself, on a processor; on a GPU its context takes about as much."""
_ACTIVATIONS_PER_LAYER = 34
"""Numbers per token and width that a layer keeps for its backward pass: its matrices' inputs, q, k, v, gates; rounded up."""


def state_bytes(manifest: Manifest) -> int:
    """What one checkpoint, or one download of the run's state, takes at most, in bytes."""
    return manifest.model.num_parameters * _STATE_BYTES_PER_PARAMETER


def memory_bytes(manifest: Manifest, micro_batches: int) -> int:
    """Estimate of what training takes, in bytes, with batches in so many parts, all in float32."""
    examples = -(-manifest.training.batch_size // micro_batches)
    return fixed_bytes(manifest) + examples * example_bytes(manifest)


def fixed_bytes(manifest: Manifest) -> int:
    """What training takes without any example: the process, weights, gradients, state."""
    frozen = _FROZEN_BYTES_PER_PARAMETER if manifest.outer.method == "ab" else 0
    return _PROCESS_BYTES + manifest.model.num_parameters * (_OPTIMIZER_BYTES_PER_PARAMETER + frozen)


def example_bytes(manifest: Manifest) -> int:
    """What each example adds that is in the model at the same time: what its layers keep, and logits with their gradient."""
    model = manifest.model
    numbers = _layers_by_width(model) * _ACTIVATIONS_PER_LAYER + 2 * model.vocab_size
    return 4 * model.context_length * numbers


def _layers_by_width(model: ModelConfig) -> int:
    if model.kind == "gpt":
        return model.num_layers * model.d_model
    # Of a transformer of usual proportions, 12 L d^2 parameters and d = 64 L.
    return int(math.pow(model.num_parameters * 64 / 12, 2 / 3)) // 64
