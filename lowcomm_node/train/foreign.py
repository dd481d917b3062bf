"""Models that are not ours: causal language models of the package transformers, and those of installed tasks.

A manifest holds their configuration and never code or weights: nothing is fetched and nothing of a manifest is run.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.model import ModelConfig
from lowcomm_node.train.tasks import find_task

__all__ = ["build_foreign", "inner_matrices", "recompute_foreign", "sized"]


def build_foreign(manifest: Manifest) -> nn.Module:
    """A model of kind transformers or task, on the CPU, in float32, with weights drawn from the run's seed.

    Raises ConfigError when it cannot be built here, or cannot be trained by a swarm.
    """
    config = manifest.model
    with _drawing(manifest.seed):
        if config.kind == "task":
            model = find_task(config.task).build(config.options)
        else:
            model = _causal_language_model(config)
    model = model.float()
    for name, module in model.named_modules():
        if getattr(module, "track_running_stats", False):
            raise ConfigError(
                f"model: {name} keeps running statistics, which are no parameters and so would differ between nodes; use another "
                "normalisation (LayerNorm, GroupNorm, RMSNorm)"
            )
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            raise ConfigError(f"model: the parameter {name} is frozen; make it a buffer")
        parameter.data = parameter.data.contiguous()
    return model


def sized(manifest: Manifest) -> Manifest:
    """The manifest with the number of parameters that its model really has. Raises ConfigError as ``build_foreign``."""
    parameters = sum(parameter.numel() for parameter in build_foreign(manifest).parameters())
    return dataclasses.replace(manifest, model=dataclasses.replace(manifest.model, parameters=parameters))


def inner_matrices(model: nn.Module) -> set[str]:
    """Names of all parameters but those of embeddings and of the output head."""
    head = cast("Any", model).get_output_embeddings()
    outside = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    outside |= {id(p) for p in head.parameters()} if head is not None else set()
    return {name for name, parameter in model.named_parameters() if id(parameter) not in outside}


def recompute_foreign(model: nn.Module) -> bool:
    """Switch activation checkpointing on, by the methods that models of transformers have; False where it cannot be."""
    if not getattr(model, "supports_gradient_checkpointing", True):
        return False
    for name in ("activation_checkpointing", "gradient_checkpointing"):  # since 5.20 or so, and before
        enable = getattr(model, f"{name}_enable", None)
        if enable is not None:
            enable(**{f"{name}_kwargs": {"use_reentrant": False}})
            return True
    return False


@contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """torch's global generator of the CPU begins at ``seed``, and afterwards stands where it stood."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _causal_language_model(config: ModelConfig) -> nn.Module:
    try:
        import transformers  # noqa: PLC0415 - an extra, and slow
        from huggingface_hub.errors import StrictDataclassError  # noqa: PLC0415 - comes with it
    except ImportError as error:
        raise ConfigError(
            f'model.kind = "transformers" needs the package transformers ({error}): pip install "lowcomm-node[hf]"'
        ) from error
    options = dict(config.options)
    model_type = str(options.pop("model_type"))
    # What our way of training decides, whatever the configuration says.
    options |= {"use_cache": False}
    for key in ("dtype", "torch_dtype"):
        options.pop(key, None)
    try:
        described = transformers.AutoConfig.for_model(model_type, **options)
        # It has no annotations of its own.
        model = cast("Any", transformers.AutoModelForCausalLM).from_config(
            described, dtype=torch.float32, trust_remote_code=False
        )
    except (AttributeError, ImportError, KeyError, StrictDataclassError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f'model.config: transformers {transformers.__version__} cannot build a "{model_type}" of it: {reason}'
        ) from error
    longest = getattr(described, "max_position_embeddings", None)
    if isinstance(longest, int) and longest < config.context_length:
        raise ConfigError(
            f"model.context_length = {config.context_length}, but the model of model.config has {longest} positions"
        )
    vocabulary = getattr(described, "vocab_size", None)
    if isinstance(vocabulary, int) and vocabulary < config.vocab_size:
        raise ConfigError(f"model.vocab_size = {config.vocab_size}, but the model of model.config has {vocabulary}")
    return cast("nn.Module", model)
