"""A node's whole training state in one safetensors file: what joiners download from a donor, and the tensors of a checkpoint.

Written atomically; read with every name, shape and value checked, because a donor is a stranger.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lowcomm_node.errors import StoreError
from lowcomm_node.units import RunId

__all__ = [
    "Counters",
    "TensorSpec",
    "TrainingState",
    "check_finite",
    "read_state",
    "state_bytes_bound",
    "sync_folder",
    "tensors_bytes_bound",
    "write_state",
    "write_tensors",
]

_FORMAT = "lowcomm-state-1"
_HEADER_BYTES = 4096
_HEADER_BYTES_PER_TENSOR = 512
_LARGEST_COUNT = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Where training stands."""

    progress_steps: float = 0.0
    """Swarm progress."""
    steps: int = 0
    """Own inner steps."""
    optimizer_steps: int = 0
    """Updates behind the moments, for their bias correction; a joiner takes them over with its donor's moments."""
    tokens: int = 0
    """Tokens this node has trained on."""
    data_cursor: int = 0
    """Index of the next batch of this node's stream."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What one tensor of a run's state must be."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    is_non_negative: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """Everything training needs to go on; tensors are keyed "<group>/<parameter name>"."""

    tensors: dict[str, Tensor]
    counters: Counters


def state_bytes_bound(layout: Mapping[str, TensorSpec]) -> int:
    """Upper bound of the size of a state file with these tensors."""
    return tensors_bytes_bound([math.prod(spec.shape) * spec.dtype.itemsize for spec in layout.values()])


def tensors_bytes_bound(sizes: Sequence[int]) -> int:
    """Upper bound of the size of a safetensors file with tensors of so many bytes each."""
    return sum(sizes) + _HEADER_BYTES_PER_TENSOR * len(sizes) + _HEADER_BYTES


def write_state(path: Path, state: TrainingState, run_id: RunId) -> None:
    """Replace ``path`` by this state, or leave it as it was. Raises StoreError naming the file."""
    counters = state.counters
    metadata = {
        "format": _FORMAT,
        "run_id": run_id,
        "progress_steps": repr(counters.progress_steps),
        "steps": str(counters.steps),
        "optimizer_steps": str(counters.optimizer_steps),
        "tokens": str(counters.tokens),
        "data_cursor": str(counters.data_cursor),
    }
    write_tensors(path, state.tensors, metadata)


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Replace ``path`` by these, or leave it as it was. Raises StoreError naming the file."""
    # In the same folder: a rename is atomic only within one file system.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        save_file(tensors, unfinished, metadata)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
        sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        unfinished.unlink(missing_ok=True)
        raise StoreError(f"{path}: state cannot be written: {error}") from error


def check_finite(state: TrainingState) -> None:
    """Raises StoreError naming the first tensor with a NaN or an infinity."""
    for key, tensor in state.tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise StoreError(f"{key} has values that are not finite")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; a file's own fsync does not. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_state(path: Path, run_id: RunId, layout: Mapping[str, TensorSpec]) -> TrainingState:
    """Read and verify a state file that must hold exactly these tensors.

    Refuses, with a StoreError naming the file and the first thing wrong: a size over the bound, another format or
    run, missing or additional tensors, other shapes or dtypes, values that are not finite, a negative second moment,
    counters out of range. Memory: one copy of the state.
    """
    largest = state_bytes_bound(layout)
    try:
        size = path.stat().st_size
        if size > largest:
            _refuse(path, f"{size} bytes, more than the {largest} this run's state can have")
        with safe_open(path, framework="pt") as file:
            counters = _read_counters(path, file.metadata() or {}, run_id)
            found = set(file.keys())
            for key in layout:
                if key not in found:
                    _refuse(path, f"{key} is missing")
            for key in found.difference(layout):
                _refuse(path, f"{key!r} does not belong to this run's state")
            tensors = {key: _checked(path, key, file.get_tensor(key), spec) for key, spec in layout.items()}
    except (OSError, SafetensorError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: state cannot be read: {error}") from error
    return TrainingState(tensors=tensors, counters=counters)


def _read_counters(path: Path, metadata: dict[str, str], run_id: RunId) -> Counters:
    if metadata.get("format") != _FORMAT:
        _refuse(path, f"format {metadata.get('format')!r} instead of {_FORMAT!r}")
    if metadata.get("run_id") != run_id:
        _refuse(path, f"it belongs to run {metadata.get('run_id')!r}, not {run_id!r}")
    try:
        progress_steps = float(metadata["progress_steps"])
        counts = {name: int(metadata[name]) for name in ("steps", "optimizer_steps", "tokens", "data_cursor")}
    except (KeyError, ValueError) as error:
        raise StoreError(f"{path}: state refused: counter missing or not a number: {error}") from error
    if not 0 <= progress_steps < _LARGEST_COUNT or not all(0 <= count < _LARGEST_COUNT for count in counts.values()):
        _refuse(path, "a counter is out of range")
    return Counters(progress_steps=progress_steps, **counts)


def _checked(path: Path, key: str, tensor: Tensor, spec: TensorSpec) -> Tensor:
    if tensor.dtype != spec.dtype or tuple(tensor.shape) != spec.shape:
        _refuse(path, f"{key} is {tensor.dtype} {tuple(tensor.shape)} instead of {spec.dtype} {spec.shape}")
    if not bool(torch.isfinite(tensor).all()):
        _refuse(path, f"{key} has values that are not finite")
    if spec.is_non_negative and bool((tensor < 0).any()):
        _refuse(path, f"{key} has negative values")
    return tensor


def _refuse(path: Path, reason: str) -> NoReturn:
    raise StoreError(f"{path}: state refused: {reason}")
