"""How this node computes its steps: number format, recomputation, compiler. None of it changes what is computed, beyond rounding."""

import importlib.util
import os
import shutil
from dataclasses import dataclass
from typing import Literal

import torch

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.node import DeviceSettings

__all__ = ["PLAIN", "Execution", "choose_execution"]

_COMPILERS = ("c++", "g++", "clang++")


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What the settings come to on a device."""

    is_autocast: bool = False
    """Matrix products in bfloat16."""
    recompute: Literal["never", "when_short", "always"] = "when_short"
    """Activations are computed again for the backward pass instead of being kept."""
    compile: Literal["never", "if_it_works", "always"] = "never"
    """Whether torch.compile makes the model's kernels; if_it_works: the interpreter takes over what it cannot compile."""


PLAIN = Execution()
"""float32, as the interpreter takes it."""


def choose_execution(settings: DeviceSettings, device: torch.device) -> Execution:
    """The settings on this device. Raises ConfigError for what is asked for and cannot be had here."""
    return Execution(
        is_autocast=_is_autocast(settings.autocast, device),
        recompute="always" if settings.recompute == "on" else "never" if settings.recompute == "off" else "when_short",
        compile=_compile(settings.compile, device),
    )


def _is_autocast(wish: str, device: torch.device) -> bool:
    if wish != "auto" or device.type != "cuda":
        return wish == "on"
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _compile(wish: str, device: torch.device) -> Literal["never", "if_it_works", "always"]:
    if wish == "off" or (wish == "auto" and device.type != "cuda"):
        return "never"
    if device.type == "cuda":
        tool, has_tool = "the package triton", importlib.util.find_spec("triton") is not None
    else:
        compilers = (os.environ.get("CXX", ""), *_COMPILERS)
        tool, has_tool = "a C++ compiler", any(shutil.which(name) for name in compilers if name)
    if wish == "on" and not has_tool:
        raise ConfigError(f'device.compile = "on" needs {tool}, which is not installed; use "auto" or "off"')
    if wish == "on":
        return "always"
    return "if_it_works" if has_tool else "never"
