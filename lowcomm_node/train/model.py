"""The run's network, of whatever kind, and what training has to know of it.

The order of ``named_parameters()`` is the order that meeting plans and state files refer to.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.foreign import build_foreign, inner_matrices, recompute_foreign
from lowcomm_node.train.gpt import GPT, build_gpt, hidden_matrices
from lowcomm_node.train.tasks import find_task

__all__ = [
    "build_model",
    "count_parameters",
    "load_parameters",
    "matrices_of",
    "outline",
    "output_head",
    "parameter_shapes",
    "recompute",
]


def build_model(manifest: Manifest) -> nn.Module:
    """The run's network with its initial weights, on the CPU, in float32; the same on every node.

    torch's global generator is as it was before. Raises ConfigError for a model that cannot be built here, or that is not the
    one the manifest describes.
    """
    if manifest.model.kind == "gpt":
        return build_gpt(manifest.model, manifest.seed)
    return _as_described(build_foreign(manifest), manifest)


def outline(manifest: Manifest) -> nn.Module:
    """The run's network without numbers and without memory for them, but a task's: for names and shapes. Raises ConfigError as ``build_model``."""
    if manifest.model.kind == "task":  # whose code need not know of devices
        return build_model(manifest)
    with torch.device("meta"):
        if manifest.model.kind == "gpt":
            return GPT(manifest.model)
        return _as_described(build_foreign(manifest), manifest)


def _as_described(model: nn.Module, manifest: Manifest) -> nn.Module:
    found, expected = count_parameters(model), manifest.model.num_parameters
    if found != expected:
        raise ConfigError(
            f"model.parameters = {expected}, but the model that is built here has {found}: the manifest is wrong, or the package "
            "it was made with is another version"
        )
    return model


def parameter_shapes(model: nn.Module) -> tuple[tuple[int, ...], ...]:
    """Shape of each parameter tensor, in the order that plans refer to."""
    return tuple(tuple(parameter.shape) for parameter in model.parameters())


def count_parameters(model: nn.Module) -> int:
    """Number of trained values; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def load_parameters(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Set all parameters, by the names of ``named_parameters()``. Raises ValueError when the names are not those."""
    named = dict(model.named_parameters())
    if named.keys() != values.keys():
        raise ValueError(f"not this model's parameters: {sorted(named.keys() ^ values.keys())[:3]}")
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(values[name])


def matrices_of(model: nn.Module, manifest: Manifest) -> tuple[int, ...]:
    """Positions, in the order of ``parameters()``, of what Muon and Dion train: matrices, but no embedding and no output head."""
    if isinstance(model, GPT):
        return hidden_matrices(model)
    if manifest.model.kind == "task":
        names = set(find_task(manifest.model.task).matrices(model))
    else:
        names = inner_matrices(model)
    named = enumerate(model.named_parameters())
    return tuple(index for index, (name, p) in named if name in names and p.ndim == 2)


def output_head(model: nn.Module) -> Tensor | None:
    """The weight that makes logits, where it is a parameter of its own and known."""
    if isinstance(model, GPT):
        return None if model.head is None else model.head.weight
    find = getattr(model, "get_output_embeddings", None)
    head, inputs = (None, None) if find is None else (find(), model.get_input_embeddings())  # type: ignore[operator]
    weight = getattr(head, "weight", None)
    is_tied = weight is not None and weight is getattr(inputs, "weight", None)
    return None if is_tied else weight


def recompute(model: nn.Module) -> bool:
    """From now on keep few activations and compute the others again for the backward pass; False where the model cannot."""
    if isinstance(model, GPT):
        model.is_recomputing = True
        return True
    return recompute_foreign(model)
